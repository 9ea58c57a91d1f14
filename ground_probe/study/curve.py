"""The figure of an ablation that has an order: steps, or the share of one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns

from ground_probe.errors import InputError
from ground_probe.study.figures import Figure


def interval_curve(rows: pd.DataFrame, *, x: str, xlabel: str, title: str, about: str) -> Figure:
    """mIoU along an ordered choice, with its interval over images as a band.

    Args:
        rows: of `ablate`, of one part.
        x: the column to draw along; its values are numbers.
        xlabel: what they are.
        title: what it shows, as a sentence.
        about: editor, data, recipe and how many examples.

    Raises:
        InputError: no rows.
    """
    if rows.empty:
        raise InputError("there are no rows to draw: give those of one part of an ablation")
    rows = rows.assign(**{x: rows[x].astype(float)}).sort_values(x)
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    colour = sns.color_palette("colorblind")[0]
    axes.fill_between(rows[x], rows["low"], rows["high"], color=colour, alpha=0.2, linewidth=0)
    axes.plot(rows[x], rows["miou"], "o-", color=colour, markersize=4)
    axes.set(xlabel=xlabel, ylabel="mIoU, 95 % interval over images", ylim=(0, 1))
    axes.grid(axis="y", color="0.9")
    axes.set_xticks(np.unique(rows[x]), [f"{value:g}" for value in np.unique(rows[x].round(2))])
    figure.suptitle(title, fontsize=9)
    figure.supxlabel(about, fontsize=7, color="0.3")
    return figure
