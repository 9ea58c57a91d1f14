"""The linear probe: ridge classification, its penalty chosen on left-out folds of images.

A scored fold i is predicted by a fit without it; the penalty of that fit is the one with the best
AUC on the other folds j, each predicted by a fit without i and j. All these fits are the columns
of one problem, which `ridge_weights` solves.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from ground_probe.probes.labels import (
    HELD_OUT,
    checked_features,
    checked_labels,
    fold_of,
    inner_folds,
)
from ground_probe.probes.per_image import per_image
from ground_probe.probes.ridge import ridge_weights

PENALTIES = (10.0, 1.0, 0.1, 0.01, 0.001)
"""Of standardized features, whose variance is 1."""

DRAWS = 50


def linear_scores(
    features: Float[Tensor, "n d"],
    labels: Bool[np.ndarray, " n"],
    fold: Int[np.ndarray, " n"],
    outer: list[int],
) -> Float[np.ndarray, " n"]:
    """Held-out scores of the folds `outer`, NaN elsewhere.

    Args:
        features: finite and of moderate scale, as from `checked_features`.
        labels: 1 for the object.
        fold: of each row, `HELD_OUT` for rows that no probe is fitted on.
        outer: folds to score.
    """
    x, decomposed = _standardized(features, fold)
    scores = np.full(len(labels), np.nan, dtype=np.float32)
    for i, (weights, _) in _chosen(x, labels, fold, outer, decomposed).items():
        scores[fold == i] = _applied(weights, x[_rows(fold == i, x)])
    return scores


def refit_scores(
    features: Float[np.ndarray, "n d"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    test_groups: Iterable,
    *,
    folds: int = 5,
    draws: int = DRAWS,
    seed: int = 0,
) -> Float[np.ndarray, "draws held_out"]:
    """Scores of test images by linear probes that are fitted on resampled fitting images.

    The variance over draws of what is made of them, such as a difference of two mean AUC, is what
    `stats.compare` asks for as `fit_variance`. Draws are the same for the same fitting images and
    seed, so that two probes are compared draw by draw. The penalty is chosen once.

    Args:
        features: one row a token.
        labels: 1 for the object.
        groups: image id of each row.
        test_groups: ids of images to score; all others are fitted on.
        folds: that choose the penalty.
        draws: how many refits.
        seed: of draws and folds.

    Returns:
        one row a draw, one column a row of the test images, in their order.

    Raises:
        InputError: as `held_out_scores`.

    >>> rng = np.random.default_rng(0)
    >>> labels, images = rng.random(400) < 0.3, np.arange(400) // 20
    >>> features = rng.normal(size=(400, 3)) + labels[:, None]
    >>> refit_scores(features, labels, images, range(15, 20)).shape
    (50, 100)
    """
    labels, groups = checked_labels(labels, groups)
    fold = fold_of(groups, labels, folds=folds, seed=seed, test_groups=test_groups)
    x, decomposed = _standardized(checked_features(features, len(labels)), fold)
    known = fold != HELD_OUT
    names, image = np.unique(groups[known], return_inverse=True)
    n = len(names)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    _, penalty = _chosen(x, labels, fold, [HELD_OUT], decomposed)[HELD_OUT]
    is_object = torch.from_numpy(labels[known]).to(x.device)
    drawn = torch.from_numpy(counts[:, image].T).to(x.device).float()
    (weights,) = ridge_weights(x[_rows(known, x)], is_object, drawn, [penalty], decomposed)
    return _applied(weights, x[_rows(~known, x)]).T


def _chosen(
    x: Float[Tensor, "n d"],
    labels: Bool[np.ndarray, " n"],
    fold: Int[np.ndarray, " n"],
    outer: list[int],
    decomposed: tuple[Tensor, Tensor],
) -> dict[int, tuple[Float[Tensor, " d1"], float]]:
    """For each fold to score, the weights of the fit without it and their penalty."""
    known = fold != HELD_OUT
    left_out = {(i, j): {i, j} - {HELD_OUT} for i in outer for j in (i, *inner_folds(fold, i))}
    fits = list(dict.fromkeys(map(frozenset, left_out.values())))
    column = {pair: fits.index(frozenset(folds)) for pair, folds in left_out.items()}
    seen = np.stack([~np.isin(fold[known], list(folds)) for folds in fits], axis=1)
    x, labels, fold = x[_rows(known, x)], labels[known], fold[known]
    is_object, counts = (torch.from_numpy(each).to(x.device) for each in (labels, seen))
    weights = ridge_weights(x, is_object, counts.float(), PENALTIES, decomposed)
    scores = np.stack([_applied(each, x) for each in weights])
    chosen = {}
    for i in outer:
        held = np.flatnonzero(fold != i)
        columns = [column[i, j] for j in fold[held]]
        auc = [
            per_image(each, labels[held], fold[held]).mean() for each in scores[:, held, columns]
        ]
        best = int(np.argmax(auc))
        chosen[i] = weights[best, :, column[i, i]], PENALTIES[best]
    return chosen


def _applied(weights: Float[Tensor, "d1 ..."], x: Float[Tensor, "n d"]) -> np.ndarray:
    return (x @ weights[:-1] + weights[-1]).cpu().numpy()


def _standardized(
    features: Float[Tensor, "n d"], fold: Int[np.ndarray, " n"]
) -> tuple[Float[Tensor, "n d"], tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]]:
    """By the rows that are fitted on, and the eigendecomposition of their covariance.

    Each fit is standardized by its own rows in `ridge_weights`.
    """
    known = _rows(fold != HELD_OUT, features)
    fitted = features[known]
    spread = fitted.std(dim=0)
    x = (features - fitted.mean(dim=0)) / torch.where(spread > 1e-6, spread, 1.0)
    fitted = x[known]
    spectrum, basis = torch.linalg.eigh(fitted.T @ fitted / len(fitted))
    return x, (spectrum, basis)


def _rows(rows: Bool[np.ndarray, " n"], of: Tensor) -> Bool[Tensor, " n"]:
    return torch.from_numpy(rows).to(of.device)
