"""The Fisher ratio, between-class over within-class scatter, held out and shrunk."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped
from sklearn.preprocessing import StandardScaler

from ground_probe.errors import InputError, unknown
from ground_probe.metrics import as_array
from ground_probe.probes.labels import checked_features, checked_labels, fold_of
from ground_probe.probes.per_image import score_estimate
from ground_probe.probes.scoring import held_out_scores, split_rows
from ground_probe.stats import Estimate, estimate


def fisher_ratio(
    features: Float[np.ndarray, "n d"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    *,
    form: Literal["direction", "trace"] = "direction",
    examples: Shaped[np.ndarray, " n"] | None = None,
    **how: Any,
) -> Estimate:
    """Held-out Fisher ratio: the mean over images, 0 where there is nothing to find at any width.

    >>> rng = np.random.default_rng(0)
    >>> labels, groups = np.tile([0, 1], 60), np.repeat(np.arange(6), 20)
    >>> features = rng.standard_normal((120, 3)) + 2 * labels[:, None]
    >>> fisher_ratio(features, labels, groups).value > 2
    True

    In sample the ratio grows with the number of features even on noise. Here the direction comes
    from some images and the distance along it from others, so that noise has either sign.

    Args:
        features: one row a token.
        labels: 1 for the object.
        groups: image id of each row.
        form: "direction" is d|d| / (v1 + v0) along the LDA direction (Ledoit-Wolf covariance) of
            the fitting images, with d the difference of the class means and v the class variances
            in the image. "trace" is D'd / (tr S1 + tr S0), with d the difference of the class
            means and S the class covariances in the image and D the difference in the fitting
            images; stable, and blind to correlations.
        examples: as in `per_image`; only with "direction".
        **how: `folds`, `seed`, `test_groups` of `held_out_scores`.

    Source: Fisher (1936); the cross-validated product: Walther et al. (2016), NeuroImage 137.
    """
    if form == "direction":
        scores = held_out_scores(features, labels, groups, "discriminant", **how)
        known = ~np.isnan(scores)
        labels, groups = as_array(labels)[known], as_array(groups)[known]
        examples = None if examples is None else as_array(examples)[known]
        return score_estimate(scores[known], labels, groups, metric="fisher", examples=examples)
    if form != "trace":
        raise unknown("form of the Fisher ratio", form, ("direction", "trace"))
    if examples is not None:
        raise InputError("the trace form knows one expression an image: leave examples out")
    return estimate(_traces(features, labels, groups, **how))


def _traces(features: Any, labels: Any, groups: Any, **how: Any) -> Float[np.ndarray, " images"]:
    labels, groups = checked_labels(labels, groups)
    features = as_array(checked_features(features, len(labels)))
    fold = fold_of(groups, labels, **how)
    ratios = []
    for train, test in split_rows(fold):
        scaler = StandardScaler().fit(features[train])
        unseen = scaler.transform(features[test])
        direction = _difference(scaler.transform(features[train]), labels[train])
        for image in np.unique(groups[test]):
            rows = groups[test] == image
            ratios.append(_trace(direction, unseen[rows], labels[test][rows]))
    return np.array(ratios)


def _trace(fitted: np.ndarray, features: np.ndarray, labels: np.ndarray) -> float:
    if min(labels.sum(), (~labels).sum()) < 2:
        return float("nan")
    within = sum(features[side].var(axis=0, ddof=1).sum() for side in (labels, ~labels))
    return float(fitted @ _difference(features, labels) / within) if within > 0 else float("nan")


def _difference(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return features[labels].mean(axis=0) - features[~labels].mean(axis=0)
