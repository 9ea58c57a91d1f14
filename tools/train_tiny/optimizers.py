"""How training steps: Muon for the blocks' matrices, AdamW for all else."""

from __future__ import annotations

import torch
from diffusers import FluxKontextPipeline
from jaxtyping import Float
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MOMENTUM = 0.95


def orthogonalized(gradient: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """The gradient with its singular values drawn towards 1, by five Newton-Schulz iterations.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers", and its coefficients.
    """
    a, b, c = _COEFFICIENTS
    x = gradient / gradient.norm().clamp(min=1e-7)
    if tall := x.shape[0] > x.shape[1]:
        x = x.mT
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` in single precision.

    Torch's own iterates in bfloat16, which takes a third of a training step on processors that
    have to emulate it, and less than a tenth in single precision.
    """

    def __init__(self, params: list[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Move every matrix along its orthogonalized Nesterov momentum."""
        for group in self.param_groups:
            for matrix in group["params"]:
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                momentum = state["momentum_buffer"].lerp_(matrix.grad, 1 - _MOMENTUM)
                update = orthogonalized(matrix.grad.lerp(momentum, _MOMENTUM))
                stretch = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * stretch)


def optimizers(pipeline: FluxKontextPipeline) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for everything else that understands the instruction."""
    matrices, rest = [], []
    for module in (pipeline.transformer, pipeline.text_encoder_2, pipeline.text_encoder):
        for name, parameter in module.named_parameters():
            in_block = "block" in name and "relative_attention" not in name
            (matrices if in_block and parameter.ndim == 2 else rest).append(parameter)
    return [
        Muon(matrices, lr=0.01, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=2e-3, weight_decay=0.0, betas=(0.9, 0.98)),
    ]
