"""What: foreground and background told apart in feature space, starting from a prior.

Every score depends on the features through the cosines between tokens alone, so that its price is
one product of the features, whatever their number of channels.
"""

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
Likeness = Float[Tensor, "tokens tokens"]
Weights = Float[Tensor, " tokens"]


def token_features(
    trace: Trace, null: Trace | None, blocks: tuple[str, ...], recipe: Recipe
) -> Features:
    """Standardised features of every position: streams and blocks side by side, with unit norm.

    Channels are standardised over the image, which takes out what all tokens share: a few huge
    channels would otherwise decide every cosine.

    Args:
        trace: of the instruction.
        null: of the contrast's; its features are subtracted. None for no contrast.
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
    likeness: Likeness,
    prior: Weights,
    *,
    channels: int,
    classifier: Classifier = "cosine",
    prototypes: int = 1,
    focus: float = 2.0,
    rounds: int = 2,
) -> Weights:
    """How much more each token is like the foreground than like the background, in [0, 1].

    Args:
        likeness: cosines between the tokens' features.
        prior: in [0, 1]; its power `focus` weighs the tokens of the first foreground, and one
            minus it those of the background.
        channels: of the features.
        classifier: "cosine" to prototypes or the shrunk linear discriminant "lda".
        prototypes: of the background; the object has one.
        focus: above 0.
        rounds: at least 1; from the second on, the scores are the prior.
    """
    for _ in range(rounds):
        weights = prior**focus
        if classifier == "lda":
            score = _discriminant(likeness, weights, channels)
        else:
            rest = _prototypes(likeness, 1 - weights, prototypes)
            score = _alike(likeness, weights[:, None])[:, 0] - _alike(likeness, rest).amax(-1)
        prior = unit(score)
    return prior


def _standardised(hidden: Features) -> Features:
    centred = hidden - hidden.mean(0)
    # `std` over tokens takes several times as long.
    spread = (centred.square().sum(0) / (len(centred) - 1)).sqrt()
    return centred / spread.clamp_min(1e-6)


def _alike(
    likeness: Likeness, weights: Float[Tensor, "tokens count"]
) -> Float[Tensor, "tokens count"]:
    """The cosine of every token with weighted sums of tokens."""
    toward = likeness @ weights
    return toward / (weights * toward).sum(0).clamp_min(1e-12).sqrt()


def _prototypes(likeness: Likeness, weights: Weights, count: int) -> Float[Tensor, "tokens count"]:
    """Weights of the tokens in each prototype, by weighted spherical k-means.

    It begins at the token of most weight and then the least alike.
    """
    if count == 1:
        return weights[:, None]
    chosen = [int(weights.argmax())]
    while len(chosen) < count:
        far = (1 - likeness[:, chosen].amax(-1)) * weights
        chosen.append(int(far.argmax()))
    alike = likeness[:, chosen]
    for _ in range(_KMEANS_ROUNDS):
        own = F.one_hot(alike.argmax(-1), count).float() * weights[:, None]
        alike = _alike(likeness, own)
    return own


def _discriminant(likeness: Likeness, weights: Weights, channels: int) -> Weights:
    """Fisher's direction applied to every token, in the dual form.

    The pooled covariance is shrunk towards a multiple of the identity. With features F and each
    class's weights w summing to n, it is F'CF for C = I - sum of w w' / n, and the direction is
    F'a with a from one system of as many equations as there are tokens.
    """
    both = torch.stack([weights, 1 - weights], dim=-1)
    share = both / both.sum(0).clamp_min(1e-12)
    within = (likeness - both @ (likeness @ share).T) / len(likeness)
    scale = (within.diagonal().sum() / channels).clamp_min(1e-9)
    system = (1 - _SHRINKAGE) * within
    system.diagonal().add_(_SHRINKAGE * scale)
    return likeness @ torch.linalg.solve(system, share[:, 0] - share[:, 1])
