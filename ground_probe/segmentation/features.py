"""What: object and background told apart by their states, starting from a prior."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ground_probe.capture import Trace
from ground_probe.segmentation.depth import in_depth
from ground_probe.segmentation.prior import Grid, on_grid, unit
from ground_probe.segmentation.recipe import Recipe

_SHRINKAGE = 0.2

Features = Float[Tensor, "tokens dim"]
Weights = Float[Tensor, " tokens"]


def token_features(trace: Trace, blocks: Sequence[str], recipe: Recipe) -> Features:
    """The states of every position, streams and blocks side by side, with unit norm.

    Standardizing takes out what all tokens share: a few huge channels would otherwise decide every
    cosine.

    Args:
        trace: of the instruction, from `forward`.
        blocks: all of the denoiser's, in order.
        recipe: names states, depth and streams.
    """
    states = trace.attention_output if recipe.states == "attention" else trace.hidden
    parts = []
    for block in in_depth(blocks, recipe.feature_depth):
        for stream in recipe.feature_streams:
            state = states[block, recipe.step, stream].float()
            state = on_grid(state, trace, stream).flatten(0, 1)
            state = _standardized(state) if recipe.standardize else state
            parts.append(F.normalize(state, dim=-1))
    return F.normalize(torch.cat(parts, dim=-1), dim=-1)


def classify(features: Features, prior: Grid, recipe: Recipe) -> Grid:
    """How much more each token is like the object than like the background; 0 is the border.

    Args:
        features: of unit norm.
        prior: in [0, 1]; hard seeds take it above one half for the object, and soft ones weigh
            each token by it and by one minus it.
        recipe: names seeds, classifier and product.

    Where nothing is seeded, nothing is an object: all is -1.
    """
    weights = prior.flatten().to(features.device)
    weights = (weights > 0.5).float() if recipe.seeds == "hard" else weights
    if weights.sum() < 1e-6:
        return torch.full_like(prior, -1.0)
    compare = _discriminant if recipe.classifier == "lda" else _nearer_prototype
    score = compare(features, weights).view_as(prior).to(prior.device)
    return unit(score) * prior if recipe.product else score


def _nearer_prototype(features: Features, weights: Weights) -> Weights:
    """The difference of a token's products with both sides' mean features.

    Source: the public code of TAL (He et al., arXiv 2604.20258): means of unit features, once.
    """
    sides = torch.stack([weights, 1 - weights])
    prototypes = sides @ features / sides.sum(-1, keepdim=True).clamp_min(1e-12)
    return features @ (prototypes[0] - prototypes[1])


def _discriminant(features: Features, weights: Weights) -> Weights:
    """Fisher's direction applied to every token, in the dual form, 0 midway between the sides.

    The pooled covariance is shrunk towards a multiple of the identity. With features F and each
    side's weights w summing to n, it is F'CF for C = I - sum of w w' / n, and the direction is F'a
    with a from one system of as many equations as there are tokens.
    """
    likeness = features @ features.T
    both = torch.stack([weights, 1 - weights], dim=-1)
    share = both / both.sum(0).clamp_min(1e-12)
    within = (likeness - both @ (likeness @ share).T) / len(likeness)
    scale = (within.diagonal().sum() / features.shape[-1]).clamp_min(1e-9)
    system = (1 - _SHRINKAGE) * within
    system.diagonal().add_(_SHRINKAGE * scale)
    along = likeness @ torch.linalg.solve(system, share[:, 0] - share[:, 1])
    return along - (share.T @ along).mean()


def _standardized(state: Features) -> Features:
    centered = state - state.mean(0)
    # `std` over tokens takes several times as long.
    spread = (centered.square().sum(0) / max(len(centered) - 1, 1)).sqrt()
    return centered / spread.clamp_min(1e-6)
