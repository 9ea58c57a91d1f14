"""Scores recipes on examples, and searches among them: every model output is computed once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from ground_probe import metrics
from ground_probe.capture import Trace, keep_half
from ground_probe.capture.sites import Captured, blocks_of
from ground_probe.datasets.example import RefExample
from ground_probe.editors import Editor
from ground_probe.errors import PhraseError
from ground_probe.segmentation.look import Look, look
from ground_probe.segmentation.recipe import Recipe
from ground_probe.segmentation.segment import decide

Grid = Sequence[Mapping[str, Sequence[Any]]]
Ious = Float[np.ndarray, " examples"]
Rows = Int[np.ndarray, " rows"]
MARGIN = 0.004
"""A choice must gain so much mIoU over the plain one that comes first in the grid."""

_LOOKS = ("template", "magnets", "seeds", "contrast", "prior_from")
_KEPT = 8


class Bench:
    """Scores recipes on examples; each look is taken once, each recipe scored once.

    Looks keep every block and stream in half precision, and only the latest few kinds of them are
    held: recipes that share template, step, noise and contrast had best come together.

    Args:
        editor: from `load_editor`.
        examples: what recipes are scored on.
        seed: of the noise.
        steps: denoising steps that every look keeps, for recipes that differ in them; none: the
            recipe's own.
    """

    def __init__(
        self,
        editor: Editor,
        examples: Sequence[RefExample],
        seed: int = 0,
        steps: tuple[int, ...] = (),
    ) -> None:
        self.editor, self.examples, self.seed, self.steps = editor, examples, seed, steps
        self.blocks = tuple(blocks_of(editor.denoiser))
        self.images = np.unique([each.image_id for each in examples], return_inverse=True)[1]
        self.bar = tqdm(unit="recipe", desc="recipes scored", leave=False)
        self._looks: dict[tuple, list[Look]] = {}
        self._ious: dict[Recipe, Ious] = {}

    def ious(self, recipe: Recipe, rows: Rows | None = None) -> Ious:
        """The IoU of some examples, or of every one; what was scored before is not scored again."""
        known = self._ious.setdefault(recipe, np.full(len(self.examples), np.nan))
        rows = np.arange(len(known)) if rows is None else rows
        missing = rows[np.isnan(known[rows])]
        if len(missing):
            looks = self.looks(recipe)
            for at in missing:
                found = decide(looks[at], recipe).mask
                known[at] = metrics.iou(*metrics.counts(found, self.examples[at].mask))
            self.bar.update()
        return known[rows]

    def looks(self, recipe: Recipe) -> list[Look]:
        """What the editor saw of every example."""
        attends = bool(recipe.propagation) and recipe.affinity == "attention"
        steps = self.steps or (recipe.step,)
        whole = recipe.words == "instruction"
        key = (*(getattr(recipe, name) for name in _LOOKS), steps, whole, attends)
        if key not in self._looks:
            while len(self._looks) >= _KEPT:
                del self._looks[next(iter(self._looks))]
            examples = tqdm(self.examples, desc=f"look: {recipe.template}", leave=False)
            self._looks[key] = [self._look(each, recipe, steps) for each in examples]
        self._looks[key] = self._looks.pop(key)
        return self._looks[key]

    def _look(self, example: RefExample, recipe: Recipe, steps: tuple[int, ...]) -> Look:
        given = {
            "streams": None,
            "attention": True,
            "reduce": keep_half,
            "blocks": "all",
            "steps": steps,
        }
        seen = look(self.editor, example.image, example.expression, recipe, self.seed, **given)
        return replace(seen, traces=_lean(seen.traces), nulls=_lean(seen.nulls))


def search(
    bench: Bench,
    start: Recipe,
    grid: Grid,
    rows: Rows,
    passes: int = 1,
) -> Recipe:
    """The best mean IoU over some rows, group by group; near ties go to the plain values."""
    best = start
    for _ in range(passes):
        for group in grid:
            tried = (
                replace(best, **dict(zip(group, values, strict=True)))
                for values in product(*group.values())
            )
            best = best_of(bench, tried, rows)
    return best


def best_of(bench: Bench, recipes: Iterable[Recipe], rows: Rows) -> Recipe:
    """The recipe of the best mean IoU over some rows; the first one where the gain is small.

    Raises:
        PhraseError: with every recipe the instruction of some example is too long for the editor.
    """
    tried = list(recipes)
    scores, too_long = [], None
    for recipe in tried:
        try:
            scores.append(bench.ious(recipe, rows).mean())
        except PhraseError as error:
            scores.append(-np.inf)
            too_long = error
    if too_long and np.isneginf(scores).all():
        raise too_long
    at = int(np.argmax(scores))
    return tried[at if scores[at] > scores[0] + MARGIN else 0]


def _lean(traces: tuple[Trace, ...]) -> tuple[Trace, ...]:
    """Attention in half precision too; between image tokens, its mean over heads is enough."""
    return tuple(
        replace(
            each,
            attention=_halved(each.attention),
            attention_from_text=_halved(each.attention_from_text),
            affinity=Captured({s: keep_half(a.mean(0, True)) for s, a in each.affinity.items()}),
        )
        for each in traces
    )


def _halved(maps: Captured) -> Captured:
    return Captured({site: keep_half(each) for site, each in maps.items()})
