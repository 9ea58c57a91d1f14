"""What the explorer shows, gathered from an editor: arrays small enough for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32
from PIL import Image
from torch import Tensor

from ground_probe.capture import Trace, trace
from ground_probe.capture.layout import Grid, Layout
from ground_probe.capture.sites import blocks_of
from ground_probe.editors import Editor, fill
from ground_probe.errors import InputError
from ground_probe.geometry import Geometry
from ground_probe.images import to_rgb
from ground_probe.segmentation import Recipe, recipe_for, segment

CELLS = 32 * 32  # of a map at most
SITES = 60  # (block, step) at most
DIRECTIONS = 32  # in which features are compared
BYTES = 1_300_000  # of all maps, before base64


@dataclass(frozen=True)
class View:
    """All that the page shows. A cell is a token, or the mean of several where there are many.

    Args:
        image: RGB.
        instruction: what the editor was told.
        tokens: the instruction's, as its tokenizer spells them.
        own: which of them are the expression's.
        blocks: whose maps there are, in the order in which they run.
        every_block: the editor's, shown or not.
        steps: denoising steps, from 0.
        sigmas: their noise levels.
        streams: of image tokens.
        tokens_grid: (rows, columns) of the editor's image tokens.
        geometry: how the cells lie in the image.
        attention: the probability that a cell attends to a token, the mean over heads.
        features: each cell's, with unit norm, in the leading directions of its block and stream.
        held: the share of the features' variation that those directions hold.
        mask: of what the expression refers to, at the image's size.
        prior: where the segmenter looked, in [0, 1].
        score: how much each cell is like what is there, in [0, 1]; None where no features were
            compared.
        recipe: digest of the segmenter's choices.
    """

    image: Image.Image
    expression: str
    instruction: str
    tokens: tuple[str, ...]
    own: tuple[int, ...]
    blocks: tuple[str, ...]
    every_block: tuple[str, ...]
    steps: tuple[int, ...]
    sigmas: tuple[float, ...]
    streams: tuple[str, ...]
    tokens_grid: Grid
    geometry: Geometry
    attention: Float32[np.ndarray, "blocks steps streams tokens cells"]
    features: Float32[np.ndarray, "blocks steps streams cells directions"]
    held: Float32[np.ndarray, "blocks steps streams"]
    mask: Bool[np.ndarray, "height width"]
    prior: Float32[np.ndarray, "rows cols"]
    score: Float32[np.ndarray, "rows cols"] | None
    recipe: str


@dataclass(frozen=True)
class LeadingDirections:
    """Reduce hidden states, on their device, to cells in the directions in which they differ most.

    Channels are standardised over the image, as in the segmenter, and tokens have unit norm before
    they are averaged. Products of the reduced rows are the best approximation of cosines, and the
    mean of their squared norms is the share that the directions hold.

    Args:
        grid: of the editor's image tokens; a UNet's finest.
        cells: the grid to reduce to.
    """

    grid: Grid
    cells: Grid

    def __call__(self, hidden: Float[Tensor, "tokens dim"]) -> Float[Tensor, "cells directions"]:
        """The reduced rows, in float32."""
        there = Layout({"noise": (self.grid,)}, text=0, joint=False).grid_of(len(hidden))
        hidden = hidden.float()
        hidden = (hidden - hidden.mean(0)) / hidden.std(0).clamp_min(1e-6)
        tokens = F.normalize(hidden, dim=-1)
        cells = F.normalize(pool(tokens.T, there, self.cells).T, dim=-1)
        size, vectors = torch.linalg.eigh(cells @ cells.T)
        return (vectors * size.clamp_min(0).sqrt())[:, -DIRECTIONS:]


def gather(
    editor: Editor,
    image: Image.Image,
    expression: str,
    steps: Sequence[int],
    seed: int,
    recipe: Recipe | str | None = None,
) -> View:
    """Segment an expression, and capture attention and features at the given steps.

    Args:
        editor: from `load_editor`.
        image: of any size and mode.
        expression: what refers.
        steps: denoising steps, from 0; the run stops after the last.
        seed: of the noise.
        recipe: the segmenter's choices; None for the editor's own.
    """
    if not steps:
        raise InputError("no steps: give denoising steps counted from 0, as (0, 3, 9)")
    recipe = recipe_for(editor, recipe)
    every_block = tuple(blocks_of(editor.denoiser))
    instruction, span = fill(recipe.template, expression)
    whole = editor.geometry(image)
    coarse = coarser(whole.grid, CELLS)
    taken = trace(
        editor,
        image,
        instruction,
        steps=steps,
        blocks=spread(every_block, max(1, SITES // len(steps))),
        attention="mean",
        reduce=LeadingDirections(whole.grid, coarse),
        seed=seed,
    )
    streams, keys = tuple(taken.layout.grids), taken.phrase_keys
    per_cell = len(taken.blocks) * len(steps) * len(streams) * (len(keys) + DIRECTIONS)
    cells = coarser(coarse, BYTES // per_cell)
    sites = [[[(b, s, r) for r in streams] for s in taken.steps] for b in taken.blocks]
    features = torch.stack([torch.stack([_each(taken.hidden, s) for s in of]) for of in sites])
    maps = [[[_attention(taken, *site, cells) for site in row] for row in of] for of in sites]
    named = trace(editor, image, instruction, span, blocks=every_block[:1], attention=False)
    found = segment(editor, image, expression, recipe, seed)
    return View(
        image=to_rgb(image),
        expression=expression,
        instruction=instruction,
        tokens=taken.phrase_tokens,
        own=tuple(at for at, key in enumerate(keys) if key in named.phrase_keys),
        blocks=taken.blocks,
        every_block=every_block,
        steps=taken.steps,
        sigmas=tuple(taken.sigmas[step] for step in taken.steps),
        streams=streams,
        tokens_grid=whole.grid,
        geometry=replace(whole, grid=cells),
        attention=np.array(maps, dtype=np.float32),
        features=_pooled_rows(features, coarse, cells).numpy(),
        held=features.square().sum(-1).mean(-1).numpy(),
        mask=found.mask,
        prior=_on_cells(found.prior, cells),
        score=None if recipe.classifier == "none" else _on_cells(found.score, cells),
        recipe=recipe.digest,
    )


def coarser(grid: Grid, cells: int) -> Grid:
    """A grid of at most so many cells: each side divided by the same whole number.

    >>> coarser((64, 64), 1024), coarser((16, 16), 1024)
    ((32, 32), (16, 16))
    """
    factor = 1
    while -(-grid[0] // factor) * -(-grid[1] // factor) > max(1, cells):
        factor += 1
    return -(-grid[0] // factor), -(-grid[1] // factor)


def spread(names: Sequence[str], count: int) -> tuple[str, ...]:
    """At most so many names at even distances, the first and the last among them.

    >>> spread("abcde", 3)
    ('a', 'c', 'e')
    """
    count = min(count, len(names))
    return tuple(names[round(at)] for at in np.linspace(0, len(names) - 1, count))


def pool(
    values: Float[Tensor, "channels tokens"], there: Grid, cells: Grid
) -> Float[Tensor, "channels cells"]:
    """Token values as means over cells; a coarser grid's are repeated."""
    return F.interpolate(values.view(1, -1, *there), cells, mode="area")[0].flatten(1)


def _attention(taken: Trace, block: str, step: int, stream: str, cells: Grid) -> np.ndarray:
    maps = taken.attention[block, step][0, taken.image_tokens(stream)]
    return pool(maps.T, taken.grid(stream, block).grid, cells).numpy()


def _on_cells(grid_map: np.ndarray, cells: Grid) -> np.ndarray:
    flat = torch.as_tensor(grid_map).flatten()[None].float()
    return pool(flat, grid_map.shape, cells).view(cells).numpy()


def _each(hidden: dict, sites: list) -> Tensor:
    return torch.stack([hidden[site] for site in sites])


def _pooled_rows(features: Tensor, there: Grid, cells: Grid) -> Tensor:
    sites = features.shape[:3]
    flat = features.flatten(0, 2).transpose(1, 2).flatten(0, 1)
    pooled = pool(flat, there, cells).unflatten(0, (-1, features.shape[-1]))
    return F.normalize(pooled.transpose(1, 2), dim=-1).unflatten(0, sites)
