"""Scores that need no fitting: silhouette, and attention as it is."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Shaped
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import StandardScaler

from ground_probe.metrics import as_array
from ground_probe.probes.intervals import Estimate, estimate
from ground_probe.probes.per_image import score_estimate
from ground_probe.probes.rows import checked_features, checked_labels


def silhouette(
    features: Float[np.ndarray, "n d"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
) -> Estimate:
    """Mean silhouette of object and rest within each image, in [-1, 1]; 0 for no clusters.

    Features are standardised over all rows, without a look at the labels.
    """
    labels, groups = checked_labels(labels, groups)
    features = as_array(checked_features(features, len(labels)))
    features = StandardScaler().fit_transform(features)
    per_image = [
        silhouette_score(features[rows], labels[rows])
        if 0 < labels[rows].sum() < len(rows)
        else np.nan
        for rows in (np.flatnonzero(groups == image) for image in np.unique(groups))
    ]
    return estimate(np.array(per_image))


def attention_auc(
    attention: Float[np.ndarray, " n"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    *,
    metric: str = "auc",
    examples: Shaped[np.ndarray, " n"] | None = None,
) -> Estimate:
    """AUC (or "average_precision") of the attention each token gives: the mean over images.

    Args:
        attention: of each image token to the phrase, or any score that is higher on the object.
        labels: 1 for the object.
        groups: image id of each row.
        metric: see `per_image`.
        examples: see `per_image`.
    """
    return score_estimate(attention, labels, groups, metric=metric, examples=examples)


def pointing_game(
    attention: Float[np.ndarray, " n"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    *,
    examples: Shaped[np.ndarray, " n"] | None = None,
) -> Estimate:
    """The share of images whose highest token lies on the object.

    Source: Zhang et al. (2016), Top-down Neural Attention by Excitation Backprop; without its
    tolerance in pixels.
    """
    return score_estimate(attention, labels, groups, metric="pointing", examples=examples)
