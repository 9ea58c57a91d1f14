"""The figure of the claim: an editor by step, beside the band of what it must exceed."""

from __future__ import annotations

from textwrap import fill

import pandas as pd
from matplotlib.axes import Axes

from ground_probe.study.claim import RIVALS
from ground_probe.study.emergence_figures import (
    NONE,
    STYLES,
    band,
    control_in_words,
    counted,
    short,
)
from ground_probe.study.figures import Figure

_CROWDED = 0.85
_LABEL_CHARACTERS = 52  # below one panel


def step_curves(rows: pd.DataFrame, *, title: str, about: str) -> Figure:
    """By step, the block that is best on val `beside_controls`, a panel a stream.

    What a claim must exceed is one grey band from the lowest to the highest, whose name is drawn;
    other conditions, as the expression's own words in another order, may ground too.
    """
    rivals = RIVALS[rows.labels.iloc[0]]
    streams = list(dict.fromkeys(rows.stream))
    figure = Figure(figsize=(1 + 3.9 * len(streams), 4.3), layout="constrained")
    panels = figure.subplots(1, len(streams), sharey=True, squeeze=False)[0]
    for axes, stream in zip(panels, streams, strict=True):
        here = rows[rows.stream == stream].sort_values("step")
        _controls(axes, here[here.control.isin(rivals)])
        for name, style in reversed(STYLES.items()):
            if name not in rivals:
                of = here[here.control == name]
                band(axes, of, control_in_words(name), 2.5 if name == NONE else 1.0, *style)
        axes.axhline(0.5, color="black", lw=0.6)
        axes.set_title(f"{stream} stream, n = {counted(here)} images", fontsize=9)
        blocks = fill(f"blocks: {_blocks(here)}", _LABEL_CHARACTERS)
        axes.set_xlabel(f"denoising step\n{blocks}", fontsize=8)
        axes.set_ylim(0, 1.02)
    panels[0].set_ylabel("AUC (95 % interval over test images,\ngiven the fitted probes)")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(
        *handles,
        loc="outside lower center",
        ncols=4,
        fontsize=8,
        frameon=False,
        title=about,
        title_fontsize=7,
    )
    figure.suptitle(title, fontsize=10)
    return figure


def _controls(axes: Axes, rows: pd.DataFrame) -> None:
    """The band of the controls, its upper edge, and the name of the strongest."""
    if rows.empty:
        return
    edges = rows.groupby("step").value.agg(["min", "max"])
    steps = edges.index.to_numpy(float)
    axes.fill_between(
        steps, edges["min"], edges["max"], color="0.8", lw=0, label="controls, lowest to highest"
    )
    axes.plot(steps, edges["max"], color="0.45", lw=1.2, label="highest control")
    top = rows.loc[rows.value.idxmax()]
    axes.annotate(
        control_in_words(top.control),
        (float(top.step), top.value),
        xytext=(4, 3 if top.value < _CROWDED else -9),  # the editor's curve lies there
        textcoords="offset points",
        fontsize=7,
        color="0.3",
    )
    few = rows.groupby("control").step.max()
    if few.nunique() > 1:
        early = sorted(rows[rows.control == few.idxmin()].step.unique())
        axes.text(
            0.99,
            0.02,
            f"{(few < few.max()).sum()} of {len(few)} controls at steps "
            f"{', '.join(map(str, early))} only",
            transform=axes.transAxes,
            fontsize=7,
            color="0.3",
            ha="right",
        )


def _blocks(rows: pd.DataFrame) -> str:
    """The blocks of the editor's curve, each with its steps."""
    own = rows[rows.control == NONE]
    by = own.groupby("block", sort=False)["step"]
    return "; ".join(f"{short(block)} at {', '.join(map(str, of))}" for block, of in by)
