"""The linear probe: l2 logistic regression, its penalty chosen on left-out folds of images.

A scored fold i is predicted by a fit without it; the penalty of that fit is the one with the least
log loss on every other fold j, predicted by a fit without i and j. All these fits and penalties are
the columns of one problem, which `logistic` solves.
"""

from __future__ import annotations

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
    on, known, names = features.device, fold != HELD_OUT, inner_folds(fold, HELD_OUT)
    pairs = [frozenset({i, j} - {HELD_OUT}) for i in outer for j in (i, *inner_folds(fold, i))]
    without = list(dict.fromkeys(pairs))
    mask = np.stack([~np.isin(fold[known], list(folds)) for folds in without], axis=1)
    fitted = features if known.all() else features[torch.from_numpy(known).to(on)]
    design = Design.of(fitted, torch.from_numpy(labels[known]).to(on))
    fits = Fits.of(design, torch.from_numpy(mask).to(on).float())
    weights, odds = fits.path(PENALTIES)

    member = torch.from_numpy(fold[known] == np.array(names)[:, None]).to(on).float()
    losses = member @ log_loss(odds, design.y) / member.sum(dim=1, keepdim=True)
    scores = np.full(len(labels), np.nan, dtype=np.float32)
    for i in outer:
        inner = [
            losses[:, names.index(j), without.index(frozenset({i, j} - {HELD_OUT}))]
            for j in inner_folds(fold, i)
        ]
        best = torch.stack(inner).mean(dim=0).argmin()
        at, rows = without.index(frozenset({i} - {HELD_OUT})), fold == i
        if i == HELD_OUT:
            unseen = design.placed(features[torch.from_numpy(rows).to(on)])
            chosen = fits.margin(weights[best], unseen)[:, at]
        else:
            chosen = odds[best, torch.from_numpy(rows[known]).to(on), at]
        scores[rows] = chosen.cpu().numpy()
    return scores
