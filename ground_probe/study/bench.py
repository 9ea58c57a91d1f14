"""Scores recipes on examples, and searches among them: every forward pass is made once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

import ground_probe
from ground_probe import metrics, stats
from ground_probe.capture import Trace, keep_half, trace
from ground_probe.capture.sites import blocks_of
from ground_probe.datasets.example import RefExample
from ground_probe.editors import Editor, fill
from ground_probe.errors import InputError, PhraseError
from ground_probe.io import digest, seed_of
from ground_probe.segmentation.forward import gives_change
from ground_probe.segmentation.recipe import Recipe
from ground_probe.segmentation.segment import segment_traces

Grid = Sequence[Mapping[str, Sequence[Any]]]
Ious = Float[np.ndarray, " examples"]
Rows = Int[np.ndarray, " rows"]
Images = Int[np.ndarray, " examples"]
MARGIN = 0.004
"""A choice must gain so much mIoU over the plain one that comes first in the grid."""

_KEPT = 8  # kinds of traces that are held


class Bench:
    """Scores recipes on examples; each forward pass is made once, each recipe scored once.

    Traces keep every block and stream in half precision, and only the latest few kinds of them are
    held: recipes that share a template had best come together. They keep the given denoising steps,
    for recipes that differ in them, or the recipe's own.
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
        self._traces: dict[tuple, list[Trace]] = {}
        self._ious: dict[Recipe, Ious] = {}

    def ious(self, recipe: Recipe, rows: Rows | None = None) -> Ious:
        """The IoU of some examples, or of every one; what was scored before is not scored again."""
        known = self._ious.setdefault(recipe, np.full(len(self.examples), np.nan))
        rows = np.arange(len(known)) if rows is None else rows
        missing = rows[np.isnan(known[rows])]
        if len(missing):
            known[missing] = self._scored(recipe, missing)
            self.bar.update()
        return known[rows]

    def _scored(self, recipe: Recipe, rows: Rows) -> Ious:
        traces, examples = self.traces(recipe), [self.examples[at] for at in rows]
        segmentations = segment_traces(
            [traces[at] for at in rows],
            self.blocks,
            [each.image for each in examples],
            [each.expression for each in examples],
            recipe,
        )
        pixels = [
            metrics.counts(m.mask, e.mask) for m, e in zip(segmentations, examples, strict=True)
        ]
        return np.array([metrics.iou(*each) for each in pixels])

    def traces(self, recipe: Recipe) -> list[Trace]:
        """Every example's forward pass on a recipe's template, all blocks kept."""
        steps = self.steps or (recipe.step,)
        key = (recipe.template, steps, recipe.propagation)
        if key not in self._traces:
            while len(self._traces) >= _KEPT:
                del self._traces[next(iter(self._traces))]
            examples = tqdm(self.examples, desc=f"forward: {recipe.template}", leave=False)
            self._traces[key] = [self._trace(each, recipe, steps) for each in examples]
        self._traces[key] = self._traces.pop(key)
        return self._traces[key]

    def _trace(self, example: RefExample, recipe: Recipe, steps: tuple[int, ...]) -> Trace:
        instruction, phrase = fill(recipe.template, example.expression)
        return trace(
            self.editor,
            example.image,
            instruction,
            phrase,
            steps=steps,
            propagate=recipe.propagation,
            attention_output=True,
            prediction=gives_change(self.editor),
            reduce=keep_half,
            seed=seed_of(example.key, self.seed),
        )


def search(bench: Bench, start: Recipe, grid: Grid, rows: Rows) -> Recipe:
    """The best mean IoU over some rows, group by group; near ties go to the plain values."""
    best = start
    for group in grid:
        best = best_of(bench, variants_of(best, group), rows)
    return best


def variants_of(recipe: Recipe, group: Mapping[str, Sequence[Any]]) -> Iterator[Recipe]:
    """A recipe with every combination of some values; those that fit together only."""
    for values in product(*group.values()):
        chosen = dict(zip(group, values, strict=True))
        if chosen.get("classifier") == "none" or chosen.get("product"):
            chosen["cut"] = "half"
        with suppress(InputError):
            yield replace(recipe, **chosen)


def best_of(bench: Bench, recipes: Iterable[Recipe], rows: Rows) -> Recipe:
    """The recipe of the best mean IoU over some rows; the first one where the gain is small.

    One that makes the instruction of some example too long for the editor is none; if all do,
    PhraseError is raised.
    """
    tried, scores, too_long = list(recipes), [], None
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


def in_folds(
    images: Int[np.ndarray, " examples"], folds: int
) -> list[Bool[np.ndarray, " examples"]]:
    """The examples of each fold of images.

    Raises:
        InputError: fewer images than folds, or less than two.
    """
    count = images.max() + 1
    if not 2 <= folds <= count:
        raise InputError(f"{folds} folds of {count} images: give 2 or more of each")
    return [images % folds == fold for fold in range(folds)]


def provenance(
    method: str,
    editor: Editor,
    examples: Sequence[RefExample],
    seed: int,
    held_out: Ious,
    images: Images,
) -> dict[str, Any]:
    """How a recipe was chosen, with its score on images that did not choose it."""
    low, high = stats.cluster_interval(held_out, images)
    return {
        "method": method,
        "model": editor.name,
        "revision": editor.revision,
        "n": len(examples),
        "keys": digest([example.key for example in examples]),
        "seed": seed,
        "miou_held_out": round(float(held_out.mean()), 4),
        "miou_held_out_interval": [round(low, 4), round(high, 4)],
        "ground_probe": ground_probe.__version__,
    }
