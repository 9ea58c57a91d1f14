"""Where: a spatial prior from the attention between image tokens and an expression's words."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ground_probe.capture import Trace
from ground_probe.segmentation.recipe import Recipe
from ground_probe.segmentation.words import place_of, place_prior, token_weights


def attention_prior(
    trace: Trace, blocks: tuple[str, ...], recipe: Recipe
) -> Float[Tensor, "rows cols"]:
    """Attention between image tokens and words, averaged over heads, words, streams and blocks.

    Each map is divided by its mean first, so that no block speaks louder than another.
    """
    words = token_weights(trace.phrase_tokens, recipe.words != "content")
    weights = torch.as_tensor(words, dtype=torch.float32)
    maps = [
        on_grid((each / each.mean().clamp_min(1e-12))[:, None], trace, stream, block)[..., 0]
        for block in blocks
        for stream in recipe.prior_streams
        for each in _maps(trace, (block, recipe.step), stream, weights, recipe)
    ]
    return unit(torch.stack(maps).mean(0))


def spatial_factor(
    expression: str, grid: tuple[int, int], weight: float
) -> Float[Tensor, "rows cols"]:
    """What words such as "left" add: 1 where they fit, 1 - weight where they do not."""
    fit = torch.as_tensor(place_prior(place_of(expression), grid), dtype=torch.float32)
    return 1 - weight + weight * fit


def propagate(
    prior: Float[Tensor, "rows cols"],
    features: Float[Tensor, "tokens dim"],
    rounds: int,
    temperature: float,
) -> Float[Tensor, "rows cols"]:
    """Make a prior coherent: each token takes the mean of its likes, weighted by similarity.

    Args:
        prior: in [0, 1].
        features: of the same tokens, with unit norm.
        rounds: how often; 0 leaves the prior as it is.
        temperature: of the softmax over cosine similarities.
    """
    if not rounds:
        return prior
    affinity = torch.softmax(features @ features.T / temperature, dim=-1)
    flat = prior.flatten()
    for _ in range(rounds):
        flat = affinity @ flat
    return unit(flat.view_as(prior))


def unit(values: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
    """Shifted and scaled to [0, 1]; all 0 where nothing differs."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high - low > 1e-12 else torch.zeros_like(values)


def on_grid(
    values: Float[Tensor, "tokens channels"], trace: Trace, stream: str, block: str
) -> Float[Tensor, "rows cols channels"]:
    """Token values on the trace's grid; those of a coarser block are interpolated."""
    there, grid = trace.grid(stream, block).grid, trace.geometry.grid
    values = values.view(*there, -1)
    if there == grid:
        return values
    channels_first = values.permute(2, 0, 1)[None]
    return F.interpolate(channels_first, grid, mode="bilinear")[0].permute(1, 2, 0)


def _maps(
    trace: Trace, site: tuple[str, int], stream: str, weights: Tensor, recipe: Recipe
) -> Iterator[Float[Tensor, " tokens"]]:
    at, heads = trace.image_tokens(stream), list(recipe.heads) or slice(None)
    if recipe.direction != "from_text":
        yield trace.attention[site][heads][:, at].mean(0) @ weights
    if recipe.direction != "from_image":
        yield weights @ trace.attention_from_text[site][heads][..., at].mean(0)
