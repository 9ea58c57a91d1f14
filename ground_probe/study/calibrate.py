"""Choose a recipe on training data: blocks, heads and settings, checked across images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from ground_probe import stats
from ground_probe.datasets.example import Split
from ground_probe.editors import Editor
from ground_probe.errors import InputError
from ground_probe.io import digest, whole_file
from ground_probe.segmentation.forward import blocks_read, gives_change
from ground_probe.segmentation.recipe import Depth, Recipe
from ground_probe.segmentation.recipes import recipe_for
from ground_probe.study.bench import Bench, Grid, best_of, in_folds, provenance, search
from ground_probe.study.head_search import HeadSearch

COST_MARGIN = 0.01
"""Of the mIoU, given up for a forward pass that stops earlier."""
HEAD_SETS = 6
"""Sets of heads that are scored, best first by their agreement with the masks."""

_ENDS = 6  # depths at which the forward pass may stop
PLAIN = Recipe(
    prior_depth=(0.3, 0.8), normalize=True, propagation=0, classifier="lda", seeds="soft",
    states="block", standardize=True, feature_depth=(0.5, 0.8), cut="half",
)  # fmt: skip
"""Where the search begins, with an editor's streams: the packaged recipe has seen every fold."""
STREAMS = (("noise",), ("reference",), ("noise", "reference"))
TEMPLATES = (
    "change the color of {expression} to red",
    "change the color of {expression} to white",
    "remove {expression}",
)


def plain_for(editor: Editor) -> Recipe:
    """The plain recipe of an editor, which has seen no mask: where calibration begins."""
    there = editor.family.streams
    streams = tuple(name for name in ("noise", "reference") if name in there)
    return replace(PLAIN, prior_streams=streams, feature_streams=streams)


def _intervals(width: int) -> tuple[Depth, ...]:
    """Intervals of so many sixths of the depth."""
    starts = range(_ENDS + 1 - width)
    return tuple((round(at / _ENDS, 3), round((at + width) / _ENDS, 3)) for at in starts)


ENDS = _intervals(1)
DEPTHS = (*ENDS, *_intervals(2))
GRID: Grid = (
    {"propagation": (0, 1)},
    {"states": ("block", "attention"), "standardize": (True, False)},
    {"feature_depth": DEPTHS, "feature_streams": STREAMS},
    {"classifier": ("none", "cosine", "lda"), "seeds": ("soft", "hard")},
    {"product": (False, True)},
    {"cut": ("half", "zero")},
    {"edges": (0.0, 1.0, 1.5, 2.0)},
)
"""A group's settings are tried together, the plain ones first."""
_BEFORE_FEATURES = 3  # groups of the grid


class Calibration(NamedTuple):
    """A recipe and how it was chosen.

    Args:
        recipe: its provenance says on what.
        curve: `fraction` of a step's blocks that is computed, its `last_block`, the held-out `miou`
            of the best recipe that reads no further, with `low` and `high` over images, `n`, and
            whether it is the `chosen` one.
    """

    recipe: Recipe
    curve: pd.DataFrame


def calibrate(
    editor: Editor,
    splits: Split | Sequence[Split],
    out: Path | str | None = None,
    *,
    templates: Sequence[str] = TEMPLATES,
    grid: Grid = GRID,
    folds: int = 3,
    seed: int = 0,
) -> Calibration:
    """Choose every setting of the segmenter on training examples.

    Heads come first, by their agreement with the masks, and each group of settings in turn takes
    its best values, the others held. Then the forward pass is cut short as far as it costs less
    than `COST_MARGIN`. All of that is repeated without each fold of images, and its choice scored
    on that fold: the honest score in the provenance, and the honest curve.

    Args:
        editor: from `load_editor`.
        splits: one training split or several, weighted by their lengths.
        out: the recipe's JSON file; the curve is written beside it, as `.curve.csv`. None to write
            neither.
        templates: instructions with one `{expression}`.
        grid: groups of fields of `Recipe` with the values to try, the plain ones first.
        folds: of images, at least 2.
        seed: of the noise.
    """
    splits = [splits] if isinstance(splits, Split) else list(splits)
    refuse_other_than_train(splits)
    examples = [
        example
        for split in splits
        for example in tqdm(split, desc=f"read {split.dataset}", leave=False)
    ]
    bench = Bench(editor, examples, seed)
    inside_folds = in_folds(bench.images, folds)
    there = set(editor.family.streams)
    streams = tuple(each for each in STREAMS if set(each) <= there)
    usable = [
        {
            name: [v for v in values if not name.endswith("streams") or set(v) <= there]
            for name, values in group.items()
        }
        for group in grid
    ]
    chooser = _Chooser(bench, templates, usable, HeadSearch(bench, streams))
    rows = np.arange(len(examples))
    best, by_end = chooser.choose(rows)
    held_out = np.full(len(rows), np.nan)
    held_out_by_end = np.full((len(by_end), len(rows)), np.nan)
    for inside in tqdm(inside_folds, desc="folds", leave=False):
        chosen, ends = chooser.choose(rows[~inside])
        held_out[inside] = bench.ious(chosen, rows[inside])
        for at, recipe in enumerate(ends):
            held_out_by_end[at, inside] = bench.ious(recipe, rows[inside])
    bench.bar.close()
    method = f"heads by agreement with the masks; coordinate search; {folds} folds of images"
    record = provenance(method, editor, examples, seed, held_out, bench.images) | {
        "data": [
            {"dataset": s.dataset, "split": s.split, "revision": s.revision, "examples": len(s)}
            for s in splits
        ],
        "folds": folds,
        "grid": digest([templates, *grid]),
        "miou_in_sample": round(float(bench.ious(best).mean()), 4),
        "miou_change": _of_change(bench),
        "fraction_of_step": round(fraction(bench.blocks, best), 4),
    }
    recipe = replace(best, provenance=record)
    curve = _curve(bench, chooser.ends, held_out_by_end, best)
    if out is not None:
        recipe.to_json(out)
        with whole_file(curve_path(out)) as part:
            curve.to_csv(part, index=False)
    return Calibration(recipe, curve)


def _of_change(bench: Bench) -> float | None:
    """What the recipe `change` has on the same examples; None where an editor gives no change."""
    if not gives_change(bench.editor):
        return None
    return round(float(bench.ious(recipe_for(bench.editor, "change")).mean()), 4)


def fraction(blocks: Sequence[str], recipe: Recipe) -> float:
    """The share of a step's blocks that are computed for a recipe."""
    return (blocks.index(blocks_read(blocks, recipe)[-1]) + 1) / len(blocks)


def curve_path(recipe: Path | str) -> Path:
    """Where the curve of a calibrated recipe lies: beside it."""
    return Path(recipe).with_suffix(".curve.csv")


@dataclass(frozen=True)
class _Chooser:
    """The search, to be run on all examples and without each fold."""

    bench: Bench
    templates: Sequence[str]
    grid: Grid
    heads: HeadSearch

    @property
    def ends(self) -> list[int]:
        """Numbers of the blocks after which the forward pass may stop."""
        count = len(self.bench.blocks)
        return sorted({-(-count * at // _ENDS) - 1 for at in range(1, _ENDS + 1)})

    def choose(self, rows: np.ndarray) -> tuple[Recipe, list[Recipe]]:
        """The recipe for some examples, and the best that stops after each end.

        Features are chosen for what they are worth by themselves, with the stronger classifier.
        """
        plain = plain_for(self.bench.editor)
        of_templates = [replace(plain, template=template) for template in self.templates]
        pointed = [next(self.heads.best(each, rows, 1)) for each in of_templates]
        best = best_of(self.bench, pointed, rows)
        best = best_of(self.bench, self.heads.best(best, rows, HEAD_SETS), rows)
        best = search(self.bench, best, self.grid, rows)
        best = best_of(self.bench, (best, *self.heads.best(best, rows, HEAD_SETS)), rows)
        by_end = [self._until(best, end, rows) for end in self.ends]
        scores = np.array([self.bench.ious(recipe, rows).mean() for recipe in by_end])
        # The first that is good enough: the ends ascend.
        best = by_end[int(np.argmax(scores >= scores.max() - COST_MARGIN))]
        return search(self.bench, best, self.grid[_BEFORE_FEATURES:], rows), by_end

    def _until(self, best: Recipe, end: int, rows: np.ndarray) -> Recipe:
        """The best recipe that reads no block after one."""
        blocks, until = self.bench.blocks, (end + 1) / len(self.bench.blocks)
        depths = [d for d in ENDS if d[1] <= until + 0.01] if best.compares else []
        tried = [
            replace(heads, feature_depth=depth)
            for heads in (best, *self.heads.best(best, rows, 1, until))
            for depth in (best.feature_depth, *depths)
        ]
        fits = [recipe for recipe in tried if fraction(blocks, recipe) <= until]
        return best_of(self.bench, fits, rows)


def _curve(bench: Bench, ends: Sequence[int], held_out: np.ndarray, best: Recipe) -> pd.DataFrame:
    rows = []
    for end, ious in zip(ends, held_out, strict=True):
        at = (end + 1) / len(bench.blocks)
        low, high = stats.cluster_interval(ious, bench.images)
        rows.append((at, bench.blocks[end], ious.mean(), low, high, len(ious)))
    curve = pd.DataFrame(rows, columns=["fraction", "last_block", "miou", "low", "high", "n"])
    reached = curve["fraction"] >= fraction(bench.blocks, best) - 1e-9
    return curve.assign(chosen=reached & ~reached.shift(fill_value=False))


def refuse_other_than_train(splits: Sequence[Split]) -> None:
    """Raise InputError for a split that scores are reported on."""
    for split in splits:
        if split.split != "train":
            raise InputError(
                f"{split.dataset} {split.split} cannot be calibrated on: recipes are chosen on "
                "'train', so that the scores on other splits stay honest"
            )
