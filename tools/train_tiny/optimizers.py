"""How training steps: Muon for the blocks' matrices, AdamW for all else."""

from __future__ import annotations

from itertools import groupby

import torch
from diffusers import FluxKontextPipeline
from jaxtyping import Float
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MOMENTUM = 0.95


def orthogonalized(
    gradients: Float[Tensor, "matrices rows columns"],
) -> Float[Tensor, "matrices rows columns"]:
    """Gradients with their singular values drawn towards 1, by five Newton-Schulz iterations.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers", and its coefficients.
    """
    a, b, c = _COEFFICIENTS
    x = gradients / gradients.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    if tall := x.shape[1] > x.shape[2]:
        x = x.mT
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` in single precision, all matrices of one shape at once.

    Torch's own iterates in bfloat16, which processors emulate, and matrix by matrix, which leaves a
    GPU idle: a small editor has a hundred small matrices.
    """

    def __init__(
        self, params: list[torch.nn.Parameter], lr: float | Tensor, weight_decay: float
    ) -> None:
        by_shape = sorted(params, key=lambda matrix: matrix.shape)
        super().__init__(by_shape, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Move every matrix along its orthogonalized Nesterov momentum."""
        for group in self.param_groups:
            for shape, alike in groupby(group["params"], key=lambda matrix: matrix.shape):
                matrices = list(alike)
                for matrix in matrices:
                    if not self.state[matrix]:
                        self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
                gradients = torch.stack([matrix.grad for matrix in matrices])
                momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
                torch._foreach_lerp_(momenta, list(gradients), 1 - _MOMENTUM)
                updates = orthogonalized(gradients.lerp(torch.stack(momenta), _MOMENTUM))
                stretch = max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_sub_(matrices, list(updates * (group["lr"] * stretch)))


def optimizers(pipeline: FluxKontextPipeline) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for everything else that understands the instruction.

    Their rates are tensors, to be changed in place.
    """
    matrices, rest = [], []
    for module in (pipeline.transformer, pipeline.text_encoder_2, pipeline.text_encoder):
        for name, parameter in module.named_parameters():
            in_block = "block" in name and "relative_attention" not in name
            (matrices if in_block and parameter.ndim == 2 else rest).append(parameter)
    device = matrices[0].device
    muon, adam = torch.tensor([0.01, 2e-3], device=device)
    return [
        Muon(matrices, lr=muon, weight_decay=0.01),
        torch.optim.AdamW(
            rest,
            lr=adam,
            weight_decay=0.0,
            betas=(0.9, 0.98),
            fused=True,
            capturable=device.type == "cuda",
        ),
    ]
