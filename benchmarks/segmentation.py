"""The segmenter against every other method on the same editor, and what each of its parts is worth.

    python benchmarks/segmentation.py --limit 500 --out results/segmentation

prints and writes, for each style of the generated scenes' test split:

- methods.csv     mIoU and oIoU of each method with intervals over images, its share of the ceiling,
                  the paired difference to the full method, and seconds an example
- ablation.csv    mIoU with one part taken out or changed, and the paired difference
- steps.csv       mIoU by denoising step
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

import ground_probe as gp
from ground_probe import metrics
from ground_probe.editors import random_weights
from ground_probe.evaluation.baselines import BASELINES
from ground_probe.segmentation import (
    Recipe,
    compare,
    default_recipe,
    edit_difference,
)
from ground_probe.segmentation.bench import Bench
from ground_probe.segmentation.calibrate import GRID

STYLES = ("scenes", "scenes+", "scenesg")
STEPS = (0, 1, 3, 6, 9, 13, 18, 22, 27)


def counted(editor, split, recipe: Recipe, edits: int) -> pd.DataFrame:
    """Intersection, union and seconds by example and method."""
    untrained = random_weights(editor)
    rows = []
    for at, example in enumerate(tqdm(split, desc=f"{split.dataset}: methods")):
        given = (example.image, example.expression, recipe)
        for name, run in {
            "full": partial(gp.segment, editor, *given),
            "compare": partial(compare, editor, *given),
            "random_weights": partial(gp.segment, untrained, *given),
            **({"edit_difference": partial(edit_difference, editor, *given)} if at < edits else {}),
            **{name: partial(each, editor, example) for name, each in BASELINES.items()},
        }.items():
            start = time.perf_counter()
            found = run()
            seconds = time.perf_counter() - start
            masks = found if isinstance(found, dict) else {name: found}
            for method, mask in masks.items():
                if name == "compare" and method == "full":
                    continue
                pair = metrics.counts(getattr(mask, "mask", mask), example.mask)
                rows.append((example.image_id, method, *pair, seconds))
    return pd.DataFrame(rows, columns=["image_id", "method", "inter", "union", "seconds"])


def methods_table(counts: pd.DataFrame) -> pd.DataFrame:
    """One row a method; differences are paired over the examples that both were run on."""
    counts["iou"] = metrics.iou(counts["inter"].to_numpy(), counts["union"].to_numpy())
    by_method = dict(list(counts.groupby("method")))
    full, ceiling = by_method["full"], by_method["oracle_grid"]["iou"].mean()
    rows = []
    for method, found in by_method.items():
        low, high = metrics.cluster_interval(found["iou"], found["image_id"])
        pairs = full.merge(found, on="image_id", suffixes=("_full", ""))
        rows.append(
            {
                "method": method,
                "n": len(found),
                "miou": found["iou"].mean(),
                "low": low,
                "high": high,
                "oiou": metrics.oiou(found["inter"], found["union"]),
                "of_ceiling": found["iou"].mean() / ceiling,
                **difference(pairs["iou_full"] - pairs["iou"], pairs["image_id"]),
                "seconds": found["seconds"].mean(),
            }
        )
    return pd.DataFrame(rows).sort_values("miou", ascending=False)


def difference(values: Sequence[float], groups: Sequence[str]) -> dict[str, float]:
    """The mean gain of the full method, with its interval."""
    low, high = metrics.cluster_interval(values, groups)
    return {"full_gains": float(np.mean(values)), "gain_low": low, "gain_high": high}


def variants(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """The recipe with one choice changed, each way the calibration's grid has."""
    for group in (*GRID, {"seeds": (1, 2, 4)}):
        for name, values in group.items():
            for value in values:
                if value != getattr(recipe, name):
                    yield f"{name}={value}", replace(recipe, **{name: value})


def ablation(editor, split, recipe: Recipe, named: Iterator[tuple[str, Recipe]]) -> pd.DataFrame:
    """The mIoU of variants of a recipe, each beside the recipe's own."""
    bench = Bench(editor, list(split))
    images, own = list(split.image_ids), bench.ious(recipe)
    rows = []
    for name, variant in tqdm(list(named), desc=f"{split.dataset}: ablation"):
        ious = bench.ious(variant)
        rows.append({"variant": name, "miou": ious.mean(), **difference(own - ious, images)})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--recipe", type=Path, help="default: the editor's own")
    parser.add_argument("--limit", type=int, default=500, help="test examples a style")
    parser.add_argument("--edits", type=int, default=100, help="of these with the full edit")
    parser.add_argument("--ablate", type=int, default=100, help="test examples of the ablation")
    parser.add_argument("--out", type=Path, default=Path("results/segmentation"))
    arguments = parser.parse_args()
    editor = gp.load_editor(arguments.model)
    editor.pipeline.set_progress_bar_config(disable=True)
    recipe = Recipe.from_json(arguments.recipe) if arguments.recipe else default_recipe(editor)
    tables: dict[str, list[pd.DataFrame]] = {"methods": [], "ablation": [], "steps": []}
    for style in STYLES:
        split = gp.load_split(style, "test", limit=arguments.limit)
        few = gp.load_split(style, "test", limit=arguments.ablate)
        steps = ((str(step), replace(recipe, step=step)) for step in STEPS)
        found = {
            "methods": methods_table(counted(editor, split, recipe, arguments.edits)),
            "ablation": ablation(editor, few, recipe, variants(recipe)),
            "steps": ablation(editor, few, recipe, steps),
        }
        for name, table in found.items():
            table.insert(0, "dataset", style)
            tables[name].append(table)
            print(f"\n{style}: {name}\n{table.to_string(index=False, float_format='%.3f')}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, found in tables.items():
        pd.concat(found).to_csv(arguments.out / f"{name}.csv", index=False)


if __name__ == "__main__":
    main()
