"""Mask metrics by the zero-shot benchmark's protocol.

A row is a sentence. mIoU is the mean of the rows' IoU; oIoU (also cIoU, overall) is the sum of
the intersections over the sum of the unions. All are fractions. Rows that could not be run are
errors for the caller to count: they have no place in these arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Real, Shaped

from ground_probe.errors import InputError


def as_array(values: Any) -> Shaped[np.ndarray, " ..."]:
    """A NumPy array of anything array-like, torch tensors of any device and type included."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    array = np.asarray(values)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def as_numbers(values: Any, what: str) -> Float[np.ndarray, " ..."]:
    """Numbers or booleans of any type, pandas' nullable ones included, as float64.

    Args:
        values: array-like.
        what: they are called in the error.

    Raises:
        InputError: values that are no numbers, or missing ones in a nullable or object column.
    """
    array = as_array(values)
    if array.dtype.kind in "biuf":
        return array.astype(np.float64)
    try:
        return np.array(array.tolist(), dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"{what} are not all numbers (dtype {array.dtype}): leave missing ones out"
        ) from None


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
    intersections: Real[np.ndarray, "*rows"] | int, unions: Real[np.ndarray, "*rows"] | int
) -> Float[np.ndarray, "*rows"] | float:
    """Intersection over union of each row; 0 where both masks are empty."""
    intersections, unions = as_array(intersections), as_array(unions)
    # Only two empty masks have a union of 0, and then the intersection is 0 as well.
    return intersections / np.maximum(unions, 1)


def miou(intersections: Real[np.ndarray, " rows"], unions: Real[np.ndarray, " rows"]) -> float:
    """Mean IoU over the rows.

    >>> miou([1, 4], [2, 4])
    0.75
    """
    return float(np.mean(_rows(iou(intersections, unions))))


def oiou(intersections: Real[np.ndarray, " rows"], unions: Real[np.ndarray, " rows"]) -> float:
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


def box_counts(
    pred: Bool[np.ndarray, "height width"], gold: Bool[np.ndarray, "height width"]
) -> tuple[int, int]:
    """(intersection, union) of the boxes around two masks, in pixels.

    Box accuracy (REC, acc@.5) of masks is `precision_at` 0.5 of the IoU of these.

    Raises:
        InputError: the masks differ in size, or are not masks.

    >>> box_counts(np.array([[True, False, True, False]]), np.array([[False, True, True, True]]))
    (2, 4)
    """
    counts(pred, gold)
    filled = [np.zeros(as_array(gold).shape, dtype=bool) for _ in range(2)]
    for box, mask in zip(filled, (pred, gold), strict=True):
        rows, cols = (np.flatnonzero(as_array(mask).any(axis=axis)) for axis in (1, 0))
        if len(rows):
            box[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] = True
    return counts(*filled)


def _rows(
    values: Shaped[np.ndarray, " rows *columns"] | float,
) -> Shaped[np.ndarray, " rows *columns"]:
    values = as_array(values)
    if values.ndim == 0 or len(values) == 0:
        raise InputError("a metric over no rows has no value: give at least one row")
    if not np.isfinite(values).all():
        bad = np.count_nonzero(~np.isfinite(values))
        raise InputError(
            f"{bad} values are not finite: count failed rows as errors, leave them out"
        )
    return values
