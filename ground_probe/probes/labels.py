"""What every probe starts from: rows of tokens, each with a label and the image it belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Shaped
from sklearn.model_selection import GroupKFold
from torch import Tensor

from ground_probe.errors import InputError
from ground_probe.metrics import as_array, as_numbers

HELD_OUT = -1


def hard_labels(
    soft: Float[np.ndarray, " ..."], lower: float = 0.0, upper: float = 0.5
) -> tuple[Bool[np.ndarray, " ..."], Bool[np.ndarray, " ..."]]:
    """Labels of tokens from the fraction of each that the object covers, with an ignore band.

    Args:
        soft: fractions, as from `Geometry.soft_labels`.
        lower: at most this much covered is background.
        upper: at least this much covered is object; in between a token is ignored.

    Returns:
        The labels, and which tokens to keep.

    >>> labels, keep = hard_labels([0.0, 0.3, 0.5])
    >>> labels.tolist(), keep.tolist()
    ([False, False, True], [True, False, True])
    """
    if not 0 <= lower < upper <= 1:
        raise InputError(f"ignore band ({lower}, {upper}): give 0 <= lower < upper <= 1")
    rounding = 1e-6  # a cell that is covered by exactly half must not fall to either side
    soft = as_numbers(soft, "fractions")
    labels = soft >= upper - rounding
    return labels, labels | (soft <= lower + rounding)


def checked_labels(
    labels: Shaped[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"]
) -> tuple[Bool[np.ndarray, " n"], Shaped[np.ndarray, " n"]]:
    """Labels as bool and groups as an array, once both are found fit for a probe.

    Raises:
        InputError: no groups, soft labels, a single class, or unequal lengths.
    """
    if groups is None:
        raise InputError(
            "a probe without groups refuses to run, tokens of one image would be trained and "
            "tested on: give the image id of each row"
        )
    labels, groups = as_numbers(labels, "labels"), as_array(groups)
    if labels.ndim != 1 or groups.shape != labels.shape:
        raise InputError(
            f"labels of shape {labels.shape} and groups of {groups.shape}: give one a row"
        )
    if pd.isna(groups).any():
        raise InputError(f"{pd.isna(groups).sum()} rows have no image id: give one to each row")
    values = np.unique(labels)
    if not np.isin(values, (0, 1)).all():
        raise InputError(
            f"labels hold {len(values)} values from {values[0]:g} to {values[-1]:g}, a probe needs "
            "0 and 1: turn soft labels into hard ones with hard_labels"
        )
    if len(values) < 2:
        raise InputError("labels hold a single class, a probe needs object and background")
    return labels.astype(bool), groups


def checked_features(features: Any, n: int, *, rescale: bool = True) -> Float[Tensor, "n d"]:
    """Features as a float32 tensor where they are, found to be finite and one row a label.

    Each is divided by its largest magnitude, in the precision in which it comes, so that neither
    1e-30 nor 1e38 is lost in single precision; no probe here depends on the scale of a feature.

    Args:
        features: array-like, or a tensor.
        n: number of labels.
        rescale: False leaves features, and their precision, as they are.

    Raises:
        InputError: otherwise.
    """
    if not isinstance(features, Tensor):
        array = as_array(features)
        native = array.dtype.kind == "f" and array.itemsize <= 8
        array = array if native else as_numbers(features, "features")
        features = torch.from_numpy(np.array(array))
    if features.ndim != 2 or len(features) != n:
        raise InputError(
            f"features of shape {tuple(features.shape)}: give ({n}, d), one row a label"
        )
    features = features.detach()
    if not features.dtype.is_floating_point or features.dtype.itemsize < 4:
        features = features.float()
    if not torch.isfinite(features).all():
        raise InputError("features hold values that are not finite: was it half precision?")
    if not rescale:
        return features
    if not features.shape[1]:
        raise InputError(f"features of shape {tuple(features.shape)} hold no column")
    largest = features.abs().amax(dim=0)
    features = features / torch.where(largest > 0, largest, torch.ones_like(largest))
    center = features.mean(dim=0)
    features -= center
    largest = features.abs().amax(dim=0)
    # What varies by less than its precision is constant.
    varies = largest > 8 * torch.finfo(features.dtype).eps * center.abs()
    features /= torch.where(varies, largest, torch.inf)
    return features.float()


def fold_of(
    groups: Shaped[np.ndarray, " n"],
    labels: Bool[np.ndarray, " n"],
    *,
    folds: int = 5,
    seed: int = 0,
    test_groups: Iterable | None = None,
) -> Int[np.ndarray, " n"]:
    """The fold of each row, whole images together; `HELD_OUT` for the rows of `test_groups`.

    Without `test_groups` each fold is scored in its turn by a probe fitted on all others; with
    them the held-out rows alone are scored. Either way a probe chooses its penalty by leaving out
    one fold at a time of the folds it is fitted on.

    Raises:
        InputError: too few images, or a fold of a single class.
    """
    held_out = np.zeros(len(groups), dtype=bool)
    if test_groups is not None:
        held_out = np.isin(groups, _test_ids(test_groups, groups))
    images = len(np.unique(groups[~held_out]))
    if not 3 <= folds <= images:
        raise InputError(f"{folds} folds of {images} images to fit on: give 3 <= folds <= images")
    fold = np.full(len(groups), HELD_OUT)
    train = np.flatnonzero(~held_out)
    splitter = GroupKFold(folds, shuffle=True, random_state=seed)
    for index, (_, rows) in enumerate(splitter.split(train, groups=groups[train])):
        fold[train[rows]] = index
    for index in range(folds):
        if len(np.unique(labels[fold == index])) < 2:
            raise InputError(
                f"fold {index} of {folds} holds a single class: give more images or fewer folds"
            )
    return fold


def _test_ids(test_groups: Iterable, groups: Shaped[np.ndarray, " n"]) -> np.ndarray:
    if isinstance(test_groups, str | bytes):
        raise InputError(f"test_groups={test_groups!r}: give a list of image ids, not one string")
    ids = as_array(test_groups if hasattr(test_groups, "__array__") else list(test_groups))
    if ids.dtype == bool and groups.dtype != bool:
        raise InputError("test_groups is a mask: give image ids, as groups[mask]")
    known = set(groups.tolist())
    if strangers := [name for name in ids.tolist() if name not in known]:
        raise InputError(
            f"{len(strangers)} of {len(ids)} test_groups are not among the groups, such as "
            f"{strangers[0]!r}: give image ids that are, such as {groups[0]!r}"
        )
    if not len(ids):
        raise InputError("test_groups holds no image id: give some, or None for folds over all")
    return ids


def outer_folds(fold: Int[np.ndarray, " n"], inside: bool = False) -> list[int]:
    """The folds that are scored: where one is held out, that alone unless `inside` is asked for."""
    held_out = [HELD_OUT] if (fold == HELD_OUT).any() else []
    return held_out if held_out and not inside else held_out + inner_folds(fold, HELD_OUT)


def inner_folds(fold: Int[np.ndarray, " n"], outer: int) -> list[int]:
    """The folds that a probe for the scored fold `outer` is fitted on: never the held-out one."""
    return [index for index in np.unique(fold).tolist() if index not in (outer, HELD_OUT)]
