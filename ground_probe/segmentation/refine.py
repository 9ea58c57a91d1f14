"""From a map on the image's pixels to a mask: edges that follow the image, and a threshold."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import uniform_filter
from skimage.filters import apply_hysteresis_threshold

Map = Float[np.ndarray, "height width"]
Mask = Bool[np.ndarray, "height width"]
Pixels = UInt8[np.ndarray, "height width 3"]

_EPSILON = 1e-3


def otsu(values: Float[np.ndarray, " values"]) -> float:
    """The cut of most variance between the two sides, exact: no histogram.

    Source: Otsu (1979), A Threshold Selection Method from Gray-Level Histograms.

    >>> otsu(np.array([0.0, 1.0, 33.0]))
    17.0
    """
    ordered = np.sort(values)
    below = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)
    excess = sums[-1] * below / len(ordered) - sums[:-1]
    at = np.argmax(excess**2 / (below * (len(ordered) - below)))
    return float((ordered[at] + ordered[at + 1]) / 2)


def threshold(score: Map, rule: str, inside: Mask, peak: float = 0.0) -> Mask:
    """Pixels above a fixed rule's threshold; none where the score is the same everywhere.

    Args:
        score: at the image's size.
        rule: "otsu", or "half" of the way between the lowest and the highest score.
        inside: the pixels that the token grid covers; the others are never in a mask.
        peak: share of the highest score, above the threshold, that a connected region must reach.
    """
    values = score[inside]
    if np.ptp(values) < 1e-9:
        return np.zeros(score.shape, bool)
    low = otsu(values) if rule == "otsu" else (values.min() + values.max()) / 2
    if not peak:
        return inside & (score > low)
    high = low + peak * (values.max() - low)
    return apply_hysteresis_threshold(np.where(inside, score, -np.inf), low, high)


class GuidedFilter:
    """A filter that makes a score locally linear in an image's colors, so that their edges agree.

    The coefficients of large windows vary slowly: they are computed on every few pixels only.

    Args:
        image: RGB.
        radius_px: of the square windows.

    Source: He, Sun and Tang (2013), Guided Image Filtering, the color version; He and Sun (2015),
    Fast Guided Filter.
    """

    def __init__(self, image: Pixels, radius_px: int) -> None:
        self._every = max(1, radius_px // 4)
        self._size = 2 * round(radius_px / self._every) + 1
        self._guide = np.moveaxis(image.astype(np.float32) / 255, -1, 0)
        self._few = self._guide[self._sampled]
        self._mean = self._box(self._few)
        products = self._box(self._few[:, None] * self._few)
        covariance = products - self._mean[:, None] * self._mean
        covariance += np.float32(_EPSILON) * np.eye(3, dtype=np.float32)[..., None, None]
        self._inverse = _inverse(covariance)
        self._up = [
            _hat(pixels, self._every, count)
            for pixels, count in zip(image.shape[:2], self._few.shape[1:], strict=True)
        ]

    def __call__(self, score: Map) -> Map:
        """Filter a score of the image's size."""
        few = np.asarray(score, np.float32)[self._sampled]
        averages = self._box(np.concatenate([few[None], self._few * few]))
        level, covariance = averages[0], averages[1:] - self._mean * averages[0]
        slope = (self._inverse * covariance).sum(1)
        offset = level - (slope * self._mean).sum(0)
        lines = self._box(np.concatenate([slope, offset[None]]))
        lines = self._up[0] @ lines @ self._up[1].T
        return (lines[:3] * self._guide).sum(0) + lines[3]

    @property
    def _sampled(self) -> tuple:
        every = slice(self._every // 2, None, self._every)
        return ..., every, every

    def _box(self, values: Float[np.ndarray, "*some height width"]) -> np.ndarray:
        return uniform_filter(values, self._size, mode="nearest", axes=(-2, -1))


def _inverse(matrices: Float[np.ndarray, "3 3 *shape"]) -> Float[np.ndarray, "3 3 *shape"]:
    """Of symmetric matrices, by cofactors: far cheaper than a solver's call for each pixel."""
    (a, b, c), (_, d, e), (_, _, f) = matrices
    upper = [
        d * f - e * e,
        c * e - b * f,
        b * e - c * d,
        a * f - c * c,
        b * c - a * e,
        a * d - b * b,
    ]
    determinant = a * upper[0] + b * upper[1] + c * upper[2]
    return np.stack(upper)[[[0, 1, 2], [1, 3, 4], [2, 4, 5]]] / determinant


def _hat(pixels: int, every: int, count: int) -> Float[np.ndarray, "pixels count"]:
    """Linear interpolation along an axis between each so-manieth pixel."""
    position = np.clip((np.arange(pixels) - every // 2) / every, 0, count - 1)
    weight = 1 - np.abs(position[:, None] - np.arange(count))
    return np.clip(weight, 0, None).astype(np.float32)
