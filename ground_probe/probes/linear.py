"""The linear probe: l2 logistic regression, its penalty chosen on left-out folds of images.

A scored fold i is predicted by a fit without it; the penalty of that fit is the one with the least
log loss on every other fold j, predicted by a fit without i and j. All these fits and penalties are
the columns of one problem, which `logistic` solves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ground_probe.probes.labels import HELD_OUT, inner_folds
from ground_probe.probes.logistic import Design, Fits, log_loss

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Choices of C, as scikit-learn defines it."""


def linear_scores(
    features: Float[Tensor, "n d"],
    labels: Bool[np.ndarray, " n"],
    fold: Int[np.ndarray, " n"],
    outer: list[int],
) -> Float[np.ndarray, " n"]:
    """Held-out log odds of the folds `outer`, NaN elsewhere.

    Args:
        features: finite and of moderate scale, as from `checked_features`.
        labels: 1 for the object.
        fold: of each row, `HELD_OUT` for rows that no probe is fitted on.
        outer: folds to score.
    """
    folds = _Folds.of(features, labels, fold, outer)
    scores = np.full(len(labels), np.nan, dtype=np.float32)
    for i in outer:
        best, at, rows = folds.penalty(i), folds.column(i), fold == i
        if i == HELD_OUT:
            unseen = folds.fits.design.placed(_rows(features, rows))
            chosen = folds.fits.margin(folds.weights[best], unseen)[:, at]
        else:
            chosen = folds.odds[best, torch.from_numpy(rows[folds.known]).to(features.device), at]
        scores[rows] = chosen.cpu().numpy()
    return scores


def linear_refits(
    features: Float[Tensor, "n d"],
    labels: Bool[np.ndarray, " n"],
    fold: Int[np.ndarray, " n"],
    counts: Int[np.ndarray, "draws fitted"],
) -> Float[np.ndarray, "draws held_out"]:
    """Log odds of the held-out rows by probes whose fitting rows count more than once, or not.

    All draws are columns of one problem; the penalty is that of the fit on every row once.

    Args:
        features: finite and of moderate scale, as from `checked_features`.
        labels: 1 for the object.
        fold: of each row, `HELD_OUT` for rows to score.
        counts: how often each row that is not held out counts.
    """
    folds = _Folds.of(features, labels, fold, [HELD_OUT])
    design = folds.fits.design
    drawn = Fits.of(design, torch.from_numpy(counts.T).to(features.device).float())
    weights, _ = drawn.path([PENALTIES[folds.penalty(HELD_OUT)]])
    unseen = design.placed(_rows(features, fold == HELD_OUT))
    return drawn.margin(weights[0], unseen).T.cpu().numpy()


@dataclass(frozen=True, slots=True)
class _Folds:
    """Fits without one or two folds each, at every penalty, and what they lose on the folds."""

    known: Bool[np.ndarray, " n"]
    names: list[int]
    without: list[frozenset[int]]
    fits: Fits
    weights: Float[Tensor, "penalties d1 fits"]
    odds: Float[Tensor, "penalties fitted fits"]
    losses: Float[Tensor, "penalties folds fits"]

    @classmethod
    def of(cls, features: Tensor, labels: np.ndarray, fold: np.ndarray, outer: list[int]) -> _Folds:
        on, known, names = features.device, fold != HELD_OUT, inner_folds(fold, HELD_OUT)
        pairs = [frozenset({i, j} - {HELD_OUT}) for i in outer for j in (i, *inner_folds(fold, i))]
        without = list(dict.fromkeys(pairs))
        mask = np.stack([~np.isin(fold[known], list(folds)) for folds in without], axis=1)
        fitted = features if known.all() else _rows(features, known)
        design = Design.of(fitted, torch.from_numpy(labels[known]).to(on))
        fits = Fits.of(design, torch.from_numpy(mask).to(on).float())
        weights, odds = fits.path(PENALTIES)
        member = torch.from_numpy(fold[known] == np.array(names)[:, None]).to(on).float()
        losses = member @ log_loss(odds, design.y) / member.sum(dim=1, keepdim=True)
        return cls(known, names, without, fits, weights, odds, losses)

    def column(self, *left_out: int) -> int:
        return self.without.index(frozenset(left_out) - {HELD_OUT})

    def penalty(self, outer: int) -> int:
        """The penalty with the least loss on the folds that the fit for `outer` sees."""
        inner = [
            self.losses[:, self.names.index(j), self.column(outer, j)]
            for j in self.names
            if j != outer
        ]
        return int(torch.stack(inner).mean(dim=0).argmin())


def _rows(features: Tensor, rows: Bool[np.ndarray, " n"]) -> Tensor:
    return features[torch.from_numpy(rows).to(features.device)]
