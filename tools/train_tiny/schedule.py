"""What training does when: its stages, and how much of everything a device can take."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A part of the editor's training."""

    name: str
    until: float  # share of the whole time at which it ends
    pure_noise: float  # share of examples at sigma = 1, where only language can explain the edit
    noise_tokens: float  # share of the noise tokens that are there; at sigma = 1 they are all alike
    is_even: bool = False  # at sigma = 1, a token counts the same in all edits of its scene


STAGES = (Stage("finding", 0.7, 0.85, 0.375), Stage("drawing", 1.0, 0.65, 1.0))
"""Of training from nothing: the shipped weights' first run."""
GOING_ON = (
    Stage("finding", 0.7, 0.8, 0.375, is_even=True),
    Stage("drawing", 1.0, 0.65, 1.0, is_even=True),
)
"""Of training from weights: the shipped weights' second run."""
RATE_GOING_ON = 0.7
"""Of the learning rates, where weights go on."""


@dataclass(frozen=True)
class Scale:
    """How much of everything a device can take."""

    scenes: int  # in a batch, with a few edits each
    pool: int  # scenes that are kept
    first: int  # scenes that are there before the first step; as many chunks may wait
    workers: int  # processes that draw scenes


SCALES = {
    "cpu": Scale(16, 2**13, 2**8, 1),
    "cuda": Scale(96, 200_000, 2**12, max(1, (os.cpu_count() or 2) - 2)),
}
