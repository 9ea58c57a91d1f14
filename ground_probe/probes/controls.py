"""Controls: what position alone, or labels that mean nothing, would score."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Shaped
from sklearn.preprocessing import PolynomialFeatures

from ground_probe.errors import InputError
from ground_probe.metrics import as_array


def position_features(
    grid: tuple[int, int], degree: int = 3
) -> Float[np.ndarray, "tokens features"]:
    """Features of a position-only probe: the monomials of x and y, each from -1 to 1.

    Args:
        grid: (rows, columns); tokens come row by row.
        degree: highest total degree; 9 features for 3.

    >>> position_features((1, 3), degree=1).tolist()
    [[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]
    """
    y, x = (np.linspace(-1, 1, side) if side > 1 else np.zeros(1) for side in grid)
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return PolynomialFeatures(degree, include_bias=False).fit_transform(points)


def control_labels(
    types: Shaped[np.ndarray, " n"], *, share: float = 0.5, seed: int = 0
) -> Bool[np.ndarray, " n"]:
    """The control task of Hewitt and Liang: each type has a label, drawn once for all images.

    A probe can only learn it by knowing the types by heart, so it measures the probe.

    Args:
        types: what each row is, whatever the image: its place in the grid, or its color.
        share: of types that get label 1, in (0, 1).

    Source: Hewitt and Liang (2019), Designing and Interpreting Probes with Control Tasks.
    """
    names, index = np.unique(as_array(types), return_inverse=True)
    chosen = round(share * len(names))
    if not 0 < chosen < len(names):
        raise InputError(f"share {share} of {len(names)} types leaves a single class")
    return np.random.default_rng(seed).permutation(np.arange(len(names)) < chosen)[index]
