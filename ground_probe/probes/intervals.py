"""From one value an image to an estimate: cluster bootstrap, paired comparison, max-T."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Float

from ground_probe.errors import InputError
from ground_probe.metrics import CONFIDENCE, RESAMPLES, as_array, percentiles, resample_weights

PERMUTATIONS = 5000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over images with its interval.

    Args:
        value: mean over the images.
        low: lower end of the cluster bootstrap interval; NaN for a single image.
        high: its upper end.
        n: images that have a value.
        n_left_out: images that have none, for want of one of the two classes.
        pooled: the same metric over the tokens of all images at once; NaN where it has no sense.
    """

    value: float
    low: float
    high: float
    n: int
    n_left_out: int = 0
    pooled: float = float("nan")


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean paired difference over images, its interval and its sign-flip p-value."""

    value: float
    low: float
    high: float
    n: int
    p: float


def estimate(
    per_image: Float[np.ndarray, " images"],
    *,
    pooled: float = float("nan"),
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The mean of one value an image, with a percentile interval over resampled images.

    Args:
        per_image: NaN for an image that has no value.
        pooled: carried into the estimate.

    Raises:
        InputError: no image has a value.

    >>> estimate([0.5, 1.0, float("nan")]).value
    0.75
    """
    per_image = as_array(per_image)
    values = per_image[~np.isnan(per_image)]
    n = len(values)
    if n == 0:
        raise InputError("no image has both classes: there is nothing to estimate")
    low = high = float("nan")
    if n > 1:
        low, high = percentiles(_weights(n, resamples, seed) @ values / n, confidence).tolist()
    return Estimate(float(values.mean()), low, high, n, len(per_image) - n, float(pooled))


def compare(
    first: Float[np.ndarray, " images"],
    second: Float[np.ndarray, " images"],
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Difference:
    """`first` minus `second` on the same images: paired bootstrap, two-sided sign-flip p.

    Raises:
        InputError: the two do not cover the same images.
    """
    first, second = as_array(first), as_array(second)
    if first.shape != second.shape or first.ndim != 1:
        raise InputError(
            f"cannot pair {first.shape} with {second.shape}: give one value an image, same images"
        )
    found = estimate(first - second, confidence=confidence, seed=seed)
    (p,) = max_t((first - second)[None], seed=seed)
    return Difference(found.value, found.low, found.high, found.n, float(p))


def max_t(
    differences: Float[np.ndarray, "cells images"],
    *,
    alternative: Literal["two-sided", "greater"] = "two-sided",
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Float[np.ndarray, " cells"]:
    """Sign-flip p-values of many cells, adjusted for looking at all of them.

    Each permutation flips the sign of whole images, in all cells alike, and keeps the largest
    studentised mean of any cell: the chance of at least one false discovery is then below p.

    Args:
        differences: paired differences; images that miss a value in any cell are left out.

    Source: Westfall and Young (1993), single step; with one cell a plain sign-flip test.
    """
    differences = as_array(differences)
    differences = differences[:, ~np.isnan(differences).any(axis=0)]
    n = differences.shape[1]
    if n < 2:
        raise InputError(f"{n} images have a value in every cell: a permutation test needs 2")
    # A flip keeps the squares, so a permuted variance follows from its mean.
    mean_square = (differences**2).mean(axis=1)

    def studentised(mean: np.ndarray) -> np.ndarray:
        deviation = np.sqrt(np.clip(mean_square - mean**2, 1e-15, None))
        return mean / deviation if alternative == "greater" else np.abs(mean) / deviation

    flips = np.random.default_rng(seed).choice((-1.0, 1.0), size=(permutations, n))
    largest = studentised(flips @ differences.T / n).max(axis=1)
    observed = studentised(differences.mean(axis=1))
    exceed = (largest[:, None] >= observed - 1e-9).sum(axis=0)
    return (1 + exceed) / (1 + permutations)


def holm(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """p-values of a family of tests, adjusted for their number.

    Args:
        p: of each test alone.

    Source: Holm (1979), A Simple Sequentially Rejective Multiple Test Procedure.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = as_array(p)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


@lru_cache(maxsize=8)
def _weights(n: int, resamples: int, seed: int) -> np.ndarray:
    return resample_weights(n, resamples, seed)
