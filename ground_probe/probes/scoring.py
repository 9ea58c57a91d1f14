"""Probes that are fitted on some images and score the tokens of others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import has_fit_parameter

from ground_probe.errors import InputError, unknown
from ground_probe.metrics import as_array
from ground_probe.probes.labels import (
    checked_features,
    checked_labels,
    fold_of,
    inner_folds,
    outer_folds,
)
from ground_probe.probes.linear import linear_scores
from ground_probe.probes.per_image import score_estimate
from ground_probe.stats import Estimate


class Prototypes(ClassifierMixin, BaseEstimator):
    """Cosine to the object's mean less the cosine to the rest's: nothing is trained."""

    def fit(self, features: Float[np.ndarray, "n d"], labels: Bool[np.ndarray, " n"]) -> Prototypes:
        """Keep the two means."""
        self.classes_ = np.array([False, True])
        self.means_ = np.stack([features[labels == side].mean(axis=0) for side in (1, 0)])
        return self

    def decision_function(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Higher for the object."""
        return np.subtract(*cosine_similarity(features, self.means_).T)


ESTIMATORS: dict[str, Callable[[], Any]] = {
    "linear": lambda: None,  # all folds and penalties at once, see `linear`
    "discriminant": lambda: LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
    "prototype": Prototypes,
}
"""Probes by name; all of them see features that the fitting images standardize."""


def probe_auc(
    features: Float[np.ndarray, "n d"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    estimator: Any = "linear",
    *,
    folds: int = 5,
    seed: int = 0,
    test_groups: Iterable | None = None,
    examples: Shaped[np.ndarray, " n"] | None = None,
) -> Estimate:
    """Held-out AUC of a classifier of tokens: the mean over images, with its interval.

    Args:
        features: one row a token.
        labels: 1 for the object, 0 for what it is compared with.
        groups: image id of each row.
        estimator: any scikit-learn classifier, or a name of `ESTIMATORS`.
        folds: number of image folds.
        seed: of the assignment of images to folds.
        test_groups: fit on all other images and score these alone.
        examples: see `per_image`.

    Raises:
        InputError: as `held_out_scores`.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> rng = np.random.default_rng(0)
    >>> labels, images = rng.random(400) < 0.3, np.arange(400) // 20
    >>> features = rng.normal(size=(400, 3)) + 9 * labels[:, None]
    >>> probe_auc(features, labels, images, DecisionTreeClassifier()).value > 0.9
    True
    """
    how: Any = {"folds": folds, "seed": seed, "test_groups": test_groups}
    scores = held_out_scores(features, labels, groups, estimator, **how)
    return _estimated(scores, labels, groups, "auc", examples)


def linear_probe_auc(
    features: Float[np.ndarray, "n d"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    **how: Any,
) -> Estimate:
    """Held-out AUC of a ridge classifier: the mean over images.

    Features are standardized by the fitting images, and the penalty is chosen by the AUC on
    left-out folds of them.

    Args:
        features: one row a token.
        labels: 1 for the object.
        groups: image id of each row.
        **how: `folds`, `seed`, `test_groups`, `examples` of `probe_auc`.

    >>> rng = np.random.default_rng(0)
    >>> labels, images = rng.random(400) < 0.3, np.arange(400) // 20
    >>> linear_probe_auc(rng.normal(size=(400, 3)) + 9 * labels[:, None], labels, images).value
    1.0
    """
    return probe_auc(features, labels, groups, "linear", **how)


def fisher_ratio(
    features: Float[np.ndarray, "n d"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    *,
    examples: Shaped[np.ndarray, " n"] | None = None,
    **how: Any,
) -> Estimate:
    """Held-out Fisher ratio: the mean over images, 0 where there is nothing to find at any width.

    In sample the ratio grows with the number of features even on noise. Here the direction is that
    of LDA (Ledoit-Wolf covariance) on some images and the ratio d|d| / (v1 + v0) is taken along it
    in others, with d the difference of the class means and v the class variances in the image, so
    that noise has either sign.

    Args:
        features: one row a token.
        labels: 1 for the object.
        groups: image id of each row.
        examples: see `per_image`.
        **how: `folds`, `seed`, `test_groups` of `held_out_scores`.

    Source: Fisher (1936); the cross-validated product: Walther et al. (2016), NeuroImage 137.

    >>> rng = np.random.default_rng(0)
    >>> labels, groups = np.tile([0, 1], 60), np.repeat(np.arange(6), 20)
    >>> features = rng.standard_normal((120, 3)) + 2 * labels[:, None]
    >>> fisher_ratio(features, labels, groups).value > 2
    True
    """
    scores = held_out_scores(features, labels, groups, "discriminant", **how)
    return _estimated(scores, labels, groups, "fisher", examples)


def _estimated(scores: Any, labels: Any, groups: Any, metric: str, examples: Any) -> Estimate:
    """The estimate of the rows that were scored."""
    known = ~np.isnan(scores)
    labels, groups = as_array(labels)[known], as_array(groups)[known]
    examples = None if examples is None else as_array(examples)[known]
    return score_estimate(scores[known], labels, groups, metric=metric, examples=examples)


def held_out_scores(
    features: Float[np.ndarray, "n d"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    estimator: Any = "linear",
    *,
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
        estimator: a scikit-learn classifier with `decision_function` or `predict_proba`, or a name
            of `ESTIMATORS`. Where its `fit` takes groups (as a search's does), it is given folds.
        folds: number of image folds.
        seed: of the assignment of images to folds.
        test_groups: ids of images: fit on all others and score these alone; the folds then only
            choose the penalty.
        inside: score those other images as well, in folds of their own.

    Returns:
        Scores, higher for the object; NaN on rows outside `test_groups`, unless `inside`.

    Raises:
        InputError: no groups, soft or one-sided labels, too few images, features that are not
            finite numbers, unknown test groups, what is no classifier.
    """
    labels, groups = checked_labels(labels, groups)
    fold = fold_of(groups, labels, folds=folds, seed=seed, test_groups=test_groups)
    if isinstance(estimator, str):
        if estimator not in ESTIMATORS:
            raise unknown("probe", estimator, ESTIMATORS)
        checked = checked_features(features, len(labels))
        if estimator == "linear":
            return linear_scores(checked, labels, fold, outer_folds(fold, inside))
        array = as_array(checked)
        estimator = make_pipeline(StandardScaler(), ESTIMATORS[estimator]())
    else:
        array = as_array(checked_features(features, len(labels), rescale=False))
    scores = np.full(len(labels), np.nan)
    for outer in outer_folds(fold, inside):
        train, test = np.isin(fold, inner_folds(fold, outer)), fold == outer
        model = clone(estimator)
        asks = isinstance(model, BaseSearchCV) or has_fit_parameter(model, "groups")
        model.fit(array[train], labels[train], **({"groups": fold[train]} if asks else {}))
        if hasattr(model, "decision_function"):
            scores[test] = model.decision_function(array[test])
        elif hasattr(model, "predict_proba"):
            scores[test] = model.predict_proba(array[test])[:, 1]
        else:
            raise InputError(
                f"{type(model).__name__} has neither decision_function nor predict_proba: give a "
                "classifier that scores"
            )
    return scores
