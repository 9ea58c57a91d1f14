"""What the explorer shows, gathered from an editor: arrays small enough for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float32
from PIL import Image

from ground_probe.capture import Trace, trace
from ground_probe.capture.clock import predicts
from ground_probe.capture.layout import Grid
from ground_probe.capture.sites import blocks_of
from ground_probe.capture.tracing import without_bar
from ground_probe.editors import Editor, fill
from ground_probe.errors import InputError
from ground_probe.geometry import Geometry
from ground_probe.images import to_rgb
from ground_probe.inside import decode
from ground_probe.segmentation import Recipe, recipe_for, segment
from ground_probe.segmentation.forward import prior_heads
from ground_probe.study.explorer.cells import (
    CELLS,
    DIRECTIONS,
    LeadingDirections,
    coarser,
    on_cells,
    pool,
    pooled_rows,
    spread,
)

SITES = 36  # (block, step) at most
HEADS = 32  # whose maps are kept one by one, at most
_WRITTEN = 24  # bytes of a cell's numbers that are written as text: prior, score, two masks

Head = tuple[str, int]


@dataclass(frozen=True)
class View:
    """What the page shows of one expression. A cell is a token, or the mean of several.

    Args:
        tokens: the instruction's, as its tokenizer spells them.
        own: which of them are the expression's.
        blocks: whose maps there are, in the order in which they run.
        every_block: the editor's, shown or not.
        tokens_grid: (rows, columns) of the editor's image tokens.
        geometry: how the cells lie in the image.
        attention: the probability that a cell attends to a token, the mean over heads.
        heads: (block, number) of those whose maps are kept.
        every_head: how many the shown blocks have.
        by_head: the probability that a cell attends, in a head, to a token of the expression.
        grounding: those of the heads that are marked, the first of them shown at first.
        named: whether the recipe names them; else they agree best with the mask of this image.
        looked: (step, stream) from which the segmenter reads, as far as the page has them.
        features: each cell's, with unit norm, in the leading directions of its block and stream.
        held: the share of the features' variation that those directions hold.
        prior: where the segmenter looked, in [0, 1].
        score: how much more each cell is like what is there than like the rest.
        compared: whether the recipe reads that; else it is a linear discriminant's, for the eye.
        predictions: the finished image as each step predicts it; none where that is not known.
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
    heads: tuple[Head, ...]
    every_head: int
    by_head: Float32[np.ndarray, "heads steps streams own cells"]
    grounding: tuple[Head, ...]
    named: bool
    looked: tuple[int, str]
    features: Float32[np.ndarray, "blocks steps streams cells directions"]
    held: Float32[np.ndarray, "blocks steps streams"]
    mask: Bool[np.ndarray, "height width"]
    truth: Bool[np.ndarray, "height width"] | None
    prior: Float32[np.ndarray, "rows cols"]
    score: Float32[np.ndarray, "rows cols"]
    compared: bool
    edit: Image.Image | None
    predictions: tuple[Image.Image, ...]
    recipe: str


def gather(
    editor: Editor,
    image: Image.Image,
    expressions: Sequence[str],
    steps: Sequence[int],
    seed: int,
    recipe: Recipe | str | None = None,
    *,
    truths: Sequence[np.ndarray | None] = (),
    edit_steps: int = 0,
) -> list[View]:
    """A view of each expression, segmented and traced at the given steps; see `explore`."""
    if not steps:
        raise InputError("no steps: give denoising steps counted from 0, as (0, 3, 9)")
    truths = truths or [None] * len(expressions)
    sizes = {truth.shape for truth in truths if truth is not None}
    if len(truths) != len(expressions) or sizes - {(image.height, image.width)}:
        raise InputError(
            f"true masks of {sorted(sizes)} (height, width) for {len(expressions)} expressions in "
            f"an image of {(image.height, image.width)}: give one of that size, or None, for each"
        )
    recipe = recipe_for(editor, recipe)
    views: list[View] = []
    for expression, truth in zip(expressions, truths, strict=True):
        heads = views[0].heads if views else None
        view = _view(editor, image, expression, tuple(steps), seed, recipe, truth, heads)
        if edit_steps:
            with without_bar(editor.pipeline):
                edit = editor.edit(view.image, view.instruction, seed, edit_steps)
            view = replace(view, edit=edit)
        views.append(view)
    return views


def _view(
    editor: Editor,
    image: Image.Image,
    expression: str,
    steps: tuple[int, ...],
    seed: int,
    recipe: Recipe,
    truth: np.ndarray | None,
    heads: tuple[Head, ...] | None,
) -> View:
    """A view without an edit; its heads are chosen where none are given."""
    every = tuple(blocks_of(editor.denoiser))
    named = prior_heads(every, recipe) if recipe.heads else {}
    evenly = spread(every, max(1, SITES // len(steps)))
    blocks = [block for block in every if block in evenly or block in named]
    instruction, span = fill(recipe.template, expression)
    whole = editor.geometry(image)
    coarse = coarser(whole.grid, CELLS)
    traced = trace(
        editor,
        image,
        instruction,
        steps=steps,
        blocks=blocks,
        attention="mean",
        reduce=LeadingDirections(whole.grid, coarse),
        prediction=predicts(editor.pipeline),
        seed=seed,
    )
    of_phrase = trace(
        editor, image, instruction, span, steps=steps, blocks=blocks, streams=(), seed=seed
    )
    segmented = scored = segment(editor, image, expression, recipe, seed)
    if not recipe.compares:
        scored = segment(editor, image, expression, replace(recipe, classifier="lda"), seed)
    streams = tuple(traced.layout.grids)
    step = min(steps, key=lambda step: abs(step - recipe.step))
    looked = step, next(s for s in (*recipe.prior_streams, *streams) if s in streams)
    covered = whole.soft_labels(segmented.mask if truth is None else truth)
    heads_by_agreement = _ranked(of_phrase, looked, on_cells(covered, coarse), coarse)
    chosen = tuple((block, head) for block, of in named.items() for head in of)
    if heads is None:
        kept = set(list(dict.fromkeys((*chosen, *heads_by_agreement)))[:HEADS])
        heads = tuple(sorted(kept, key=lambda head: (traced.blocks.index(head[0]), head[1])))
    sites = list(product(traced.blocks, traced.steps, streams))
    shape = len(traced.blocks), len(traced.steps), len(streams)
    features = torch.stack([traced.hidden[site] for site in sites]).unflatten(0, shape)
    maps = np.stack([_cells_of(traced, *site, coarse)[0] for site in sites])
    by_head = np.stack(
        [
            _cells_of(of_phrase, block, step, stream, coarse)[head]
            for (block, head), step, stream in product(heads, traced.steps, streams)
        ]
    )
    return View(
        image=to_rgb(image),
        expression=expression,
        instruction=instruction,
        tokens=traced.phrase_tokens,
        own=tuple(at for at, key in enumerate(traced.phrase_keys) if key in of_phrase.phrase_keys),
        blocks=traced.blocks,
        every_block=every,
        steps=traced.steps,
        sigmas=tuple(traced.sigmas[step] for step in traced.steps),
        streams=streams,
        tokens_grid=whole.grid,
        geometry=replace(whole, grid=coarse),
        attention=maps.reshape(*shape, *maps.shape[1:]),
        heads=heads,
        every_head=len(heads_by_agreement),
        by_head=by_head.reshape(len(heads), *shape[1:], *by_head.shape[1:]),
        grounding=chosen or tuple(heads_by_agreement[:1]),
        named=bool(chosen),
        looked=looked,
        features=pooled_rows(features, coarse, coarse).numpy(),
        held=features.square().sum(-1).mean(-1).numpy(),
        mask=segmented.mask,
        truth=truth,
        prior=on_cells(segmented.prior, coarse),
        score=on_cells(scored.score, coarse),
        compared=recipe.compares,
        edit=None,
        predictions=tuple(
            decode(editor, image, instruction, traced.prediction[step])
            for step in (traced.steps if traced.prediction else ())
        ),
        recipe=recipe.digest,
    )


def fitting(views: Sequence[View], room: int) -> list[View]:
    """Views on a grid so coarse that all of their maps fit in `room` bytes.

    A number is one byte, besides two of four bytes for each map.
    """
    grid = views[0].geometry.grid
    maps = sum(view.attention[..., 0].size + view.by_head[..., 0].size for view in views)
    states = sum(view.held.size for view in views)
    a_cell = maps + DIRECTIONS * states + _WRITTEN * len(views)
    cells = coarser(grid, (room - 8 * (maps + states)) // a_cell)
    return list(views) if cells == grid else [_on(view, grid, cells) for view in views]


def _ranked(traced: Trace, looked: tuple[int, str], covered: np.ndarray, cells: Grid) -> list[Head]:
    """All heads: first those whose highest cell lies on what is covered, then as they agree."""
    step, stream = looked
    label = covered.ravel() - covered.mean()
    ranks = {}
    for block in traced.blocks:
        for head, maps in enumerate(_cells_of(traced, block, step, stream, cells)):
            values = maps.sum(0)
            spread = values - values.mean()
            agreement = spread @ label / max(np.linalg.norm(spread), 1e-30)
            ranks[block, head] = (covered.ravel()[values.argmax()] > 0.5, agreement)
    return sorted(ranks, key=lambda head: ranks[head], reverse=True)


def _cells_of(
    traced: Trace, block: str, step: int, stream: str, cells: Grid
) -> Float32[np.ndarray, "heads tokens cells"]:
    """A block's maps to each token of the phrase."""
    maps = traced.attention[block, step][:, traced.image_tokens(stream)].float().transpose(1, 2)
    grid = traced.grid(stream, block).grid
    return pool(maps.flatten(0, 1), grid, cells).unflatten(0, maps.shape[:2]).numpy()


def _on(view: View, grid: Grid, cells: Grid) -> View:
    def smaller(maps: np.ndarray) -> np.ndarray:
        flat = torch.as_tensor(maps).flatten(0, -2)
        return pool(flat, grid, cells).unflatten(0, maps.shape[:-1]).numpy()

    return replace(
        view,
        geometry=replace(view.geometry, grid=cells),
        attention=smaller(view.attention),
        by_head=smaller(view.by_head),
        features=pooled_rows(torch.as_tensor(view.features), grid, cells).numpy(),
        prior=on_cells(view.prior, cells),
        score=on_cells(view.score, cells),
    )
