"""How far a fitted probe's values move with the images that it is fitted on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Shaped

from ground_probe.probes.labels import HELD_OUT, checked_features, checked_labels, fold_of
from ground_probe.probes.linear import linear_refits

DRAWS = 50


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
    names, image = np.unique(groups[fold != HELD_OUT], return_inverse=True)
    n = len(names)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    return linear_refits(checked_features(features, len(labels)), labels, fold, counts[:, image])
