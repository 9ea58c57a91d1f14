"""Figures of the emergence study: an editor beside its controls, tokens, visible change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from scipy.spatial import cKDTree

from ground_probe.study.causal import WAYS_IN_WORDS
from ground_probe.study.figures import PALETTE, SEQUENTIAL, Figure

KINDS = {"target": PALETTE[3], "distractor": PALETTE[0], "background": (0.75, 0.75, 0.75)}
AROUND_CHANCE = "BrBG"
AUC = "AUC, chance is 0.5"
STYLES = {
    "none": (PALETTE[3], "-", "o"),
    "other_expression": (PALETTE[0], "--", "s"),
    "no_expression": (PALETTE[2], "--", "D"),
    "shuffled": (PALETTE[4], "--", "^"),
    "word_order": (PALETTE[9], "-.", "v"),
}
"""Conditions that may be drawn as curves: color, line and mark."""
_IN_ORDER = (*STYLES, "random_weights", "control_labels", "position", "rgb", "vae_latent")
NONE = "none"
_EXPLORATORY = {"color": "0.45", "fmt": "s"}
_TOKENS = 300  # of each kind in a plane, at most


def heat_maps(rows: pd.DataFrame, chosen: pd.DataFrame, *, title: str, about: str) -> Figure:
    """Block by step, the editor and its controls side by side on one scale around chance.

    Rows are of `emergence.csv`, of one split, probe, label set, stream and seed. Framed are the
    editor's cells that were chosen on val, those of `best_blocks`.
    """
    rows = rows.dropna(subset=["step", "value"])
    blocks = rows.block.unique()
    panels = {}
    for control in _IN_ORDER:
        if len(of := rows[rows.control == control]):
            name = f"{control_in_words(control)}\nn = {counted(of)}"
            panels[name] = of.pivot(index="block", columns="step", values="value").reindex(blocks)
    editor = next(iter(panels))
    framed = {editor: list(zip(chosen.block, chosen.step, strict=True))}
    figure = _side_by_side(panels, framed, 0.42)
    figure.label(title, f"{about} · AUC on test · framed: the block chosen on val")
    return figure


def matrices(
    panels: Mapping[str, pd.DataFrame], *, title: str, about: str, label: str = AUC
) -> Figure:
    """Numbers in rows and columns, panels side by side; of an AUC, the highest of each is framed.

    Another label than that of an AUC is one of shares, from 0 to the largest.
    """
    spaced = {
        name.replace("_", " "): cells.rename(columns=lambda column: str(column).replace("_", " "))
        for name, cells in panels.items()
    }
    peaks = {name: [highest] for name, cells in spaced.items() if (highest := peak(cells))}
    framed = peaks if label == AUC else {}
    figure = _side_by_side(spaced, framed, 0.62, label)
    for axes in figure.axes[: len(panels)]:
        axes.set(xlabel="")
        axes.tick_params(axis="x", labelsize=8)
        ticks = axes.get_xticklabels()
        if max(len(tick.get_text()) for tick in ticks) > 5:
            for tick in ticks:
                tick.set(ha="right", rotation=40, rotation_mode="anchor")
    figure.label(title, f"{about}{' · framed: the highest' * bool(framed)}")
    return figure


def _side_by_side(
    panels: Mapping[str, pd.DataFrame],
    framed: Mapping[str, Sequence[tuple[Any, Any]]],
    cell_inches: float,
    label: str = AUC,
) -> Figure:
    """Tables by title as heat on one scale, some of whose (row, column) are framed."""
    widths = [cells.shape[1] for cells in panels.values()]
    blocks = max(map(len, panels.values()))
    size = 3.0 + cell_inches * sum(widths) + 0.3 * len(panels), 2.1 + 0.34 * blocks
    figure = Figure(figsize=size, layout="constrained")
    top = 1 if label == AUC else max(float(np.nanmax(cells)) for cells in panels.values())
    row = figure.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0]
    for axes, (name, cells) in zip(row, panels.items(), strict=True):
        sns.heatmap(
            cells.rename(index=short).astype(float),
            ax=axes,
            vmin=0,
            vmax=top,
            cmap=AROUND_CHANCE if label == AUC else SEQUENTIAL,
            annot=cells.size <= 240,
            fmt=".2f" if label == AUC else "z.1%",
            annot_kws={"size": 7},
            cbar=axes is row[-1],
            cbar_kws={"label": label},
            yticklabels=axes is row[0],
        )
        axes.set_title(name, fontsize=8)
        axes.set(ylabel="")
        for at, column in framed.get(name, ()):
            corner = cells.columns.get_loc(column), cells.index.get_loc(at)
            frame = Rectangle(corner, 1, 1, fill=False, ec="black", lw=1.8, clip_on=False)
            axes.add_patch(frame)
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


def visible_curves(change: pd.DataFrame, *, title: str) -> Figure:
    """The visible change by step, from `visible_change`: a panel a view."""
    titles = {"latents": "decoded latents", "prediction": "one-step prediction, decoded"}
    figure = Figure(figsize=(8.5, 3.3), layout="constrained")
    panels = figure.subplots(1, len(titles), sharey=True)
    for axes, (view, name) in zip(panels, titles.items(), strict=True):
        for place, color, mark in zip(
            dict.fromkeys(change.place), KINDS.values(), "osD", strict=True
        ):
            of = change[(change["view"] == view) & (change.place == place)]
            band(axes, of, place, 1.6, color, "-", mark)
        axes.set_title(f"{name}, n = {counted(of)} images", fontsize=9)
        axes.set(xlabel="denoising step", ylim=(0, None))
    panels[0].set_ylabel("mean difference to the reference\n(colors 0 to 1, 95 % interval)")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.label(title)
    return figure


def effect_bars(effects: pd.DataFrame, *, title: str) -> Figure:
    """What each patch of the text moves beyond its random control, from `effects`."""
    rows = effects[effects.against != NONE]
    over = rows.groupby("measure", sort=False)["over"].first()
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
            reach = [[row.difference - row.low], [row.high - row.difference]]
            how = {"color": KINDS["target"], "fmt": "o"} if row.declared else _EXPLORATORY
            axes.errorbar(row.difference, place, xerr=reach, lw=1.6, ms=5, **how)
        axes.axvline(0, color="black", lw=0.6)
        axes.margins(y=0.15)
        axes.locator_params(axis="x", nbins=6)
        axes.set_title(f"{measure}, step 0, n = {counted(of)} images", fontsize=9)
        axes.set_xlabel(f"patch less norm-matched random control\n{label}", fontsize=8)
    parts = [name.partition(" at ") for name in of.intervention]
    names = [f"{WAYS_IN_WORDS[kind]}, {short(at)}" for kind, _, at in parts]
    panels[0].set_yticks(places, names, fontsize=8)
    seen = "; ".join(f"{images} ({measure})" for measure, images in over.items())
    figure.label(title, f"orange: declared, grey: exploratory · 95 % intervals over {seen}")
    return figure


def token_maps(
    cells: Mapping[str, Float[np.ndarray, "tokens width"]],
    kinds: Shaped[np.ndarray, " tokens"],
    *,
    about: str,
    seed: int = 0,
) -> Figure:
    """UMAP of the tokens of each cell, by the panel's title, colored by their `KINDS`.

    A panel says of which kind the nearest neighbors of the referent's tokens are in its plane.
    """
    from umap import UMAP  # takes seconds to import

    rng = np.random.default_rng(seed)
    drawn = np.concatenate(
        [rng.permutation(np.flatnonzero(kinds == kind))[:_TOKENS] for kind in KINDS]
    )
    figure = Figure(figsize=(3 * len(cells), 3.5), layout="constrained")
    panels, shares = figure.subplots(1, len(cells), squeeze=False)[0], []
    for axes, (name, features) in zip(panels, cells.items(), strict=True):
        chosen = features[drawn].astype(np.float32)
        spread = chosen.std(0)
        chosen = (chosen - chosen.mean(0)) / np.where(spread > 0, spread, 1)
        at = UMAP(random_state=seed, n_jobs=1).fit_transform(chosen)
        for kind, color in KINDS.items():
            axes.scatter(*at[kinds[drawn] == kind].T, s=5, color=color, label=kind, linewidths=0)
        axes.set(xticks=[], yticks=[])
        share = _neighbors(at, kinds[drawn])
        axes.set_title(f"{name}\nreferent beside referent {share:.0%}", fontsize=8)
        shares.append(share)
    panels[0].legend(fontsize=8, markerscale=3, frameon=False)
    figure.label(
        f"In the plane {min(shares):.0%} to {max(shares):.0%} of the referent's tokens lie next "
        "to one of their kind",
        f"{about} · {len(drawn)} tokens, features standardized",
    )
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
    block = block.replace("single_transformer_blocks.", "single ")
    return block.replace("transformer_blocks.", "double ")


def counted(rows: pd.DataFrame) -> str:
    """How many images, a range where it differs."""
    few, many = rows.n_images.min(), rows.n_images.max()
    return str(many) if few == many else f"{few} to {many}"


def control_in_words(control: str) -> str:
    """A condition's name as a reader is shown it."""
    return "the editor" if control == "none" else control.replace("_", " ")


def band(
    axes: Axes, rows: pd.DataFrame, label: str, width: float, color: Any, style: str, mark: str
) -> None:
    """A curve with its interval, where there are rows."""
    if len(rows):
        steps = rows.step.to_numpy(float)
        axes.plot(steps, rows.value, style, color=color, lw=width, marker=mark, ms=4, label=label)
        alpha = 0.08 * width  # the editor's band stands out among those of its controls
        axes.fill_between(steps, rows.low, rows.high, color=color, alpha=alpha, lw=0)
