"""From one score a token to one value an image, and from there to an estimate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from ground_probe.errors import InputError, unknown
from ground_probe.metrics import as_array, as_numbers
from ground_probe.probes.labels import checked_labels
from ground_probe.stats import Estimate, estimate


def per_image(
    scores: Float[np.ndarray, " n"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    *,
    metric: str = "auc",
    examples: Shaped[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, " images"]:
    """One value for each image, in the order of `np.unique(groups)`.

    Args:
        scores: higher for the object, all finite: leave out rows that were not scored.
        labels: 1 for the object.
        groups: image id of each row.
        metric: "auc", "average_precision" or "fisher" (signed).
        examples: id of the (image, expression) of each row where an image is asked about more than
            once; the metric is then taken within each and averaged over the image.

    Returns:
        NaN for an image without both classes.

    Raises:
        InputError: scores that are not finite numbers, or not one a row.

    >>> per_image([0.1, 0.9, 0.3, 0.2], [0, 1, 0, 1], ["a", "a", "b", "b"]).tolist()
    [1.0, 0.0]
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    labels, groups = checked_labels(labels, groups)
    scores = as_numbers(scores, "scores")
    if scores.shape != labels.shape:
        raise InputError(f"scores of shape {scores.shape} for {len(labels)} rows: give one a row")
    if not np.isfinite(scores).all():
        bad = np.count_nonzero(~np.isfinite(scores))
        raise InputError(
            f"{bad} of {len(scores)} scores are not finite: leave rows that were not scored out, "
            "and look for an overflow behind the others"
        )
    images, image = np.unique(groups, return_inverse=True)
    if examples is None:
        return METRICS[metric](scores, labels, image, len(images))
    examples = as_array(examples)
    if examples.shape != labels.shape:
        raise InputError(f"examples of shape {examples.shape} for {len(labels)} rows: one a row")
    names, first, example = np.unique(examples, return_index=True, return_inverse=True)
    image_of = image[first]
    if (image_of[example] != image).any():
        raise InputError("an example reaches over two images: make its id hold the image's")
    values = METRICS[metric](scores, labels, example, len(names))
    known = ~np.isnan(values)
    total = np.bincount(image_of[known], values[known], len(images))
    count = np.bincount(image_of[known], minlength=len(images))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def score_estimate(
    scores: Float[np.ndarray, " n"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    *,
    metric: str = "auc",
    examples: Shaped[np.ndarray, " n"] | None = None,
    seed: int = 0,
) -> Estimate:
    """The mean over images of `per_image`, its interval, and the pooled value beside it."""
    values = per_image(scores, labels, groups, metric=metric, examples=examples)
    everything = np.zeros(len(groups), dtype=int)
    pooled = per_image(scores, labels, everything, metric=metric)[0]
    return estimate(values, pooled=pooled, seed=seed)


def _auc(
    scores: Float[np.ndarray, " n"],
    labels: Bool[np.ndarray, " n"],
    image: Int[np.ndarray, " n"],
    images: int,
) -> Float[np.ndarray, " images"]:
    """Area under ROC of each image by mid-ranks, all images in one sort."""
    order = np.lexsort((scores, image))
    scores, labels, image = scores[order], labels[order], image[order]
    new_run = np.r_[True, (np.diff(scores) != 0) | (np.diff(image) != 0)]
    start = np.flatnonzero(new_run)
    end = np.r_[start[1:], len(scores)]
    mid_rank = ((start + end - 1) / 2)[np.cumsum(new_run) - 1]
    size = np.bincount(image, minlength=images)
    positive = np.bincount(image, labels, images)
    first = np.cumsum(size) - size
    rank_sum = np.bincount(image, labels * (mid_rank - first[image]), images)
    pairs = positive * (size - positive)
    wins = rank_sum - positive * (positive - 1) / 2
    return np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan)


def _average_precision(
    scores: Float[np.ndarray, " n"],
    labels: Bool[np.ndarray, " n"],
    image: Int[np.ndarray, " n"],
    images: int,
) -> Float[np.ndarray, " images"]:
    """Mean precision at the scores of each image's object tokens, ties counted together."""
    order = np.lexsort((-scores, image))
    scores, labels, image = scores[order], labels[order], image[order]
    end = np.flatnonzero(np.r_[(np.diff(scores) != 0) | (np.diff(image) != 0), True])
    size = np.bincount(image, minlength=images)
    positive = np.bincount(image, labels, images)
    hits, of = np.cumsum(labels)[end], image[end]
    seen = end + 1 - (np.cumsum(size) - size)[of]
    precision = (hits - (np.cumsum(positive) - positive)[of]) / seen
    total = np.bincount(of, np.diff(hits, prepend=0) * precision, images)
    both = (positive > 0) & (positive < size)
    return np.where(both, total / np.maximum(positive, 1), np.nan)


def _fisher(
    scores: Float[np.ndarray, " n"],
    labels: Bool[np.ndarray, " n"],
    image: Int[np.ndarray, " n"],
    images: int,
) -> Float[np.ndarray, " images"]:
    """(difference of the class means)^2 / (sum of the class variances), with the sign of it.

    A score whose direction was found on other images may point the wrong way here. Keeping the
    sign makes the mean over images 0 where there is nothing to find.
    """
    side = 2 * image + labels
    count = np.bincount(side, minlength=2 * images)
    mean = np.bincount(side, scores, 2 * images) / np.maximum(count, 1)
    square = np.bincount(side, (scores - mean[side]) ** 2, 2 * images)
    within = (square / np.maximum(count - 1, 1)).reshape(-1, 2).sum(axis=1)
    difference = mean[1::2] - mean[::2]
    known = (count.reshape(-1, 2).min(axis=1) > 1) & (within > 0)
    return np.where(known, difference * abs(difference) / np.where(known, within, 1), np.nan)


METRICS: dict[str, Callable[..., np.ndarray]] = {
    "auc": _auc,
    "average_precision": _average_precision,
    "fisher": _fisher,
}


def pointing_hit(
    score: Float[np.ndarray, "rows cols"], labels: Shaped[np.ndarray, "rows cols"]
) -> float:
    """Whether the highest token of a whole grid lies on the object, NaN without both classes.

    Where several are highest, the share of them that does.

    Raises:
        InputError: anything but two whole grids: the highest token of a sample of them is not the
            highest, and hits the object far too often.

    Source: Zhang et al. (2016), Top-down Neural Attention by Excitation Backprop; without its
    tolerance in pixels.

    >>> pointing_hit([[1, 9], [9, 0]], [[0, 1], [0, 0]])
    0.5
    """
    score, labels = as_numbers(score, "score"), as_numbers(labels, "labels")
    if score.ndim != 2 or score.shape != labels.shape:
        raise InputError(
            f"score of shape {score.shape}, labels of {labels.shape}: give the whole grid (rows, "
            "cols) of both, for the highest of a sample of tokens is not the highest"
        )
    if not np.isfinite(score).all() or not np.isin(labels, (0, 1)).all():
        raise InputError("give a finite score and labels 0 and 1 (see hard_labels)")
    return float(labels[score == score.max()].mean()) if 0 < labels.mean() < 1 else float("nan")
