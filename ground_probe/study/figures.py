"""Figures from given arrays and frames; each says where it comes from, and how many it shows.

Colors are told apart by color-blind readers. The figures are not pyplot's: show one by naming it
last in a cell after `%matplotlib inline`, keep one with `save`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Bool, Float, UInt8
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as _Figure
from matplotlib.text import Text
from PIL import Image

PALETTE = sns.color_palette("colorblind")
SEQUENTIAL = "cividis"

_OTHERS = "other evaluations"
METHOD_KINDS = {
    "ceilings of the token grid": "0.75",
    "the recipe": PALETTE[1],
    "its halves, and other cues": PALETTE[0],
    "recipes calibrated on nothing": PALETTE[2],
    "controls": "0.45",
    _OTHERS: PALETTE[4],
}
"""Kinds of methods in reading order, and their colors."""
METHODS_IN_WORDS = {
    "ceiling_with_edges": ("best cut, with edges", "ceilings of the token grid"),
    "ceiling": ("best cut", "ceilings of the token grid"),
    "full": ("the recipe", "the recipe"),
    "attention": ("where: attention alone", "its halves, and other cues"),
    "discriminant": ("what: features like those there", "its halves, and other cues"),
    "one_step_difference": ("one-step prediction", "its halves, and other cues"),
    "concepts": ("ConceptAttention", "its halves, and other cues"),
    "features": ("features without words", "its halves, and other cues"),
    "recipe paper": ("the paper's recipe", "recipes calibrated on nothing"),
    "recipe plain": ("a plain recipe", "recipes calibrated on nothing"),
    "largest_object": ("largest object, its exact mask", "controls"),
    "largest_region": ("largest region", "controls"),
    "whole_image": ("whole image", "controls"),
    "random_weights": ("random weights, trained scale", "controls"),
}
"""What a method is called in a figure, and of which kind it is."""
_COLUMNS = 4
_PANEL_PX = 640
"""Pictures of a sheet are drawn from so many pixels a side: a panel has fewer."""

Picture = Image.Image | UInt8[np.ndarray, "height width 3"]


class Figure(_Figure):
    """A figure whose text is text: `$` in an expression or a file's name opens no mathematics."""

    def draw(self, renderer: Any) -> None:
        """As matplotlib's, with what ticks add while it is drawn."""
        for text in self.findobj(Text):
            text.set_parse_math(False)
        with rc_context({"text.parse_math": False}):
            super().draw(renderer)

    def label(self, title: str, about: str = "") -> None:
        """Say what is shown, as a sentence above, and where it comes from, below."""
        self.suptitle(fill(title, int(13 * self.get_figwidth())), fontsize=10)
        self.supxlabel(about, fontsize=7, color="0.3")


def method_bars(segmentation: pd.DataFrame, *, title: str = "", about: str = "") -> Figure:
    """The mIoU of each method as a bar with its interval: kind by kind, in each the best first.

    Rows are those of `segmentation.csv`; those of several folders are told apart.
    """
    rows = segmentation[segmentation["metric"] == "miou"].dropna(subset="value")
    several = len(rows[["dataset", "split"]].drop_duplicates()) > 1
    where = (" (" + rows["dataset"] + " " + rows["split"] + ")") if several else ""
    if "folder" in rows and rows["folder"].nunique() > 1:
        where = " · " + rows["folder"].map(_last_names(rows["folder"])) + where
    named = [METHODS_IN_WORDS.get(name, (name, _OTHERS)) for name in rows["method"]]
    words, kinds = zip(*named, strict=True)
    rows = rows.assign(label=pd.Series(words, rows.index) + where, kind=kinds)
    rows["place"] = rows["kind"].map(list(METHOD_KINDS).index)
    rows = rows.sort_values(["place", "value"], ascending=[True, False])
    figure, axes = _canvas(8, 1.8 + 0.35 * len(rows))
    places = np.arange(len(rows))[::-1]
    reach = np.abs(rows[["low", "high"]].to_numpy().T - rows["value"].to_numpy())
    for kind, color in METHOD_KINDS.items():
        if (of := (rows["kind"] == kind).to_numpy()).any():
            axes.barh(places[of], rows["value"][of], color=color, label=kind)
    axes.errorbar(rows["value"], places, xerr=reach, fmt="none", ecolor="0.2", capsize=3)
    axes.set_yticks(places, rows["label"])
    axes.set(xlabel="mIoU", xlim=(0, 1))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, fontsize=8)
    counted, errors = ", ".join(map(str, rows["n_ok"].unique())), rows["n_error"].sum()
    about = f"{about} · " if about else ""
    figure.label(title, f"{about}n = {counted} · {errors} errors · 95 % intervals")
    return figure


def overlay(
    image: Picture,
    mask: Bool[np.ndarray, "height width"],
    *,
    about: str,
    gold: Bool[np.ndarray, "height width"] | None = None,
    title: str = "",
) -> Figure:
    """The photo, dimmed outside a mask; the gold mask as a dashed outline."""
    height, width = np.asarray(image).shape[:2]
    scale = 5 / max(height, width)
    figure, axes = _canvas(width * scale, height * scale + 0.5)
    axes.imshow(image)
    _lay(axes, mask)
    if gold is not None:
        _outline(axes, gold)
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)
    figure.supxlabel(about, fontsize=7, color="0.3")
    return figure


def contact_sheet(
    images: Sequence[Picture],
    *,
    about: str,
    maps: Sequence[Bool[np.ndarray, "height width"] | Float[np.ndarray, "height width"]] = (),
    golds: Sequence[Bool[np.ndarray, "height width"]] = (),
    titles: Sequence[str] = (),
    title: str = "",
    n: int | None = None,
) -> Figure:
    """Many pictures in a grid, each with a mask or a map of numbers on it; one at least.

    Args:
        images: RGB.
        about: which block, step and stream the maps come from.
        maps: none, or one for each image and of its size: a mask, or numbers to see as heat.
        golds: none, or one for each image: what is meant, as a dashed outline.
        titles: none, or one for each image.
        title: above them all: what they show, as a sentence.
        n: how many images there are, where some are shown more than once.
    """
    columns = min(_COLUMNS, len(images))
    lines = -(-len(images) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.5 * lines + 0.3), layout="constrained")
    for index, axes in enumerate(figure.subplots(lines, columns, squeeze=False).flat):
        axes.set_axis_off()
        if index >= len(images):
            continue
        image = np.asarray(images[index])
        apart = -(-max(image.shape[:2]) // _PANEL_PX)
        axes.imshow(Image.fromarray(image).reduce(apart))
        if len(maps):
            _lay(axes, maps[index][::apart, ::apart])
        if len(golds):
            _outline(axes, golds[index][::apart, ::apart])
        if len(titles):
            axes.set_title(fill(titles[index], 34), fontsize=7)
    figure.label(title, f"{about} · n = {n or len(images)}")
    return figure


def interval_curve(rows: pd.DataFrame, *, xlabel: str, title: str, about: str) -> Figure:
    """mIoU along an ordered choice, with its interval over images as a band.

    Rows are those of `ablate`, of one part whose values are numbers.
    """
    rows = rows.astype({"value": float}).sort_values("value")
    figure, axes = _canvas(5, 3.2)
    x = rows["value"].to_numpy()
    axes.fill_between(x, rows["low"], rows["high"], color=PALETTE[0], alpha=0.2, linewidth=0)
    axes.plot(x, rows["miou"], "o-", color=PALETTE[0], markersize=4)
    axes.set(xlabel=xlabel, ylabel="mIoU, 95 % interval over images", ylim=(0, 1))
    axes.grid(axis="y", color="0.9")
    axes.set_xticks(x, [f"{round(value, 2):g}" for value in x])
    figure.label(title, about)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _lay(axes: Axes, values: np.ndarray) -> None:
    if values.dtype == bool:  # dim the rest: a tint would drown in an object of its color
        shade = np.zeros((*values.shape, 4))
        shade[~values, 3] = 0.45
        axes.imshow(shade)
    else:
        axes.imshow(values, cmap=SEQUENTIAL, alpha=0.6)


def _outline(axes: Axes, gold: np.ndarray) -> None:
    if gold.any() and not gold.all():  # else there is no outline, and matplotlib warns
        axes.contour(gold, levels=[0.5], colors="white", linestyles="dashed", linewidths=1)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _last_names(folders: pd.Series) -> dict[str, str]:
    """Each folder's last name, where that tells it from the others."""
    last = {folder: Path(folder).name for folder in folders.unique()}
    return last if len(set(last.values())) == len(last) else {folder: folder for folder in last}
