"""Probes that are fitted on some images and score the tokens of others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ground_probe.errors import unknown
from ground_probe.metrics import as_array
from ground_probe.probes.intervals import Estimate
from ground_probe.probes.per_image import score_estimate
from ground_probe.probes.rows import (
    checked_features,
    checked_labels,
    fold_of,
    inner_folds,
    outer_folds,
)

Rows = np.ndarray
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def held_out_scores(
    features: Float[np.ndarray, "n d"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    *,
    probe: str,
    folds: int = 5,
    seed: int = 0,
    test_groups: Iterable | None = None,
    inside: bool = False,
) -> Float[np.ndarray, " n"]:
    """A score for each token from a probe that never saw a token of the same image.

    Args:
        features: one row a token.
        labels: 1 for the object, 0 for what it is compared with.
        groups: image id of each row.
        probe: a name of `PROBES`. All of them standardise with the fitting images' moments;
            "linear" is the probe of `linear_probe_auc` by scikit-learn, for reference.
        folds: number of image folds.
        seed: of the assignment of images to folds.
        test_groups: fit on all other images and score these alone; the folds then only choose
            the penalty.
        inside: score those other images as well, in folds of their own.

    Returns:
        Scores, higher for the object; NaN on rows outside `test_groups`, unless `inside`.

    Raises:
        InputError: no groups, soft or one-sided labels, too few images, an unknown probe.
    """
    if probe not in PROBES:
        raise unknown("probe", probe, PROBES)
    labels, groups = checked_labels(labels, groups)
    features = as_array(checked_features(features, len(labels)))
    fold = fold_of(groups, labels, folds=folds, seed=seed, test_groups=test_groups)
    scores = np.full(len(labels), np.nan)
    for train, test, fitted, unseen in standardised(features, fold, inside=inside):
        scores[test] = PROBES[probe](fitted, labels[train], fold[train], unseen)
    return scores


def standardised(
    features: Float[np.ndarray, "n d"], fold: Int[np.ndarray, " n"], *, inside: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """For each scored fold: rows to fit on, rows to score, and both standardised by the former."""
    for outer in outer_folds(fold, inside):
        train, test = np.isin(fold, inner_folds(fold, outer)), fold == outer
        scaler = StandardScaler().fit(features[train])
        yield train, test, scaler.transform(features[train]), scaler.transform(features[test])


def prototype_auc(
    features: Float[np.ndarray, "n d"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    **how: Any,
) -> Estimate:
    """AUC of the cosine to the object's mean less the cosine to the rest's: nothing is trained."""
    return _estimate("prototype", features, labels, groups, **how)


def neighbours_auc(
    features: Float[np.ndarray, "n d"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    **how: Any,
) -> Estimate:
    """AUC of the object's share among the 20 nearest tokens of other images, by distance."""
    return _estimate("neighbours", features, labels, groups, **how)


def linear_classifier() -> GridSearchCV:
    """The l2 logistic probe; fit it with `groups=` the fold of each row."""
    logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    choices = {"logisticregression__C": PENALTIES}
    return GridSearchCV(logistic, choices, cv=LeaveOneGroupOut(), scoring="neg_log_loss")


def _estimate(
    probe: str,
    features: Any,
    labels: Any,
    groups: Any,
    *,
    examples: Any = None,
    **how: Any,
) -> Estimate:
    scores = held_out_scores(features, labels, groups, probe=probe, **how)
    return score_estimate(scores, labels, groups, examples=examples)


def _linear(train: Rows, labels: Rows, fold: Rows, test: Rows) -> Rows:
    return linear_classifier().fit(train, labels, groups=fold).decision_function(test)


def _discriminant(train: Rows, labels: Rows, _fold: Rows, test: Rows) -> Rows:
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    return lda.fit(train, labels).decision_function(test)


def _prototype(train: Rows, labels: Rows, _fold: Rows, test: Rows) -> Rows:
    prototypes = np.stack([train[labels].mean(axis=0), train[~labels].mean(axis=0)])
    to_object, to_rest = cosine_similarity(test, prototypes).T
    return to_object - to_rest


def _neighbours(train: Rows, labels: Rows, _fold: Rows, test: Rows) -> Rows:
    nearest = KNeighborsClassifier(n_neighbors=min(20, len(train)), weights="distance")
    return nearest.fit(train, labels).predict_proba(test)[:, 1]


PROBES: dict[str, Callable[..., np.ndarray]] = {
    "linear": _linear,
    "discriminant": _discriminant,
    "prototype": _prototype,
    "neighbours": _neighbours,
}
