"""Choose a recipe on training data: coordinate search over a small grid, checked across images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

import ground_probe
from ground_probe import metrics
from ground_probe.datasets.example import RefExample
from ground_probe.editors import Editor
from ground_probe.errors import InputError
from ground_probe.run_record import digest
from ground_probe.segmentation.bench import Bench, Grid, search
from ground_probe.segmentation.recipe import Depth, Recipe, default_recipe
from ground_probe.segmentation.segment import needed

SIXTHS: tuple[Depth, ...] = tuple((round(at / 6, 3), round((at + 1) / 6, 3)) for at in range(6))
STREAMS = (("noise",), ("reference",), ("noise", "reference"))
GRID: Grid = (
    {
        "template": (
            "change the color of {expression} to red",
            "change the color of {expression} to white",
            "remove {expression}",
            "replace {expression} with a star",
        )
    },
    {
        "prior_depth": ((0.0, 1.0), *SIXTHS),
        "heads": ((), (0,), (1,)),
        "prior_streams": STREAMS,
    },
    {"words": ("all", "content", "instruction"), "direction": ("from_image", "from_text", "both")},
    {"propagation": (0, 1, 2), "temperature": (0.1, 0.2, 0.4)},
    {"feature_depth": SIXTHS[1:], "feature_streams": STREAMS},
    {"classifier": ("cosine", "lda"), "focus": (1.0, 2.0, 4.0), "rounds": (1, 2, 3)},
    {"prior_power": (0.0, 0.5, 1.0, 2.0)},
    {"edges": (0.0, 1.0, 1.5, 2.0), "threshold": ("otsu", "half")},
    {"peak": (0.0, 0.25, 0.5, 0.75)},
    {"prototypes": (1, 2, 4)},
    {"spatial": (0.0, 0.5, 1.0)},
    {"contrast": ("", "the object")},
)
"""For the embedded editor, whose blocks have two heads; a group's settings are tried together."""


@dataclass(frozen=True)
class Calibration:
    """A recipe and how it was chosen.

    Args:
        recipe: its provenance says on what.
        trials: one row for each choice tried at the end: `name, value, miou, gain`.
        cost: the best mIoU by the fraction of a step's blocks that is computed.
    """

    recipe: Recipe
    trials: pd.DataFrame
    cost: pd.DataFrame


def calibrate(
    editor: Editor,
    splits: Sequence[RefExample] | Sequence[Sequence[RefExample]],
    out: Path | str | None = None,
    *,
    grid: Grid = GRID,
    start: Recipe | None = None,
    folds: int = 3,
    passes: int = 1,
    seed: int = 0,
) -> Calibration:
    """Choose every setting of the segmenter on training examples.

    Each group of settings in turn takes its best values, the others held; the search is repeated
    without each fold of images, and its choice scored on that fold: that is the honest score in
    the provenance.

    Args:
        editor: from `load_editor`.
        splits: one training split or several, weighted by their lengths.
        out: the recipe's JSON file; None to write none.
        grid: groups of fields of `Recipe` with the values to try, the plain ones first.
        start: where the search begins; None for the editor's default.
        folds: of images.
        passes: over all groups.
        seed: of the noise.

    Raises:
        InputError: a split that is not for training.
    """
    splits = [splits] if hasattr(splits, "split") else list(splits)
    for split in splits:
        if split.split != "train":
            raise InputError(
                f"{split.dataset} {split.split} cannot be calibrated on: recipes are chosen on "
                "'train', so that the scores on other splits stay honest"
            )
    bench = Bench(editor, [example for split in splits for example in split], seed)
    begin = start or default_recipe(editor)
    grid = [_that_there_are(group, editor) for group in grid]
    everyone = np.arange(len(bench.examples))
    images = np.unique([example.image_id for example in bench.examples], return_inverse=True)[1]
    with tqdm(unit="recipe", desc="calibrate") as bench.progress:
        best = search(bench, begin, grid, everyone, passes)
        held_out = np.full(len(everyone), np.nan)
        for fold in range(folds):
            inside = images % folds == fold
            chosen = search(bench, begin, grid, everyone[~inside], passes)
            held_out[inside] = bench.ious(chosen)[inside]
        cost = _cost(bench, best, grid)
        trials = _trials(bench, best, grid)
    low, high = metrics.cluster_interval(held_out, images)
    provenance = {
        "method": f"coordinate search, {passes} passes, {folds} folds of images",
        "model": editor.name,
        "revision": editor.revision,
        "data": [
            {"dataset": s.dataset, "split": s.split, "revision": s.revision, "examples": len(s)}
            for s in splits
        ],
        "keys": digest([example.key for example in bench.examples]),
        "grid": digest([{name: list(values) for name, values in group.items()} for group in grid]),
        "seed": seed,
        "miou_held_out": round(float(held_out.mean()), 4),
        "miou_held_out_interval": [round(low, 4), round(high, 4)],
        "miou_in_sample": round(float(bench.ious(best).mean()), 4),
        "ground_probe": ground_probe.__version__,
    }
    recipe = replace(best, provenance=provenance)
    if out is not None:
        recipe.to_json(out)
    return Calibration(recipe, trials, cost)


def _trials(bench: Bench, best: Recipe, grid: Grid) -> pd.DataFrame:
    """What each other value of each setting would have cost, all else as chosen."""
    chosen = bench.ious(best).mean()
    rows = []
    for name, values in (item for group in grid for item in group.items()):
        for value in values:
            miou = bench.ious(replace(best, **{name: value})).mean()
            rows.append({"name": name, "value": value, "miou": miou, "gain": miou - chosen})
    return pd.DataFrame(rows)


def _cost(bench: Bench, best: Recipe, grid: Grid) -> pd.DataFrame:
    """The best mIoU when the forward pass may only go so deep."""
    values = {name: each for group in grid for name, each in group.items()}
    rows = []
    for end in sorted({high for _, high in values["feature_depth"]}):
        shallow = {
            name: [depth for depth in values[name] if depth[1] <= end]
            for name in ("prior_depth", "feature_depth")
        }
        start = replace(best, **{name: depths[-1] for name, depths in shallow.items()})
        found = search(bench, start, [shallow], np.arange(len(bench.examples)), passes=1)
        last = bench.blocks.index(needed(bench.blocks, found)[-1])
        rows.append(
            {
                "fraction": (last + 1) / len(bench.blocks),
                "miou": bench.ious(found).mean(),
                "prior_depth": found.prior_depth,
                "feature_depth": found.feature_depth,
            }
        )
    return pd.DataFrame(rows)


def _that_there_are(group: Mapping[str, Sequence[Any]], editor: Editor) -> dict[str, Sequence[Any]]:
    """Without streams that the editor does not have."""
    there = set(editor.family.streams)
    return {
        name: [v for v in values if not name.endswith("streams") or set(v) <= there]
        for name, values in group.items()
    }
