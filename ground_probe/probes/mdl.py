"""Minimum description length: how cheaply a probe can tell the labels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Float, Shaped
from scipy.special import expit

from ground_probe.errors import InputError
from ground_probe.probes.labels import HELD_OUT, checked_features, checked_labels, fold_of
from ground_probe.probes.linear import linear_scores
from ground_probe.stats import Estimate, bootstrap

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


def mdl_compression(
    features: Float[np.ndarray, "n d"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    *,
    seed: int = 0,
) -> Estimate:
    """How many times shorter the labels become when a linear probe tells them, by the online code.

    Images come in blocks that double. The labels of a block are coded with the probe fitted on all
    blocks before it, the first block with one bit a token. The rival code knows only the share of
    the object in the blocks before: compression of 1 says that the features tell nothing, below 1
    that fitting them did harm. (Voita and Titov's rival is the uniform code, which an unbalanced
    label beats without any features.)

    Args:
        features: one row a token.
        labels: 1 for the object.
        groups: image id of each row; at least 48 images, so that 3 are in the first block.
        seed: of the order of the images.

    Source: Voita and Titov (2020), Information-Theoretic Probing with MDL.
    """
    labels, groups = checked_labels(labels, groups)
    features = checked_features(features, len(labels))
    images, image = np.unique(groups, return_inverse=True)
    n = len(images)
    cuts = [int(n * share) for share in SHARES]
    if cuts[0] < 3:
        raise InputError(f"{n} images: the online code needs 48, 3 in its first block")
    place = np.random.default_rng(seed).permutation(n)[image]
    rival, probe = np.ones((2, len(labels)))
    for start, stop in pairwise(cuts):
        before, block = place < start, (start <= place) & (place < stop)
        share = (labels[before].sum() + 1) / (before.sum() + 2)
        rival[block] = _bits(np.full(block.sum(), share), labels[block])
        fold = np.full(len(labels), HELD_OUT)
        fold[before] = fold_of(groups[before], labels[before], folds=min(5, start), seed=seed)
        known = place < stop
        odds = linear_scores(features[known], labels[known], fold[known], [HELD_OUT])
        probe[block] = _bits(expit(odds[block[known]]), labels[block])
    value, low, high = bootstrap(rival[:, None], probe[:, None], groups, seed=seed)
    return Estimate(float(value[0]), float(low[0]), float(high[0]), n)


def _bits(chance: np.ndarray, labels: np.ndarray) -> Float[np.ndarray, " n"]:
    return -np.log2(np.clip(np.where(labels, chance, 1 - chance), 1e-12, None))
