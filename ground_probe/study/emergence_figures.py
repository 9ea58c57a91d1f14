"""Figures of the emergence study: an editor beside its controls, tokens, visible change."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from scipy.spatial import cKDTree

from ground_probe.errors import InputError
from ground_probe.study.figures import PALETTE, SEQUENTIAL, Figure

KINDS = {"target": PALETTE[3], "distractor": PALETTE[0], "background": (0.75, 0.75, 0.75)}
AROUND_CHANCE = "BrBG"
STYLES = {
    "none": (PALETTE[3], "-"),
    "other_expression": (PALETTE[0], "--"),
    "no_expression": (PALETTE[2], "--"),
    "shuffled": (PALETTE[4], "--"),
    "word_order": (PALETTE[9], "-."),
    "random_weights": (PALETTE[1], "-."),
    "control_labels": (PALETTE[5], "-."),
    "position": ("0.2", ":"),
    "rgb": ("0.4", "--"),
    "vae_latent": ("0.6", "-."),
}
MARKS = dict(zip(STYLES, "osD^vXP*ph", strict=True))
NONE = "none"


def heat_maps(rows: pd.DataFrame, chosen: pd.DataFrame, *, title: str, about: str) -> Figure:
    """Block by step, the editor and its controls side by side on one scale around chance.

    Args:
        rows: of `emergence.csv`: of one split, probe, label set, stream and seed; those without a
            step are left out.
        chosen: the editor's cells that are framed: those of `best_blocks`, chosen on val.
        title: above the maps: what they show, as a sentence.
        about: which probe and stream, and on which data.

    Raises:
        InputError: no rows, or several for one cell of a map.
    """
    rows = rows.dropna(subset=["step", "value"])
    if rows.empty or rows.duplicated(["control", "block", "step"]).any():
        raise InputError("give one row for each control, block and step: choose one of the rest")
    controls = [name for name in STYLES if (rows.control == name).any()]
    blocks = list(dict.fromkeys(rows.block))
    widths = [rows[rows.control == name].step.nunique() for name in controls]
    figure = Figure(
        figsize=(2.2 + 0.42 * sum(widths) + 0.25 * len(controls), 1.9 + 0.33 * len(blocks)),
        layout="constrained",
    )
    panels = figure.subplots(1, len(controls), width_ratios=widths, squeeze=False)[0]
    for axes, name in zip(panels, controls, strict=True):
        of = rows[rows.control == name]
        cells = of.pivot(index="block", columns="step", values="value").reindex(blocks)
        sns.heatmap(
            cells.rename(index=short).astype(float),
            ax=axes,
            vmin=0,
            vmax=1,
            cmap=AROUND_CHANCE,
            annot=cells.size <= 120,
            fmt=".2f",
            annot_kws={"size": 6.5},
            cbar=name == controls[-1],
            cbar_kws={"label": "AUC, chance is 0.5"},
            yticklabels=name == controls[0],
        )
        axes.set(xlabel="step", ylabel="")
        axes.set_title(f"{said(name)}\nn = {counted(of)}", fontsize=8)
        for row in chosen.itertuples() if name == NONE else ():
            _framed(axes, cells, row.block, row.step)
    figure.suptitle(title, fontsize=10)
    figure.supxlabel(f"{about} · AUC on test · framed: the block chosen on val", fontsize=7)
    return figure


def matrices(
    panels: Mapping[str, pd.DataFrame],
    *,
    title: str,
    about: str,
    label: str = "AUC, chance is 0.5",
) -> Figure:
    """Numbers in rows and columns, panels side by side on one scale.

    Of an AUC, the highest of each panel is framed.

    Args:
        panels: by title, of the same rows; blocks in the index are written short.
        title: above the panels: what they show, as a sentence.
        about: which stream and step, and on which data.
        label: of the scale: around 0.5 for an AUC, else shares, from 0 to the largest.
    """
    widths = [each.shape[1] for each in panels.values()]
    rows = max(len(each) for each in panels.values())
    figure = Figure(
        figsize=(3.2 + 0.62 * sum(widths) + 0.3 * len(panels), 2.1 + 0.34 * rows),
        layout="constrained",
    )
    axes = figure.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0]
    around = label.startswith("AUC")
    top = 1 if around else max(float(np.nanmax(each)) for each in panels.values())
    for i, (at, (name, cells)) in enumerate(zip(axes, panels.items(), strict=True)):
        sns.heatmap(
            cells.rename(index=short, columns=lambda name: str(name).replace("_", " ")).astype(
                float
            ),
            ax=at,
            vmin=0,
            vmax=top,
            cmap=AROUND_CHANCE if around else SEQUENTIAL,
            annot=cells.size <= 240,
            fmt=".2f" if around else "z.1%",
            annot_kws={"size": 7},
            cbar=i == len(panels) - 1,
            cbar_kws={"label": label},
            yticklabels=i == 0,
        )
        at.set(ylabel="", xlabel="")
        at.set_title(name.replace("_", " "), fontsize=8)
        long = max(len(str(column)) for column in cells.columns) > 5
        at.tick_params(axis="x", labelrotation=40 if long else 0, labelsize=8)
        for tick in at.get_xticklabels() if long else ():
            tick.set(ha="right", rotation_mode="anchor")
        if around and (highest := peak(cells)):
            _framed(at, cells, *highest)
    figure.suptitle(fill(title, int(14 * figure.get_figwidth())), fontsize=10)
    figure.supxlabel(f"{about}{' · framed: the highest' * around}", fontsize=7)
    return figure


def peak(cells: pd.DataFrame) -> tuple[Any, Any] | None:
    """The row and the column of the highest number; None where there is none.

    >>> peak(pd.DataFrame({"a": [0.1, 0.9], "b": [0.5, None]}, index=["x", "y"]))
    ('y', 'a')
    """
    if cells.isna().all(axis=None):
        return None
    row, column = np.unravel_index(np.nanargmax(cells.to_numpy(float)), cells.shape)
    return cells.index[row], cells.columns[column]


def _framed(axes: Axes, cells: pd.DataFrame, row: Any, column: Any) -> None:
    corner = list(cells.columns).index(column), list(cells.index).index(row)
    axes.add_patch(Rectangle(corner, 1, 1, fill=False, ec="black", lw=1.8, clip_on=False))


def visible_curves(change: pd.DataFrame, *, title: str) -> Figure:
    """The visible change by step, a panel a view.

    Args:
        change: from `visible_change`.
        title: above the panels: what they show, as a sentence.
    """
    titles = {"latents": "decoded latents", "prediction": "one-step prediction, decoded"}
    figure = Figure(figsize=(8.5, 3.3), layout="constrained")
    panels = figure.subplots(1, len(titles), sharey=True)
    for axes, (view, name) in zip(panels, titles.items(), strict=True):
        for place, colour, mark in zip(
            dict.fromkeys(change.place), KINDS.values(), "osD", strict=True
        ):
            of = change[(change["view"] == view) & (change.place == place)]
            band(axes, of, place, colour, "-", 1.6, mark)
        axes.set_title(f"{name}, n = {counted(of)} images", fontsize=9)
        axes.set(xlabel="denoising step", ylim=(0, None))
    panels[0].set_ylabel("mean difference to the reference\n(colors 0 to 1, 95 % interval)")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(fill(title, int(13 * figure.get_figwidth())), fontsize=10)
    return figure


def effect_bars(effects: pd.DataFrame, *, title: str) -> Figure:
    """What each patch of the text moves beyond its random control, a panel a measure.

    Args:
        effects: from `effects`.
        title: above the panels: what they show, as a sentence.
    """
    rows = effects[effects.against != NONE]
    sees = rows.groupby("measure", sort=False)["over"].first()
    measures = {
        "grounding": "AUC, last block, reference stream",
        "edit": "change of the referent\nless that of other objects",
    }
    height = 1.7 + 0.34 * rows.intervention.nunique()
    figure = Figure(figsize=(9.5, height), layout="constrained")
    panels = figure.subplots(1, len(measures), sharey=True)
    for axes, (measure, label) in zip(panels, measures.items(), strict=True):
        of = rows[rows.measure == measure]
        places = np.arange(len(of))[::-1]
        for place, row in zip(places, of.itertuples(), strict=True):
            colour, mark = (KINDS["target"], "o") if row.declared else ("0.45", "s")
            axes.plot([row.low, row.high], [place, place], color=colour, lw=1.6)
            axes.plot(row.difference, place, mark, color=colour, ms=5)
        axes.axvline(0, color="black", lw=0.6)
        axes.margins(y=0.15)
        axes.set_title(f"{measure}, step 0, n = {counted(of)} images", fontsize=9)
        axes.set_xlabel(f"patch less norm-matched random control\n{label}", fontsize=8)
    panels[0].set_yticks(places, [_patched(name) for name in of.intervention], fontsize=8)
    seen = "; ".join(f"{over} ({measure})" for measure, over in sees.items())
    figure.suptitle(fill(title, int(13 * figure.get_figwidth())), fontsize=10)
    figure.supxlabel(
        f"orange: declared, grey: exploratory · 95 % intervals over {seen}", fontsize=7
    )
    return figure


def token_maps(
    cells: Mapping[str, Float[np.ndarray, "tokens width"]],
    kinds: Shaped[np.ndarray, " tokens"],
    *,
    about: str,
    tokens: int = 300,
    seed: int = 0,
) -> Figure:
    """UMAP of the tokens of each cell, coloured by what they show.

    A panel says of which kind the nearest neighbors of the referent's tokens are in its plane.

    Args:
        cells: hidden states by the panel's title; the rows are the same tokens in all.
        kinds: of each token, one of `KINDS`.
        about: below the panels: which data.
        tokens: of each kind at most, drawn at random.
        seed: of the draw and of UMAP.
    """
    from umap import UMAP  # takes seconds to import

    rng = np.random.default_rng(seed)
    drawn = np.concatenate(
        [rng.permutation(np.flatnonzero(kinds == kind))[:tokens] for kind in KINDS]
    )
    figure = Figure(figsize=(3 * len(cells), 3.5), layout="constrained")
    panels, shares = figure.subplots(1, len(cells), squeeze=False)[0], []
    for axes, (name, features) in zip(panels, cells.items(), strict=True):
        chosen = features[drawn].astype(np.float32)
        spread = chosen.std(0)
        chosen = (chosen - chosen.mean(0)) / np.where(spread > 0, spread, 1)
        at = UMAP(random_state=seed, n_jobs=1).fit_transform(chosen)
        for kind, colour in KINDS.items():
            axes.scatter(*at[kinds[drawn] == kind].T, s=5, color=colour, label=kind, linewidths=0)
        axes.set(xticks=[], yticks=[])
        share = _neighbors(at, kinds[drawn])
        axes.set_title(f"{name}\nreferent beside referent {share:.0%}", fontsize=8)
        shares.append(share)
    panels[0].legend(fontsize=8, markerscale=3, frameon=False)
    figure.suptitle(
        f"In the plane {min(shares):.0%} to {max(shares):.0%} of the referent's tokens lie next "
        "to one of their kind",
        fontsize=9,
    )
    figure.supxlabel(f"{about} · {len(drawn)} tokens, features standardized", fontsize=7)
    return figure


def _neighbors(at: Float[np.ndarray, "tokens 2"], kinds: Shaped[np.ndarray, " tokens"]) -> float:
    """The share of the referent's tokens whose nearest other token is the referent's."""
    _, nearest = cKDTree(at).query(at, k=2)
    own = kinds == "target"
    return float((kinds[nearest[own, 1]] == "target").mean())


def short(block: str) -> str:
    """A block's name, short enough for an axis.

    >>> short("single_transformer_blocks.3"), short("transformer_blocks.0")
    ('single 3', 'double 0')
    """
    for long, brief in (
        ("single_transformer_blocks.", "single "),
        ("transformer_blocks.", "double "),
    ):
        if block.startswith(long):
            return block.replace(long, brief)
    return block


def counted(rows: pd.DataFrame) -> str:
    """How many images, a range where it differs."""
    few, many = rows.n_images.min(), rows.n_images.max()
    return str(many) if few == many else f"{few} to {many}"


def _patched(name: str) -> str:
    kind, _, at = name.partition(" at ")
    way = {"patch": "text rows", "patch_pooled": "pooled vector", "patch_both": "both"}[kind]
    return f"{way}, {short(at)}"


def said(control: str) -> str:
    """A condition's name as a reader is shown it."""
    return "the editor" if control == "none" else control.replace("_", " ")


def band(
    axes: Axes, rows: pd.DataFrame, label: str, colour: Any, style: str, width: float, mark: str
) -> None:
    """A curve with its interval, where there are rows."""
    if len(rows):
        steps = rows.step.to_numpy(float)
        axes.plot(steps, rows.value, style, color=colour, lw=width, marker=mark, ms=4, label=label)
        alpha = 0.08 * width  # the editor's band stands out among those of its controls
        axes.fill_between(steps, rows.low, rows.high, color=colour, alpha=alpha, lw=0)
