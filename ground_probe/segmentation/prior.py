"""Where: a spatial prior from attention to an expression's words, or from the predicted change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ground_probe.capture import Trace
from ground_probe.editors.phrases import plain
from ground_probe.errors import InputError
from ground_probe.segmentation.depth import depth_of
from ground_probe.segmentation.forward import geometry_of, prior_heads
from ground_probe.segmentation.recipe import Head, Recipe
from ground_probe.words import FUNCTION_WORDS

STOP_WORDS = FUNCTION_WORDS | {"one", "ones"}

Grid = Float[Tensor, "rows cols"]


def spatial_prior(trace: Trace, blocks: Sequence[str], recipe: Recipe) -> Grid:
    """Where to look, shifted and scaled to [0, 1].

    Attention is averaged over words, heads, streams and blocks. A change is what the step would
    do to the reference: the idea of DiffEdit (Couairon et al. 2022), from one prediction.

    Args:
        trace: of the instruction, from `forward`.
        blocks: all of the denoiser's, in order.
        recipe: names the kind, and blocks, heads, words and streams.

    Raises:
        InputError: a head that the editor does not have.
        UnsupportedEditorError: the editor's change is not known; see `Trace.change`.
    """
    if recipe.prior == "change":
        return unit(trace.change(recipe.step))
    total, weights = torch.zeros(geometry_of(trace).grid), 0.0
    for block, heads in prior_heads(blocks, recipe).items():
        for maps in stream_maps(trace, block, heads, recipe):
            weight = _level_weight(trace, block, recipe)
            total = total + weight * maps.mean(0)
            weights += weight
    return unit(total / max(weights, 1e-12))


def head_maps(
    trace: Trace, blocks: Sequence[str], recipe: Recipe
) -> tuple[list[Head], Float[Tensor, "heads tokens"]]:
    """What each head would add to a prior: (depth of its block, number), and its map."""
    heads, maps = [], []
    for at, block in enumerate(blocks):
        count = len(trace.attention[block, recipe.step])
        heads += [(round(depth_of(at, len(blocks)), 3), head) for head in range(count)]
        maps.append(sum(stream_maps(trace, block, list(range(count)), recipe)))
    return heads, torch.cat(maps).flatten(1)


def stream_maps(
    trace: Trace, block: str, heads: list[int], recipe: Recipe
) -> Iterator[Float[Tensor, "heads rows cols"]]:
    """A block's maps in each stream, the mean over words; without named heads, over heads too."""
    words = token_weights(trace.phrase_tokens, recipe.words == "all")
    weights = torch.as_tensor(words, dtype=torch.float32)
    for stream in recipe.prior_streams:
        if recipe.propagation:
            every = trace.propagated[block, recipe.step, stream].float()
        else:
            every = trace.attention[block, recipe.step][:, trace.image_tokens(stream)].float()
        if heads and max(heads) >= len(every):
            raise InputError(
                f"the recipe names head {max(heads)} of {block}, which has {len(every)}: calibrate "
                "one for this editor"
            )
        maps = (every[heads] if heads else every.mean(0, keepdim=True)) @ weights
        if recipe.normalize:
            maps = maps / maps.mean(-1, keepdim=True).clamp_min(1e-12)
        yield on_grid(maps.T, trace, stream).permute(2, 0, 1)


def token_weights(tokens: Sequence[str], stop_words: bool) -> Float[np.ndarray, " tokens"]:
    """One weight a token, summing to 1; with nothing but stop words, all count.

    Args:
        tokens: as the tokenizer spells them.
        stop_words: whether stop words and punctuation count.

    >>> token_weights(["▁the", "▁red", "▁circle"], stop_words=False)
    array([0. , 0.5, 0.5])
    """
    words = [plain(token) for token in tokens]
    carries = [word not in STOP_WORDS and any(map(str.isalnum, word)) for word in words]
    weights = np.array([stop_words or each for each in carries], float)
    weights = weights if weights.any() else np.ones(len(tokens))
    return weights / weights.sum()


def unit(values: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
    """Shifted and scaled to [0, 1]; all 0 where nothing differs.

    >>> unit(torch.tensor([1.0, 3.0, 2.0]))
    tensor([0.0000, 1.0000, 0.5000])
    """
    low, high = values.aminmax()
    return (values - low) / (high - low) if high - low > 1e-12 else torch.zeros_like(values)


def on_grid(
    values: Float[Tensor, "tokens channels"], trace: Trace, stream: str
) -> Float[Tensor, "rows cols channels"]:
    """Token values on the trace's grid; those of a coarser one are interpolated."""
    layout, grid = trace.layout, geometry_of(trace).grid
    there = layout.grids[stream][0] if layout.joint else layout.grid_of(len(values))
    values = values.view(*there, -1)
    if there == grid:
        return values
    channels_first = values.permute(2, 0, 1)[None]
    return F.interpolate(channels_first, grid, mode="bilinear")[0].permute(1, 2, 0)


def _level_weight(trace: Trace, block: str, recipe: Recipe) -> float:
    """The weight of a UNet's level, counted from the finest by halvings of the grid."""
    if not recipe.level_weights:
        return 1.0
    rows = trace.grid(recipe.prior_streams[0], block).grid[0]
    level = round(math.log2(geometry_of(trace).grid[0] / rows))
    return recipe.level_weights[min(level, len(recipe.level_weights) - 1)]
