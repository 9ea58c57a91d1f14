"""Mask metrics by the zero-shot benchmark's protocol, and bootstrap intervals over clusters.

A row is a sentence. mIoU is the mean of the rows' IoU; oIoU (also cIoU, overall) is the sum of
the intersections over the sum of the unions. All are fractions. Rows that could not be run are
errors for the caller to count: they have no place in these arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from ground_probe.errors import InputError

RESAMPLES = 2000
CONFIDENCE = 0.95


def as_array(values: Any) -> Shaped[np.ndarray, " ..."]:
    """A NumPy array of anything array-like, torch tensors of any device and type included."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def counts(
    pred: Bool[np.ndarray, "height width"], gold: Bool[np.ndarray, "height width"]
) -> tuple[int, int]:
    """(intersection, union) of two masks, in pixels.

    Raises:
        InputError: the masks differ in size, or are not masks.

    >>> counts(np.array([[True, True, False]]), np.array([[False, True, True]]))
    (1, 3)
    """
    pred, gold = as_array(pred), as_array(gold)
    if pred.shape != gold.shape or pred.dtype != bool or gold.dtype != bool:
        raise InputError(
            f"cannot compare a {pred.dtype} mask of {pred.shape} with a {gold.dtype} mask of "
            f"{gold.shape}: give two bool arrays of the original image's size"
        )
    return int(np.count_nonzero(pred & gold)), int(np.count_nonzero(pred | gold))


def iou(
    intersections: Int[np.ndarray, "*rows"] | int, unions: Int[np.ndarray, "*rows"] | int
) -> Float[np.ndarray, "*rows"]:
    """Intersection over union of each row; 0 where both masks are empty."""
    intersections, unions = as_array(intersections), as_array(unions)
    # Only two empty masks have a union of 0, and then the intersection is 0 as well.
    return intersections / np.maximum(unions, 1)


def miou(intersections: Int[np.ndarray, " rows"], unions: Int[np.ndarray, " rows"]) -> float:
    """Mean IoU over the rows.

    >>> miou([1, 4], [2, 4])
    0.75
    """
    return float(np.mean(_rows(iou(intersections, unions))))


def oiou(intersections: Int[np.ndarray, " rows"], unions: Int[np.ndarray, " rows"]) -> float:
    """Overall IoU: the sum of the intersections over the sum of the unions.

    >>> round(oiou([1, 4], [2, 4]), 3)
    0.833
    """
    return float(iou(np.sum(_rows(intersections)), np.sum(_rows(unions))))


def precision_at(ious: Float[np.ndarray, " rows"], x: float) -> float:
    """P@X: the share of rows whose IoU is strictly above `x`.

    >>> precision_at([0.5, 0.6], 0.5)
    0.5
    """
    return float(np.mean(_rows(ious) > x))


def resample_weights(
    clusters: int, resamples: int = RESAMPLES, seed: int = 0
) -> Int[np.ndarray, "resamples clusters"]:
    """How often each cluster is drawn in each bootstrap resample."""
    chance = np.full(clusters, 1 / clusters)
    return np.random.default_rng(seed).multinomial(clusters, chance, size=resamples)


def percentiles(
    draws: Float[np.ndarray, " resamples *cells"], confidence: float = CONFIDENCE
) -> Float[np.ndarray, " 2 *cells"]:
    """The (low, high) ends of a percentile interval over bootstrap draws."""
    tail = (1 - confidence) / 2
    return np.quantile(draws, (tail, 1 - tail), axis=0)


def cluster_interval(
    values: Float[np.ndarray, " rows *columns"],
    groups: Shaped[np.ndarray, " rows"],
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """The (low, high) percentile interval of a statistic when whole clusters are resampled.

    Rows of one image are not independent: an interval over rows would be too narrow.

    Args:
        values: one row an example; for oIoU two columns, intersections and unions.
        groups: the cluster (image id) of each row.
        statistic: of the resampled rows, e.g. `lambda rows: oiou(*rows.T)`.

    Raises:
        InputError: no rows, a value that is not finite, or not one group a row.

    >>> low, high = cluster_interval([0.2, 0.4, 0.9], ["a", "a", "b"])
    >>> round(low, 2), high
    (0.3, 0.9)
    """
    values, groups = _rows(values), as_array(groups)
    if groups.shape != values.shape[:1]:
        raise InputError(f"{groups.shape} groups for {len(values)} rows: give one image id a row")
    names, cluster = np.unique(groups, return_inverse=True)
    weights = resample_weights(len(names), resamples, seed)
    draws = [statistic(np.repeat(values, drawn[cluster], axis=0)) for drawn in weights]
    low, high = percentiles(np.array(draws), confidence)
    return float(low), float(high)


def _rows(values: Shaped[np.ndarray, " rows *columns"]) -> Shaped[np.ndarray, " rows *columns"]:
    values = as_array(values)
    if values.ndim == 0 or len(values) == 0:
        raise InputError("a metric over no rows has no value: give at least one row")
    if not np.isfinite(values).all():
        bad = np.count_nonzero(~np.isfinite(values))
        raise InputError(
            f"{bad} values are not finite: count failed rows as errors, leave them out"
        )
    return values
