"""Which tokens of an image are kept, and what each of them shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ground_probe.capture import keep_half, keep_projection
from ground_probe.datasets.example import RefExample
from ground_probe.geometry import Geometry
from ground_probe.probes.table import on_level, token_labels
from ground_probe.study.spec import chance


@dataclass(frozen=True, eq=False)
class Tokens:
    """A balanced sample of an image's tokens.

    Args:
        place: index of each token on the grid, row by row, ascending.
        target: lies on the referent.
        distractor: lies on another object.
        rest: drawn from everything that is not the referent, as it comes.
        grid: (rows, columns).
    """

    place: Int[np.ndarray, " kept"]
    target: Bool[np.ndarray, " kept"]
    distractor: Bool[np.ndarray, " kept"]
    rest: Bool[np.ndarray, " kept"]
    grid: tuple[int, int]

    def on(self, tokens: int) -> Int[np.ndarray, " kept"]:
        """Where the same places lie on a level of a UNet with so many tokens."""
        return on_level(self.place, self.grid, tokens)


def sample_tokens(geometry: Geometry, example: RefExample, count: int) -> Tokens:
    """Draw at most `count` tokens of the referent, of the other objects and of the rest.

    `token_labels` says which they are. The draw depends on the example's key alone, so that all
    steps, conditions and editors of one grid are asked about the same tokens.
    """
    target, distractor, rest = token_labels(geometry, example.mask, example.distractors)
    rng = np.random.default_rng(chance(example.key, "tokens"))
    drawn = []
    for pool in (target, distractor, rest):
        chosen = np.zeros_like(pool)
        chosen[rng.permutation(np.flatnonzero(pool))[:count]] = True
        drawn.append(chosen)
    place = np.flatnonzero(np.any(drawn, axis=0))
    # A token of the rest that lies on another object is a distractor as well.
    return Tokens(place, drawn[0][place], distractor[place], drawn[2][place], geometry.grid)


@dataclass(frozen=True, eq=False)
class KeepSampled:
    """The reducer: sampled tokens, projected where they are wide, in half precision."""

    tokens: Tokens
    width: int

    def __call__(self, hidden: Float[Tensor, "tokens dim"]) -> Float[Tensor, "kept width"]:
        """Reduce a hidden state on its device."""
        kept = hidden[torch.from_numpy(self.tokens.on(len(hidden))).to(hidden.device)]
        return keep_half(keep_projection(self.width)(kept) if kept.shape[1] > self.width else kept)
