"""A figure of where the embedded editor fails, from the breakdown that `score` writes.

python -m tools.train_tiny.failures runs/scores/breakdown.csv failures.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest

from ground_probe.datasets import cartoons

QUESTIONS = {
    "noun": "what the object is",
    "says": "what the words tell it by",
    "edit": "what is asked for",
    "hidden": "how much of it is hidden",
    "objects": "how many objects there are",
}
FEWEST = 10
"""Groups of fewer examples are left out."""


def pooled(breakdown: pd.DataFrame) -> pd.DataFrame:
    """Hits of each group over the styles of cartoons, with Wilson's 95 % interval."""
    rows = breakdown[breakdown["style"].isin(cartoons.STYLES)].copy()
    rows["hits"] = rows.hit * rows.n
    groups = rows.groupby(["by", "group"], sort=False)[["hits", "n"]].sum().reset_index()
    groups["hit"] = groups.hits / groups.n
    groups = groups[groups.n >= FEWEST]
    intervals = [
        binomtest(round(hits), int(n)).proportion_ci(method="wilson")
        for hits, n in zip(groups.hits, groups.n, strict=True)
    ]
    return groups.assign(low=[i.low for i in intervals], high=[i.high for i in intervals])


def failures(breakdown: pd.DataFrame) -> Figure:
    """One panel a question, each sorted: the token that changes most, on the object or not."""
    groups = pooled(breakdown)
    figure = Figure(figsize=(9, 7.5), layout="constrained", dpi=150)
    left, right = figure.subfigures(1, 2)
    others = [name for name in QUESTIONS if name != "noun"]
    heights = [(groups["by"] == name).sum() + 1.5 for name in others]
    panels = right.subplots(len(others), 1, height_ratios=heights, sharex=True)
    for name, axes in zip(["noun", *others], [left.subplots(), *panels], strict=True):
        _bars(axes, groups[groups["by"] == name].sort_values("hit"))
        axes.set_title(QUESTIONS[name], loc="left", fontsize=9)
    every = groups[groups["by"] == "objects"]
    share = every.hits.sum() / every.n.sum()
    figure.suptitle(f"In {share:.0%} of cartoons the first step changes the object that is meant")
    figure.supxlabel("share of test examples; bars: 95 %", fontsize=8)
    return figure


def _bars(axes: Axes, groups: pd.DataFrame) -> None:
    names = [f"{group} ({n:.0f})" for group, n in zip(groups.group, groups.n, strict=True)]
    spread = np.abs(groups[["low", "high"]].to_numpy().T - groups.hit.to_numpy())
    axes.barh(names, groups.hit, xerr=spread, color="#9db8d2", ecolor="#44566a", height=0.7)
    axes.set_xlim(0, 1)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw the figure into a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("breakdown", type=Path, help="breakdown.csv, from score --out")
    parser.add_argument("out", type=Path, help="PNG or SVG")
    arguments = parser.parse_args()
    failures(pd.read_csv(arguments.breakdown)).savefig(arguments.out)


if __name__ == "__main__":
    main()
