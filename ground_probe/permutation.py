"""Tests by lot: sign flips of paired differences, swaps of paired ratios, max-T and Holm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from ground_probe.errors import InputError, unknown
from ground_probe.metrics import as_numbers

PERMUTATIONS = 5000


def max_t(
    differences: Float[np.ndarray, "cells images"],
    *,
    fit_variance: Float[np.ndarray, " cells"] | float = 0.0,
    alternative: Literal["two-sided", "greater"] = "two-sided",
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Float[np.ndarray, " cells"]:
    """Sign-flip p-values of many cells, adjusted for looking at all of them.

    Each permutation flips the sign of whole images, in all cells alike, and keeps the largest
    studentised mean of any cell: the chance of at least one false discovery is then below p. A
    cell uses every image in which it has a value. Cells that differ in that number are compared on
    the scale of Student's p, which n signs cannot bring below 2^-n: few images make no cell large.

    Args:
        differences: paired differences; NaN for an image that has no value in a cell.
        fit_variance: of each cell's mean, over other images to fit on; what is observed is
            studentised with it, so that p sees them too. 0 where nothing was fitted.
        alternative: "two-sided" or "greater".
        permutations: how many.
        seed: of the signs.

    Raises:
        InputError: a cell with fewer than two images, an infinite difference.

    Source: Westfall and Young (1993), single step; with one cell a plain sign-flip test.
    """
    from scipy.stats import t  # takes longer to import than all else here

    if alternative not in ("two-sided", "greater"):
        raise unknown("alternative", alternative, ("two-sided", "greater"))
    differences = values_by_row(as_numbers(differences, "differences").T).T
    known = ~np.isnan(differences)
    n = known.sum(axis=1)
    if (n < 2).any():
        raise InputError(f"a cell has values in {n.min()} images: a permutation test needs 2")
    differences = np.where(known, differences, 0.0)
    # A flip keeps the squares, so a permuted variance follows from its mean.
    mean_square = (differences**2).sum(axis=1) / n

    def extremity(mean: np.ndarray, of: np.ndarray, beyond: Any = 0.0) -> np.ndarray:
        """Larger where a mean of some cells is less likely by chance."""
        variance = np.clip(mean_square[of] - mean**2, 1e-15, None) / (n[of] - 1)
        studentised = mean / np.sqrt(variance + beyond)
        studentised = studentised if alternative == "greater" else np.abs(studentised)
        if len(sizes) == 1:
            return studentised
        return -np.maximum(t.logsf(studentised, n[of] - 1), -n[of] * np.log(2))

    sizes, fit_variance = np.unique(n), np.broadcast_to(fit_variance, n.shape)
    flips = np.random.default_rng(seed).choice((-1.0, 1.0), size=(permutations, len(known.T)))
    largest = np.full(permutations, -np.inf)
    observed = np.empty(len(n))
    for size in sizes:
        of = np.flatnonzero(n == size)
        mean = flips @ differences[of].T / size
        largest = np.maximum(largest, extremity(mean, of).max(axis=1))
        observed[of] = extremity(differences[of].sum(axis=1) / size, of, fit_variance[of])
    exceed = (largest[:, None] >= observed - 1e-9).sum(axis=0)
    return (1 + exceed) / (1 + permutations)


def swap_p(
    difference: Callable[..., Float[np.ndarray, "draws cells"]],
    first: Sequence[Float[np.ndarray, "clusters cells"]],
    second: Sequence[Float[np.ndarray, "clusters cells"]],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Float[np.ndarray, " cells"]:
    """Two-sided p of a difference of ratios, if lots drew for each cluster which side is which.

    Args:
        difference: of (over, under) of the one side and (over, under) of the other.
        first: sums over each cluster's rows, (over, under).
        second: the other side's, of the same clusters.
        permutations: how many.
        seed: of the lots.
    """
    clusters = len(first[0])
    swap = np.random.default_rng(seed).integers(2, size=(permutations, clusters)).astype(float)
    one = [swap @ (y - x) + x.sum(0) for x, y in zip(first, second, strict=True)]
    other = [swap @ (x - y) + y.sum(0) for x, y in zip(first, second, strict=True)]
    observed = difference([x.sum(0) for x in first], [y.sum(0) for y in second])
    as_large = np.abs(difference(one, other)) >= np.abs(observed) - 1e-12
    return (1 + as_large.sum(axis=0)) / (1 + permutations)


def holm(p: Float[np.ndarray, " tests"] | Sequence[float]) -> Float[np.ndarray, " tests"]:
    """p-values of a family of tests, adjusted for their number.

    Args:
        p: of each test alone.

    Source: Holm (1979), A Simple Sequentially Rejective Multiple Test Procedure.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = as_numbers(p, "p-values")
    if not ((p >= 0) & (p <= 1)).all():
        raise InputError("p-values lie between 0 and 1: leave tests that have none out")
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def values_by_row(values: Any) -> Float[np.ndarray, "rows cells"]:
    """Numbers by row and cell; NaN stands for none, infinity for a mistake."""
    array = as_numbers(values, "values")
    if np.isinf(array).any():
        raise InputError("values hold infinities: leave out what failed, or mark it as NaN")
    return array.reshape(len(array), -1)
