"""What: foreground and background told apart in feature space, starting from a prior."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ground_probe.capture import Trace
from ground_probe.segmentation.prior import on_grid, unit
from ground_probe.segmentation.recipe import Classifier, Recipe

_SHRINKAGE = 0.2
_KMEANS_ROUNDS = 8

Features = Float[Tensor, "tokens dim"]
Weights = Float[Tensor, " tokens"]


def token_features(
    trace: Trace, null: Trace | None, blocks: tuple[str, ...], recipe: Recipe
) -> Features:
    """Standardised features of every position: streams and blocks side by side, with unit norm.

    Channels are standardised over the image, which takes out what all tokens share: a few huge
    channels would otherwise decide every cosine.

    Args:
        trace: of the instruction.
        null: of an instruction that means nothing in particular; its features are subtracted.
        blocks: whose hidden states to take.
        recipe: names step and streams.
    """
    parts = []
    for block in blocks:
        for stream in recipe.feature_streams:
            site = (block, recipe.step, stream)
            hidden = trace.hidden[site].float()
            if null is not None:
                hidden = hidden - null.hidden[site].float()
            hidden = on_grid(hidden, trace, stream, block).flatten(0, 1)
            parts.append(F.normalize(_standardised(hidden), dim=-1))
    return F.normalize(torch.cat(parts, dim=-1), dim=-1)


def discriminate(
    features: Features,
    prior: Weights,
    *,
    classifier: Classifier = "cosine",
    prototypes: int = 1,
    focus: float = 2.0,
    rounds: int = 2,
) -> Weights:
    """How much more each token is like the foreground than like the background, in [0, 1].

    Args:
        features: with unit norm.
        prior: in [0, 1]; its power `focus` weighs the tokens of the first foreground, and one
            minus it those of the background.
        classifier: "cosine" to prototypes or the shrunk linear discriminant "lda".
        prototypes: of the background; the object has one.
        focus: above 0.
        rounds: at least 1; from the second on, the scores are the prior.
    """
    for _ in range(rounds):
        weights = prior**focus
        if classifier == "lda":
            score = features @ _discriminant(features, weights)
        else:
            rest = _prototypes(features, 1 - weights, prototypes)
            own = F.normalize(weights @ features, dim=-1)
            score = features @ own - (features @ rest.T).amax(-1)
        prior = unit(score)
    return prior


def _standardised(hidden: Features) -> Features:
    centred = hidden - hidden.mean(0)
    return centred / centred.std(0).clamp_min(1e-6)


def _mean(features: Features, weights: Weights) -> Float[Tensor, " dim"]:
    return weights @ features / weights.sum().clamp_min(1e-12)


def _prototypes(features: Features, weights: Weights, count: int) -> Float[Tensor, "count dim"]:
    """Weighted spherical k-means, begun at the token of most weight and then the least alike."""
    if count == 1:
        return F.normalize(weights @ features, dim=-1)[None]
    chosen = features[weights.argmax()][None]
    while len(chosen) < count:
        far = (1 - (features @ chosen.T).amax(-1)) * weights
        chosen = torch.cat([chosen, features[far.argmax()][None]])
    for _ in range(_KMEANS_ROUNDS):
        own = F.one_hot((features @ chosen.T).argmax(-1), count).float() * weights[:, None]
        chosen = F.normalize(own.T @ features, dim=-1)
    return chosen


def _discriminant(features: Features, weights: Weights) -> Float[Tensor, " dim"]:
    """Fisher's direction; the pooled covariance is shrunk towards a multiple of the identity."""
    means = [_mean(features, each) for each in (weights, 1 - weights)]
    pooled = sum(
        (centred * each[:, None]).T @ centred
        for each, mean in zip((weights, 1 - weights), means, strict=True)
        for centred in (features - mean,)
    ) / len(features)
    scale = pooled.diagonal().mean()
    ridge = _SHRINKAGE * scale * torch.eye(len(pooled)) + (1 - _SHRINKAGE) * pooled
    return torch.linalg.solve(ridge, means[0] - means[1])
