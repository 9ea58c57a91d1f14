"""Many l2 logistic regressions on one matrix at once: every fold, inner fold and penalty.

All fits share the features and differ in which rows they see and how strong their penalty is, so
one product of the matrix with one column a fit serves all of them. Newton's method moves the
columns; its linear systems are solved by conjugate gradients, preconditioned by an
eigendecomposition that all fits share. Standardisation by a fit's own rows is a change of
variables: the matrix is never copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

NEWTON_STEPS = 20
CG_STEPS = 20
HALVINGS = 8
CHUNK = 1024  # rows
FORCING = 0.1  # a Newton system is solved until its residual is this share of the slope
TOLERANCE = 2e-3  # of the largest slope of the mean log loss; costs below 0.0001 of AUC


@dataclass(frozen=True, slots=True)
class Design:
    """What all fits of a cell share: features with a column of ones, labels, eigenvectors."""

    x: Float[Tensor, "n d1"]
    y: Float[Tensor, "n 1"]
    centre: Float[Tensor, " d"]
    spread: Float[Tensor, " d"]
    basis: Float[Tensor, "d1 d1"]
    spectrum: Float[Tensor, "d1 1"]

    @classmethod
    def of(cls, features: Float[Tensor, "n d"], labels: Bool[Tensor, " n"]) -> Design:
        """Centre and scale by all rows: it spares float32 and changes no fit."""
        centre = features.mean(dim=0)
        spread = _or_one((features - centre).square().mean(dim=0).sqrt())  # faster than `std`
        x = _placed(features, centre, spread)
        spectrum, basis = torch.linalg.eigh(x.T @ x / len(x))
        spectrum = spectrum.clamp_min(0)[:, None]
        return cls(x, labels.float()[:, None], centre, spread, basis, spectrum)

    def placed(self, features: Float[Tensor, "m d"]) -> Float[Tensor, "m d1"]:
        """Other rows, centred and scaled alike."""
        return _placed(features, self.centre, self.spread)


@dataclass(frozen=True, slots=True)
class Fits:
    """Fits of one design that differ in the rows they see, and are standardised by."""

    design: Design
    mask: Float[Tensor, "n fits"]
    rows: Float[Tensor, " fits"]
    mean: Float[Tensor, "d fits"]
    scale: Float[Tensor, "d fits"]

    @classmethod
    def of(cls, design: Design, mask: Float[Tensor, "n fits"]) -> Fits:
        """One fit a column of `mask`, which is 1 for the rows that the fit sees."""
        x, rows = design.x, mask.sum(dim=0)
        mean = (x.T @ mask)[:-1] / rows
        square = ((x * x).T @ mask)[:-1] / rows
        return cls(design, mask, rows, mean, _or_one((square - mean**2).clamp_min(0).sqrt()))

    def margin(
        self, weights: Float[Tensor, "d1 fits"], x: Float[Tensor, "m d1"] | None = None
    ) -> Float[Tensor, "m fits"]:
        """Weights (the bias last) applied to the features, standardised for each fit.

        Args:
            weights: of standardised features.
            x: rows from `Design.placed`; None for those of the design.
        """
        return (self.design.x if x is None else x) @ self._raw(weights)

    def pull(self, residual: Float[Tensor, "n fits"]) -> Float[Tensor, "d1 fits"]:
        """The transpose of `margin`."""
        return self._raw_transposed(self.design.x.T @ residual)

    def bend(
        self, curvature: Float[Tensor, "n fits"], weights: Float[Tensor, "d1 fits"]
    ) -> Float[Tensor, "d1 fits"]:
        """`pull(curvature * margin(weights))`, a few rows at a time so that they stay in cache."""
        raw = self._raw(weights)
        parts = zip(self.design.x.split(CHUNK), curvature.split(CHUNK), strict=True)
        return self._raw_transposed(sum((bent * (x @ raw)).T @ x for x, bent in parts).T)

    def path(
        self, strengths: Sequence[float]
    ) -> tuple[Float[Tensor, "strengths d1 fits"], Float[Tensor, "strengths n fits"]]:
        """Weights and log odds for each of scikit-learn's C, each fit started at the last.

        Args:
            strengths: in ascending order.
        """
        share = (self.design.y.T @ self.mask / self.rows).clamp(1e-6, 1 - 1e-6)
        weights = torch.cat([torch.zeros_like(self.mean), torch.logit(share)])
        odds = weights[-1:].expand_as(self.mask)
        found = []
        for strength in strengths:
            ridge = torch.full_like(self.design.spectrum, 1 / strength)
            ridge[-1] = 0  # the bias is free
            weights, odds = self._descend(weights, odds, ridge)
            found.append((weights, odds))
        return tuple(map(torch.stack, zip(*found, strict=True)))

    def _descend(self, weights: Tensor, odds: Tensor, ridge: Tensor) -> tuple[Tensor, Tensor]:
        """Newton's method with halved steps where the loss would rise."""
        basis, spectrum, y = self.design.basis, self.design.spectrum, self.design.y
        now = self._loss(odds, weights, ridge)
        for _ in range(NEWTON_STEPS):
            chance = torch.sigmoid(odds)
            slope = self.pull(self.mask * (chance - y)) + ridge * weights
            if (slope.abs() <= TOLERANCE * self.rows).all():
                break
            curvature = self.mask * chance * (1 - chance)
            inverse = 1 / (spectrum * curvature.sum(dim=0) + ridge).clamp_min(1e-6)
            step = _solve(
                lambda v, curvature=curvature: self.bend(curvature, v) + ridge * v,  # type: ignore[misc]
                lambda v, inverse=inverse: basis @ (inverse * (basis.T @ v)),  # type: ignore[misc]
                -slope,
            )
            moved, rate = self.margin(step), torch.ones_like(self.rows)
            for _ in range(HALVINGS):
                then = self._loss(odds + rate * moved, weights + rate * step, ridge)
                if (then <= now).all():
                    break
                rate = torch.where(then > now, rate / 2, rate)
            else:
                then = self._loss(odds + rate * moved, weights + rate * step, ridge)
            weights, odds, now = weights + rate * step, odds + rate * moved, then
        return weights, odds

    def _raw(self, weights: Tensor) -> Tensor:
        """Weights of standardised features as weights of the design's."""
        scaled = weights[:-1] / self.scale
        return torch.cat([scaled, weights[-1:] - (self.mean * scaled).sum(dim=0, keepdim=True)])

    def _raw_transposed(self, pulled: Tensor) -> Tensor:
        return torch.cat([(pulled[:-1] - self.mean * pulled[-1:]) / self.scale, pulled[-1:]])

    def _loss(self, odds: Tensor, weights: Tensor, ridge: Tensor) -> Float[Tensor, " fits"]:
        penalty = (ridge * weights**2).sum(dim=0) / 2
        return (self.mask * log_loss(odds, self.design.y)).sum(dim=0) + penalty


def log_loss(
    odds: Float[Tensor, "*strengths n fits"], y: Float[Tensor, "n 1"]
) -> Float[Tensor, "*strengths n fits"]:
    """Log loss of each row, in nats."""
    return softplus(odds) - y * odds


def _solve(
    matrix: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor], target: Tensor
) -> Tensor:
    """Preconditioned conjugate gradients, every column a system of its own."""
    solution, residual = torch.zeros_like(target), target
    ahead = inverse(residual)
    size = first = (residual * ahead).sum(dim=0)
    for _ in range(CG_STEPS):
        bent = matrix(ahead)
        rate = size / (ahead * bent).sum(dim=0).clamp_min(1e-20)
        solution, residual = solution + rate * ahead, residual - rate * bent
        toward = inverse(residual)
        size, before = (residual * toward).sum(dim=0), size
        if (size <= FORCING**2 * first).all():
            break
        ahead = toward + size / before.clamp_min(1e-20) * ahead
    return solution


def _placed(features: Tensor, centre: Tensor, spread: Tensor) -> Tensor:
    return torch.nn.functional.pad((features - centre) / spread, (0, 1), value=1.0)


def _or_one(scale: Tensor) -> Tensor:
    """A feature that does not vary is left as it is."""
    return torch.where(scale > 1e-6, scale, torch.ones_like(scale))
