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
    high = low + peak * (values.max() - low)
    return apply_hysteresis_threshold(np.where(inside, score, -np.inf), low, high)


class GuidedFilter:
    """A filter that makes a score locally linear in an image's colors, so that their edges agree.

    Args:
        image: RGB.
        radius_px: of the square windows.

    Source: He, Sun and Tang (2013), Guided Image Filtering, the color version.
    """

    def __init__(self, image: Pixels, radius_px: int) -> None:
        self._size = 2 * radius_px + 1
        self._guide = np.moveaxis(image.astype(float) / 255, -1, 0)
        self._mean = self._box(self._guide)
        products = self._box(self._guide[:, None] * self._guide)
        covariance = products - self._mean[:, None] * self._mean
        ridge = np.moveaxis(covariance, (0, 1), (-2, -1)) + _EPSILON * np.eye(3)
        self._inverse = np.moveaxis(np.linalg.inv(ridge), (-2, -1), (0, 1))

    def __call__(self, score: Map) -> Map:
        """Filter a score of the image's size."""
        level = self._box(score)
        covariance = self._box(self._guide * score) - self._mean * level
        slope = (self._inverse * covariance).sum(1)
        offset = level - (slope * self._mean).sum(0)
        return (self._box(slope) * self._guide).sum(0) + self._box(offset)

    def _box(self, values: Float[np.ndarray, "*some height width"]) -> np.ndarray:
        return uniform_filter(values, self._size, mode="nearest", axes=(-2, -1))
