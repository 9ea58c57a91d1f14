"""The segmenter against every other method on the same editor, and the time of each.

    python benchmarks/segmentation.py --limit 500 --edits 100 --out results/segmentation

prints and writes, for each style of the generated scenes' test split, `methods.csv`: mIoU and oIoU
of each method with intervals over images, its share of the ceiling (`oracle_grid`), the gain of the
full method over it, paired over the examples that both were run on, and seconds an example. The
time of the full edit and that of the segmenter are taken in turns, example by example.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import pandas as pd
from tqdm import tqdm

import ground_probe as gp
from ground_probe import metrics
from ground_probe.capture.sites import blocks_of
from ground_probe.editors import random_weights
from ground_probe.evaluation.baselines import BASELINES
from ground_probe.segmentation import compare, edit_difference, recipe_for
from ground_probe.study.calibrate import fraction

STYLES = ("scenes", "scenes+", "scenesg")


def counted(editor, split, recipe, edits: int) -> pd.DataFrame:
    """Intersection, union and seconds by example and method."""
    untrained = random_weights(editor)
    rows = []
    gp.segment(editor, split[0].image, split[0].expression, recipe)  # the first call is slower
    for at, example in enumerate(tqdm(split, desc=f"{split.dataset}: methods")):
        given = (example.image, example.expression, recipe)
        runs = {
            "full": partial(gp.segment, editor, *given),
            "compare": partial(compare, editor, *given),
            "random_weights": partial(gp.segment, untrained, *given),
            **{name: partial(each, editor, example) for name, each in BASELINES.items()},
        }
        if at < edits:
            runs["edit_difference"] = partial(edit_difference, editor, *given)
        for name, run in runs.items():
            start = time.perf_counter()
            found = run()
            seconds = time.perf_counter() - start
            masks = found if isinstance(found, dict) else {name: found}
            for method, mask in masks.items():
                if name == "compare" and method == "full":
                    continue
                pair = metrics.counts(getattr(mask, "mask", mask), example.mask)
                rows.append((example.key, example.image_id, method, *pair, seconds))
    columns = ["key", "image_id", "method", "inter", "union", "seconds"]
    return pd.DataFrame(rows, columns=columns)


def methods_table(counts: pd.DataFrame) -> pd.DataFrame:
    """One row a method, best first."""
    counts["iou"] = metrics.iou(counts["inter"].to_numpy(), counts["union"].to_numpy())
    by_method = dict(list(counts.groupby("method")))
    full = by_method["full"][["key", "iou"]]
    ceiling = by_method["oracle_grid"]["iou"].mean()
    rows = []
    for method, found in by_method.items():
        low, high = metrics.cluster_interval(found["iou"], found["image_id"])
        pairs = found.merge(full, on="key", suffixes=("", "_full"))
        gains = pairs["iou_full"] - pairs["iou"]
        gain_low, gain_high = metrics.cluster_interval(gains, pairs["image_id"])
        rows.append(
            {
                "method": method,
                "n": len(found),
                "miou": found["iou"].mean(),
                "low": low,
                "high": high,
                "oiou": metrics.oiou(found["inter"], found["union"]),
                "of_ceiling": found["iou"].mean() / ceiling,
                "full_gains": gains.mean(),
                "gain_low": gain_low,
                "gain_high": gain_high,
                "seconds": found["seconds"].mean(),
            }
        )
    return pd.DataFrame(rows).sort_values("miou", ascending=False, ignore_index=True)


def ratio(counts: pd.DataFrame) -> float:
    """How many times the segmenter's time the full edit takes, on the examples that had both."""
    both = counts.pivot(index="key", columns="method", values="seconds")
    both = both.dropna(subset="edit_difference")
    return both["edit_difference"].median() / both["full"].median()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--recipe", type=Path, help="default: the editor's own")
    parser.add_argument("--limit", type=int, default=500, help="test examples a style")
    parser.add_argument("--edits", type=int, default=100, help="of these with the full edit")
    parser.add_argument("--out", type=Path, default=Path("results/segmentation"))
    arguments = parser.parse_args()
    editor = gp.load_editor(arguments.model)
    editor.pipeline.set_progress_bar_config(disable=True)
    recipe = recipe_for(editor, arguments.recipe)
    blocks = tuple(blocks_of(editor.denoiser))
    print(f"recipe {recipe.digest}: {fraction(blocks, recipe):.0%} of a step's blocks")
    tables = []
    for style in STYLES:
        counts = counted(
            editor, gp.load_split(style, "test", limit=arguments.limit), recipe, arguments.edits
        )
        table = methods_table(counts)
        table.insert(0, "dataset", style)
        if arguments.edits:
            table["edit_over_segment"] = ratio(counts)
        tables.append(table)
        print(f"\n{style}\n{table.to_string(index=False, float_format='%.3f')}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    pd.concat(tables).to_csv(arguments.out / "methods.csv", index=False)


if __name__ == "__main__":
    main()
