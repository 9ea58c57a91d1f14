"""Scores recipes on examples, and searches among them: every model output is computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from ground_probe import metrics
from ground_probe.capture import keep_half
from ground_probe.capture.sites import blocks_of
from ground_probe.datasets.example import RefExample
from ground_probe.editors import Editor
from ground_probe.segmentation.recipe import Recipe
from ground_probe.segmentation.segment import Look, decide, look

Grid = Sequence[Mapping[str, Sequence[Any]]]
MARGIN = 0.004
"""A choice must gain so much mIoU over the plain one that comes first in the grid."""

_LOOKS = ("template", "step", "seeds", "contrast")


class Bench:
    """Scores recipes on examples; each look is taken once, each recipe scored once."""

    def __init__(self, editor: Editor, examples: Sequence[RefExample], seed: int = 0) -> None:
        self.editor, self.examples, self.seed = editor, examples, seed
        self.blocks = tuple(blocks_of(editor.denoiser))
        self.progress: tqdm | None = None
        self._looks: dict[tuple, list[Look]] = {}
        self._ious: dict[Recipe, Float[np.ndarray, " examples"]] = {}

    def ious(self, recipe: Recipe) -> Float[np.ndarray, " examples"]:
        """The IoU of every example."""
        if recipe not in self._ious:
            pairs = zip(self._looks_for(recipe), self.examples, strict=True)
            counts = [metrics.counts(decide(seen, recipe).mask, e.mask) for seen, e in pairs]
            self._ious[recipe] = metrics.iou(*np.array(counts).T)
            if self.progress is not None:
                self.progress.update()
        return self._ious[recipe]

    def _looks_for(self, recipe: Recipe) -> list[Look]:
        key = (*(getattr(recipe, name) for name in _LOOKS), recipe.words == "instruction")
        if key not in self._looks:
            every = {"streams": None, "attention": True, "keep": keep_half}
            self._looks[key] = [
                look(self.editor, e.image, e.expression, recipe, self.seed, **every)
                for e in self.examples
            ]
        return self._looks[key]


def search(
    bench: Bench,
    start: Recipe,
    grid: Grid,
    rows: np.ndarray,
    passes: int,
) -> Recipe:
    """The best mean IoU over some rows, group by group; near ties go to the plain values."""
    best = start
    for _ in range(passes):
        for group in grid:
            tried = [
                replace(best, **dict(zip(group, values, strict=True)))
                for values in product(*group.values())
            ]
            scores = [bench.ious(recipe)[rows].mean() for recipe in tried]
            at = int(np.argmax(scores))
            best = tried[at if scores[at] > scores[0] + MARGIN else 0]
    return best
