"""Many ridge classifiers on one matrix at once: every fold, inner fold and penalty.

With x the features, t = 1 for the object and -1 for the rest, c the weights of a fit's rows (half
of them the object's, half the rest's: the mean of t is 0), m = sum c x their mean and s^2 their
variance, a fit's weights w minimize

    sum c (t - (x - m) w)^2 + penalty sum s^2 w^2

which is to say that they solve

    (sum c x x' - m m' + penalty diag(s^2)) w = sum c t x

Fits share x and differ in c alone, so that one product of x with a column a fit serves all of them.
The systems are solved by conjugate gradients. One eigendecomposition of the covariance of all rows
all but inverts every fit's system, at every penalty by a rescale, so that a few steps are enough.

An l2 logistic regression (Newton's method on the same columns, C of 1e-4 to 1 by log loss) stood
here before. Over five image folds, on one thread, mean AUC and processor seconds:

    features                                            logistic          ridge
    embedded editor, scenes, 5,520 x 128, 16 cells      .9745  0.11       .9749  0.07
    embedded editor, cartoons, 6,925 x 128, 16 cells    .9246  0.12       .9257  0.09
    50 refits of one of its cells                       .9468  0.11       .9514  0.05
    correlated, 6,000 x 3,072, weak signal              .513   7.6        .527   9.2
    correlated, 6,000 x 3,072, strong signal            .791   7.1        .813   8.4
    50 refits of it                                            5.9               8.1

The last three are means over three draws of `benchmarks/probes.py --wide`, both on the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

STEPS = 20
TOLERANCE = 0.01  # of the residual; solving on moves a mean AUC by less than 0.001


def ridge_weights(
    x: Float[Tensor, "n d"],
    labels: Bool[Tensor, " n"],
    counts: Float[Tensor, "n fits"],
    penalties: Iterable[float],
    decomposed: tuple[Float[Tensor, " d"], Float[Tensor, "d d"]],
) -> Float[Tensor, "penalties d1 fits"]:
    """Weights, the bias last, of one fit a column of `counts`, at each penalty.

    Args:
        x: standardized by all rows, or nearly so.
        labels: 1 for the object.
        counts: how often a row counts in each fit.
        penalties: in the order of the result.
        decomposed: eigenvalues and eigenvectors of the covariance of x.
    """
    sides = torch.stack([labels, ~labels]).float()
    weights = counts * (sides.T @ (0.5 / (sides @ counts)))
    mean = x.T @ weights
    variance = (x * x).T @ weights - mean**2
    target = x.T @ (weights * (2 * sides[0] - 1)[:, None])
    spectrum, basis = decomposed[0].clamp_min(0)[:, None], decomposed[1]
    found = []
    for penalty in penalties:
        solution = _solved(
            lambda w, penalty=penalty: (  # type: ignore[misc]
                x.T @ (weights * (x @ w)) - mean * (mean * w).sum(0) + penalty * variance * w
            ),
            lambda r, penalty=penalty: basis @ (basis.T @ r / (spectrum + penalty)),  # type: ignore[misc]
            target,
        )
        found.append(torch.cat([solution, -(mean * solution).sum(0, keepdim=True)]))
    return torch.stack(found)


def _solved(
    matrix: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor], Tensor],
    target: Float[Tensor, "d fits"],
) -> Float[Tensor, "d fits"]:
    """Preconditioned conjugate gradients, every column a system of its own."""
    solution = inverse(target)
    enough = TOLERANCE**2 * (target * solution).sum(0)
    residual = target - matrix(solution)
    ahead = inverse(residual)
    size = (residual * ahead).sum(0)
    for _ in range(STEPS):
        if (size <= enough).all():
            break
        bent = matrix(ahead)
        rate = size / (ahead * bent).sum(0).clamp_min(1e-30)
        solution, residual = solution + rate * ahead, residual - rate * bent
        toward = inverse(residual)
        before, size = size, (residual * toward).sum(0)
        ahead = toward + size / before.clamp_min(1e-30) * ahead
    return solution
