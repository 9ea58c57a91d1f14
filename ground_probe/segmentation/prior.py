"""Where: a spatial prior from attention to an expression's words, or from the predicted change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ground_probe.capture import Trace
from ground_probe.errors import InputError
from ground_probe.segmentation.recipe import Head, Recipe, at_depth, in_depth
from ground_probe.segmentation.words import place_of, place_prior, token_weights

Grid = Float[Tensor, "rows cols"]


def attention_prior(
    trace: Trace, null: Trace | None, blocks: Sequence[str], recipe: Recipe
) -> Grid:
    """Attention between image tokens and words, averaged over heads, words, streams and blocks.

    Each map is divided by its mean first, so that no block speaks louder than another.

    Args:
        trace: of the instruction.
        null: of the contrast's, whose average is subtracted; None for no contrast.
        blocks: all of the denoiser's, in order.
        recipe: names blocks, heads, words, streams and directions.

    Raises:
        InputError: a head that the editor does not have.
    """
    own = _average(trace, blocks, recipe)
    if null is not None:
        own = own - _average(null, blocks, recipe)
    return unit(own)


def change_prior(trace: Trace, null: Trace | None, recipe: Recipe) -> Grid:
    """How far the step's prediction of the edited image is from the reference.

    Args:
        trace: of the instruction, with its prediction.
        null: of the contrast's, whose change is subtracted; None for no contrast.
        recipe: names the step.

    Raises:
        UnsupportedEditorError: an editor without reference tokens.
    """
    own = trace.change(recipe.step)
    return unit(own if null is None else own - null.change(recipe.step))


def head_maps(
    trace: Trace, blocks: Sequence[str], recipe: Recipe
) -> tuple[list[Head], Float[Tensor, "heads tokens"]]:
    """What each head would add to a prior: (depth of its block, number), and its map."""
    heads, maps = [], []
    for at, block in enumerate(blocks):
        count = len(trace.attention[block, recipe.step])
        heads += [(round((at + 0.5) / len(blocks), 3), head) for head in range(count)]
        maps.append(sum(_maps(trace, block, list(range(count)), recipe)))
    return heads, torch.cat(maps).flatten(1)


def attention_blocks(blocks: Sequence[str], recipe: Recipe) -> tuple[str, ...]:
    """The blocks whose attention to the words a prior is made of."""
    return tuple(_heads(blocks, recipe))


def spatial_factor(expression: str, grid: tuple[int, int], weight: float) -> Grid:
    """What words such as "left" add: 1 where they fit, 1 - weight where they do not."""
    fit = torch.as_tensor(place_prior(place_of(expression), grid), dtype=torch.float32)
    return 1 - weight + weight * fit


def by_features(
    likeness: Float[Tensor, "tokens tokens"], temperature: float
) -> Float[Tensor, "tokens tokens"]:
    """Weights over each token's likes: a softmax of cosine similarities.

    Args:
        likeness: cosines between the tokens' features.
        temperature: lower keeps to nearer neighbours.
    """
    return torch.softmax(likeness / temperature, dim=-1)


def by_attention(
    trace: Trace, blocks: Sequence[str], recipe: Recipe
) -> Float[Tensor, "tokens tokens"]:
    """Weights from the attention of a stream's tokens to one another, averaged over blocks.

    Args:
        trace: with the affinity of `affinity_stream(recipe)`.
        blocks: whose attention to average.
        recipe: names the step and the stream.
    """
    stream = affinity_stream(recipe)
    total = 0
    for block in blocks:
        among = trace.affinity[block, recipe.step].float().mean(0)
        among = among[:, trace.image_tokens(stream)] if among.shape[1] > len(among) else among
        among = on_grid(among.T, trace, stream, block).flatten(0, 1)
        total = total + on_grid(among.T, trace, stream, block).flatten(0, 1)
    return total / total.sum(-1, keepdim=True).clamp_min(1e-12)


def affinity_stream(recipe: Recipe) -> str:
    """Whose attention carries a prior: the last feature stream, clean where there is one."""
    return recipe.feature_streams[-1]


def propagate(prior: Grid, weights: Float[Tensor, "tokens tokens"], rounds: int) -> Grid:
    """Make a prior coherent: each token takes the weighted mean of its likes.

    Args:
        prior: in [0, 1].
        weights: of every token over all, summing to 1.
        rounds: how often.
    """
    flat = prior.flatten()
    for _ in range(rounds):
        flat = weights @ flat
    return unit(flat.view_as(prior))


def unit(values: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
    """Shifted and scaled to [0, 1]; all 0 where nothing differs."""
    low, high = values.aminmax()
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


def _heads(blocks: Sequence[str], recipe: Recipe) -> dict[str, list[int] | None]:
    """The heads to average in each block; None for all of a block's."""
    if not recipe.heads:
        return dict.fromkeys(in_depth(blocks, recipe.prior_depth))
    chosen: dict[str, list[int] | None] = {}
    for depth, head in recipe.heads:
        chosen.setdefault(at_depth(blocks, depth), []).append(head)
    return chosen


def _average(trace: Trace, blocks: Sequence[str], recipe: Recipe) -> Grid:
    every = [
        maps
        for block, heads in _heads(blocks, recipe).items()
        for maps in _maps(trace, block, heads, recipe)
    ]
    return torch.cat(every).mean(0)


def _maps(
    trace: Trace, block: str, heads: list[int] | None, recipe: Recipe
) -> Iterator[Float[Tensor, "heads rows cols"]]:
    """A block's maps in each stream and direction; without named heads, the mean of all."""
    words = token_weights(trace.phrase_tokens, recipe.words != "content")
    weights = torch.as_tensor(words, dtype=torch.float32)
    ways = []
    if recipe.direction != "from_text":
        ways.append(trace.attention[block, recipe.step])
    if recipe.direction != "from_image":
        ways.append(trace.attention_from_text[block, recipe.step].mT)
    for way in ways:
        if heads is not None and max(heads) >= len(way):
            raise InputError(
                f"the recipe names head {max(heads)} of {block}, which has {len(way)}: calibrate "
                "one for this editor"
            )
        for stream in recipe.prior_streams:
            maps = way[:, trace.image_tokens(stream)].float()
            maps = (maps.mean(0, keepdim=True) if heads is None else maps[heads]) @ weights
            maps = maps / maps.mean(-1, keepdim=True).clamp_min(1e-12)
            yield on_grid(maps.T, trace, stream, block).permute(2, 0, 1)
