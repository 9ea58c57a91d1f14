"""Reducers for `reduce=`: what is left of a hidden state before it leaves the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ground_probe.errors import InputError


@dataclass(frozen=True)
class keep_tokens:
    """Keep a fixed random sample of the tokens, the same at every site of equal length.

    >>> keep_tokens(2, seed=0)(torch.zeros(5, 3)).shape
    torch.Size([2, 3])
    """

    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"keep_tokens({self.count}): keep at least one token")

    def index(self, tokens: int) -> Int[Tensor, " kept"]:
        """Which of so many tokens are kept, ascending."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(tokens, generator=generator)[: self.count].sort().values

    def __call__(self, hidden: Float[Tensor, "tokens dim"]) -> Float[Tensor, "kept dim"]:
        """The sampled rows."""
        return hidden[self.index(len(hidden)).to(hidden.device)]


@dataclass(frozen=True)
class keep_projection:
    """Project onto random orthogonal-ish directions that keep distances (Johnson-Lindenstrauss)."""

    dim: int
    seed: int = 0

    def __call__(self, hidden: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens kept"]:
        """The projected rows, in float32."""
        generator = torch.Generator().manual_seed(self.seed)
        matrix = torch.randn(hidden.shape[1], self.dim, generator=generator) / self.dim**0.5
        return hidden.float() @ matrix.to(hidden.device)


def keep_half(hidden: Shaped[Tensor, "*any"]) -> Shaped[Tensor, "*any"]:
    """Keep half precision, clipped to its range."""
    return hidden.clamp(-65504, 65504).to(torch.float16)
