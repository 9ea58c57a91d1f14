"""Scores that need no fitting: silhouette, and attention as it is."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Shaped
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import StandardScaler

from ground_probe.errors import InputError
from ground_probe.metrics import as_array, as_numbers
from ground_probe.probes.labels import checked_features, checked_labels
from ground_probe.probes.per_image import score_estimate
from ground_probe.stats import Estimate, estimate


def silhouette(
    features: Float[np.ndarray, "n d"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
) -> Estimate:
    """Mean silhouette of object and rest within each image, in [-1, 1]; 0 for no clusters.

    An image of two tokens has none.

    Features are standardised over all rows, without a look at the labels.
    """
    labels, groups = checked_labels(labels, groups)
    features = as_array(checked_features(features, len(labels)))
    features = StandardScaler().fit_transform(features)
    per_image = [
        silhouette_score(features[rows], labels[rows])
        if len(rows) > 2 and 0 < labels[rows].sum() < len(rows)
        else np.nan
        for rows in (np.flatnonzero(groups == image) for image in np.unique(groups))
    ]
    return estimate(np.array(per_image))


def attention_auc(
    attention: Float[np.ndarray, " n"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    *,
    examples: Shaped[np.ndarray, " n"] | None = None,
) -> Estimate:
    """AUC of the attention each token gives: the mean over images.

    Args:
        attention: of each image token to the phrase, or any score that is higher on the object.
        labels: 1 for the object.
        groups: image id of each row.
        examples: see `per_image`.
    """
    return score_estimate(attention, labels, groups, examples=examples)


def pointing_hit(
    score: Float[np.ndarray, "rows cols"], labels: Shaped[np.ndarray, "rows cols"]
) -> float:
    """Whether the highest token of a whole grid lies on the object, NaN without both classes.

    Where several are highest, the share of them that does.

    Raises:
        InputError: anything but two whole grids: the highest token of a sample of them is not the
            highest, and hits the object far too often.

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


def pointing_game(
    scores: Iterable[Float[np.ndarray, "rows cols"]],
    labels: Iterable[Shaped[np.ndarray, "rows cols"]],
    groups: Iterable,
) -> Estimate:
    """The share of images whose highest token, of the whole grid, lies on the object.

    Args:
        scores: a whole grid an expression.
        labels: likewise, 1 for the object.
        groups: image id of each; the hits of an image are averaged first.

    Source: Zhang et al. (2016), Top-down Neural Attention by Excitation Backprop; without its
    tolerance in pixels.

    >>> pointing_game([[[1, 9], [3, 0]]], [[[0, 1], [0, 0]]], ["a"]).value
    1.0
    """
    hits = np.array([pointing_hit(*pair) for pair in zip(scores, labels, strict=True)])
    images, image = np.unique(as_array(list(groups)), return_inverse=True)
    if image.shape != hits.shape:
        raise InputError(f"{len(image)} groups for {len(hits)} grids: give one image id a grid")
    known = ~np.isnan(hits)
    count = np.bincount(image[known], minlength=len(images))
    total = np.bincount(image[known], hits[known], minlength=len(images))
    return estimate(np.where(count > 0, total / np.maximum(count, 1), np.nan))
