"""Every probe on every cell of some traces, in one tidy table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from ground_probe.capture import Trace, keep_half
from ground_probe.datasets.example import Mask
from ground_probe.errors import InputError
from ground_probe.geometry import Geometry
from ground_probe.probes.controls import control_labels, position_features
from ground_probe.probes.labels import hard_labels
from ground_probe.probes.per_image import per_image
from ground_probe.probes.scoring import held_out_scores
from ground_probe.stats import bootstrap

FITTED = {
    "linear": ("linear", "auc"),
    "linear_precision": ("linear", "average_precision"),
    "fisher": ("discriminant", "fisher"),
    "prototype": ("prototype", "auc"),
}
"""Probes that are fitted: each a score of tokens and a metric of scores. Average precision is no
AUC: where nothing is told it is about the object's share of the tokens."""

LINEAR = tuple(name for name, (kind, _) in FITTED.items() if kind == "linear")

COLUMNS = (
    "block",
    "stream",
    "step",
    "sigma",
    "probe",
    "value",
    "low",
    "high",
    "n_images",
    "n_expressions",
    "labels",
    "control",
    "split",
    "seed",
)
"""Of `emergence.csv`. `step` and `sigma` are empty for what precedes the first step."""

LABELS = ("separability", "grounding")
"""The referent against everything else, and against the other objects of the image only."""


def probe_table(
    traces: Sequence[Trace],
    masks: Sequence[Mask],
    *,
    distractors: Sequence[Sequence[Mask]] | None = None,
    image_ids: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Every probe on every cell of some traces, in folds over their images.

    ```python
    traces = [gp.trace(editor, e.image, f"remove {e.expression}", e.expression) for e in examples]
    gp.probe_table(traces, [e.mask for e in examples])
    ```

    Args:
        traces: one an example, of the same blocks and steps, with attention; without `reduce`.
        masks: the referent of each, at its image's size.
        distractors: the other objects of each; without them there is no grounding.
        image_ids: of each; by default every trace is of an image of its own.

    Returns:
        the rows of `emergence.csv`, with position and control labels as controls; all of split
        "val", since nothing is held out to report on.

    Raises:
        InputError: not one mask a trace, or fewer than five images.
    """
    others = distractors or [()] * len(traces)
    ids = image_ids or [str(i) for i in range(len(traces))]
    if not len(traces) == len(masks) == len(others) == len(ids):
        raise InputError(
            f"{len(traces)} traces, {len(masks)} masks, {len(others)} lists of distractors and "
            f"{len(ids)} image ids: give one of each an example"
        )
    grids = [traced.grid("noise") for traced in traces]
    tokens = list(map(token_labels, grids, masks, others))
    target, distractor, rest = map(np.concatenate, zip(*tokens, strict=True))
    counts = [len(each) for each, _, _ in tokens]
    place = np.concatenate([np.arange(count) for count in counts])
    by_place = control_labels(np.arange(max(counts)))[place]
    image, images = pd.factorize(np.array(ids))
    group, example = np.repeat(image, counts), np.repeat(np.arange(len(traces)), counts)

    rows: list[dict[str, Any]] = []
    values: list[Float[np.ndarray, " images"]] = []
    for control, cell, features, maps in _cells(traces):
        for labels, against in zip(LABELS, (rest, distractor), strict=True):
            if not against.any():
                continue
            asked = target | against
            of = {"groups": group[asked], "examples": example[asked]}
            found = [
                (control, probe, each)
                for probe, each in fitted_values(features[asked], target[asked], **of)
            ]
            found += [
                (control, kind, per_image(score[asked], target[asked], **of))
                for kind, score in maps.items()
            ]
            if control == "none":
                drawn = fitted_values(features[asked], by_place[asked], probes=LINEAR, **of)
                found += [("control_labels", probe, each) for probe, each in drawn]
            for task, probe, each in found:
                rows.append({**cell, "labels": labels, "control": task, "probe": probe})
                values.append(np.full(len(images), np.nan))
                values[-1][np.unique(group[asked])] = each
    table = pd.DataFrame(rows).assign(split="val", seed=0)
    table = table.assign(**intervals(np.stack(values), np.bincount(image)))
    return table[list(COLUMNS)].astype({"step": "Int64"})


def token_labels(
    geometry: Geometry, mask: Mask, distractors: Sequence[Mask]
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Which tokens lie on the referent, on another object, and on anything but the referent.

    A token belongs to an object that covers half of it, and to the rest where the referent covers
    none of it; those in between are none of the three.
    """
    target, decided = (each.ravel() for each in hard_labels(geometry.soft_labels(mask)))
    rest = decided & ~target
    others = [hard_labels(geometry.soft_labels(each))[0].ravel() for each in distractors]
    return target, rest & np.any([np.zeros_like(rest), *others], axis=0), rest


def on_level(
    place: Int[np.ndarray, " n"], grid: tuple[int, int], tokens: int
) -> Int[np.ndarray, " n"]:
    """Where places of a grid, row by row, lie on a level of a UNet with so many tokens."""
    (rows, cols), (row, col) = grid, np.divmod(place, grid[1])
    while rows * cols > tokens:
        rows, cols, row, col = -(-rows // 2), -(-cols // 2), row // 2, col // 2
    if rows * cols != tokens:
        raise InputError(f"{tokens} tokens are no halving of the grid {grid}")
    return row * cols + col


def fitted_values(
    features: Float[np.ndarray, "n d"],
    labels: Bool[np.ndarray, " n"],
    *,
    groups: Shaped[np.ndarray, " n"],
    examples: Shaped[np.ndarray, " n"],
    probes: Iterable[str] = FITTED,
    test_groups: Iterable | None = None,
) -> Iterator[tuple[str, Float[np.ndarray, " images"]]]:
    """Each of `FITTED` and its value of every image: in folds, and of test groups from the rest."""
    scores: dict[str, np.ndarray] = {}
    for probe in probes:
        kind, metric = FITTED[probe]
        if kind not in scores:
            scores[kind] = held_out_scores(
                features, labels, groups, kind, test_groups=test_groups, inside=True
            )
        yield probe, per_image(scores[kind], labels, groups, metric=metric, examples=examples)


def intervals(
    values: Float[np.ndarray, "cells images"], expressions: Int[np.ndarray, " images"]
) -> dict[str, np.ndarray]:
    """What `estimate` gives for each row, and how many images and expressions have a value."""
    known = ~np.isnan(values)
    value, low, high = bootstrap(values.T)
    return {
        "value": value,
        "low": low,
        "high": high,
        "n_images": known.sum(axis=1),
        "n_expressions": known @ expressions,
    }


def _cells(traces: Sequence[Trace]) -> Iterator[tuple[str, dict[str, Any], Any, dict[str, Any]]]:
    """For what is probed its control, where it is, features and attention of every token."""
    grids = [traced.grid("noise").grid for traced in traces]
    first = traces[0]
    for step, block, stream in product(first.steps, first.blocks, first.layout.grids):
        where = {"block": block, "stream": stream, "step": step, "sigma": first.sigmas[step]}
        parts: dict[str, list[np.ndarray]] = {}
        for traced, grid in zip(traces, grids, strict=True):
            at = traced.image_tokens(stream)
            found = {
                "hidden": keep_half(traced.hidden[block, step, stream]),
                "attention": traced.attention[block, step][:, at].sum(-1).mean(0),
            }
            if traced.layout.joint:
                maps = traced.attention_from_text[block, step][..., at]
                found["attention_from_text"] = maps.mean((0, 1))
            for name, array in found.items():
                at_level = on_level(np.arange(prod(grid)), grid, len(array))
                parts.setdefault(name, []).append(array.float().cpu().numpy()[at_level])
        arrays = {name: np.concatenate(each) for name, each in parts.items()}
        yield "none", where, arrays.pop("hidden"), arrays
    where = {"block": "input", "stream": "reference", "step": pd.NA, "sigma": np.nan}
    yield "position", where, np.concatenate(list(map(position_features, grids))), {}
