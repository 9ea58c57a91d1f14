"""The one forward pass of a segmentation: as far as its recipe reads, and no further."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from ground_probe.capture import Trace, trace
from ground_probe.capture.clock import predicts
from ground_probe.capture.sites import blocks_of
from ground_probe.editors import Editor, fill
from ground_probe.errors import InputError, UnsupportedEditorError
from ground_probe.geometry import Geometry
from ground_probe.segmentation.depth import at_depth, in_depth
from ground_probe.segmentation.recipe import Recipe


def forward(
    editor: Editor,
    image: Image.Image,
    expression: str,
    recipes: Sequence[Recipe],
    seed: int = 0,
    pipeline_kwargs: Mapping[str, Any] | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Trace:
    """Run an editor on an instruction until the last block that one of some recipes reads.

    Args:
        editor: from `load_editor`.
        image: of any size and mode.
        expression: what refers.
        recipes: one or several of one template; all that they read is kept.
        seed: of the noise.
        pipeline_kwargs: further arguments of the pipeline's call.
        reduce: what is left of each state: `keep_half` where many blocks are kept.

    Raises:
        PhraseError: the expression is empty, or longer than the text encoder reads.
        InputError: recipes of several templates, which are several instructions.
    """
    templates = {recipe.template for recipe in recipes}
    if len(templates) != 1:
        raise InputError(f"one forward pass has one instruction, not those of {sorted(templates)}")
    instruction, phrase = fill(templates.pop(), expression)
    every = tuple(blocks_of(editor.denoiser))
    read = {name for recipe in recipes for name in blocks_read(every, recipe)}
    compared = {b for r in recipes if r.compares for b in in_depth(every, r.feature_depth)}
    attended = [recipe for recipe in recipes if recipe.prior == "attention"]
    streams = dict.fromkeys(stream for recipe in recipes for stream in recipe.streams)
    return trace(
        editor,
        image,
        instruction,
        phrase,
        steps=tuple(sorted({recipe.step for recipe in recipes})),
        blocks=tuple(name for name in every if name in read),
        streams=tuple(streams),
        attention=any(r.heads for r in attended) or ("mean" if attended else False),
        propagate=max((recipe.propagation for recipe in attended), default=0),
        states=compared,
        attention_output=any(r.compares and r.states == "attention" for r in recipes),
        prediction=any(recipe.prior == "change" for recipe in recipes),
        seed=seed,
        reduce=reduce,
        pipeline_kwargs=pipeline_kwargs,
    )


def gives_change(editor: Editor) -> bool:
    """Whether a step tells what it would change: one prediction, beside the reference's tokens."""
    return predicts(editor.pipeline) and "reference" in editor.family.streams


def geometry_of(trace: Trace) -> Geometry:
    """How the image lies on a trace's token grid.

    Raises:
        UnsupportedEditorError: how the editor brings an image to its own size is not known.
    """
    if trace.geometry is None:
        raise UnsupportedEditorError(
            "how this pipeline brings an image to its own size is not known, so no token has a "
            "place in the image: `ground-probe models` lists the families whose geometry is known"
        )
    return trace.geometry


def blocks_read(blocks: Sequence[str], recipe: Recipe) -> tuple[str, ...]:
    """The blocks that a recipe reads, in order; the forward pass stops after the last."""
    if recipe.prior == "change":  # a step's prediction comes after all of them
        return tuple(blocks)
    wanted = set(prior_heads(blocks, recipe))
    if recipe.compares:
        wanted |= set(in_depth(blocks, recipe.feature_depth))
    return tuple(name for name in blocks if name in wanted)


def prior_heads(blocks: Sequence[str], recipe: Recipe) -> dict[str, list[int]]:
    """The heads that a prior averages in each block; none named: all of a block's."""
    if not recipe.heads:
        return {name: [] for name in in_depth(blocks, recipe.prior_depth)}
    chosen: dict[str, list[int]] = {}
    for depth, head in recipe.heads:
        chosen.setdefault(at_depth(blocks, depth), []).append(head)
    return chosen
