"""What a recipe is applied to: an editor's first look at an image and an expression."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image

from ground_probe.capture import Trace, trace
from ground_probe.capture.sites import blocks_of
from ground_probe.editors import Editor, encoded_once, fill
from ground_probe.editors.phrases import Span
from ground_probe.geometry import Geometry
from ground_probe.images import to_rgb
from ground_probe.segmentation.prior import affinity_stream, attention_blocks
from ground_probe.segmentation.recipe import Recipe, in_depth

Map = Float[np.ndarray, "rows cols"]
Mask = Bool[np.ndarray, "height width"]
T = TypeVar("T")


class Told(NamedTuple):
    """An instruction, its span that is looked at, None for all of it, and the seed of its noise."""

    instruction: str
    phrase: Span | None
    seed: int


@dataclass(frozen=True)
class Look:
    """All that a recipe is applied to.

    Args:
        traces: one for each noise seed.
        nulls: the same for the contrast's instruction, or nothing.
        blocks: every block of the denoiser, in order.
        expression: what refers.
        image: RGB.
    """

    traces: tuple[Trace, ...]
    nulls: tuple[Trace, ...]
    blocks: tuple[str, ...]
    expression: str
    image: Image.Image
    _kept: dict[str, tuple[Hashable, Any]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def device(self) -> str | torch.device:
        """Where the editor ran."""
        return self.traces[0].device

    @property
    def geometry(self) -> Geometry:
        """How the image lies on the token grid."""
        return self.traces[0].geometry

    def once(self, stage: str, key: Hashable, compute: Callable[[], T]) -> T:
        """What a stage gave last; computed anew only where its key has changed."""
        found = self._kept.get(stage)
        if found is None or found[0] != key:
            found = self._kept[stage] = key, compute()
        return found[1]


def needed(blocks: Sequence[str], recipe: Recipe) -> tuple[str, ...]:
    """The blocks that a recipe reads, in order; the forward pass stops after the last.

    A prediction is made from the last of all.
    """
    changes = recipe.prior_from == "change"
    where = blocks[-1:] if changes else attention_blocks(blocks, recipe)
    compared = in_depth(blocks, recipe.feature_depth) if recipe.reads_features else ()
    wanted = {*where, *compared}
    return tuple(name for name in blocks if name in wanted)


def look(
    editor: Editor,
    image: Image.Image,
    expression: str,
    recipe: Recipe,
    seed: int = 0,
    blocks: str | Sequence[str] | None = None,
    **more: Any,
) -> Look:
    """Run an editor on a recipe's template, step, seeds and contrast, as far as needed.

    Args:
        editor: from `load_editor`.
        image: of any size and mode.
        expression: what refers.
        recipe: names streams and heads as well.
        seed: of the first noise.
        blocks: whose attention and hidden states are kept; None for those that the recipe reads.
        more: arguments of `trace`, those that the recipe decides included.
    """
    return look_each(editor, image, [expression], recipe, [seed], blocks, **more)[0]


def look_each(
    editor: Editor,
    image: Image.Image,
    expressions: Sequence[str],
    recipe: Recipe,
    seeds: Sequence[int],
    blocks: str | Sequence[str] | None = None,
    **more: Any,
) -> list[Look]:
    """`look` at several expressions of one image, which share its encoding and the contrast's runs.

    Args:
        expressions: what refers.
        seeds: of the first noise of each.
        editor, image, recipe, blocks, more: see `look`.
    """
    every = tuple(blocks_of(editor.denoiser))
    own = [_told(recipe, words, seed) for words, seed in zip(expressions, seeds, strict=True)]
    nulls = [_told(recipe, recipe.contrast, seed) if recipe.contrast else () for seed in seeds]
    distinct = list(dict.fromkeys(each for told in (*own, *nulls) for each in told))
    changes = recipe.prior_from == "change"
    compared = recipe.feature_streams if recipe.reads_features else ()
    chosen = {
        "steps": (recipe.step,),
        "blocks": needed(every, recipe) if blocks is None else blocks,
        "streams": tuple(dict.fromkeys((*recipe.prior_streams, *compared))),
        "attention": not changes and (True if recipe.heads else "mean"),
        "prediction": changes,
    }
    if not changes and recipe.propagation and recipe.affinity == "attention":
        more = {"affinity": affinity_stream(recipe), **more}
    options = inspect.signature(trace).parameters
    own_more = {name: more[name] for name in more if name in options}
    of_pipeline = {name: more[name] for name in more if name not in options}
    seen: dict[Told, Trace] = {}
    with encoded_once(editor):
        for each in distinct:
            given = {**chosen, "seed": each.seed, **own_more, "pipeline_kwargs": of_pipeline}
            seen[each] = trace(editor, image, each.instruction, each.phrase, **given)
    picture = to_rgb(image)
    return [
        Look(tuple(map(seen.get, a)), tuple(map(seen.get, b)), every, words, picture)
        for a, b, words in zip(own, nulls, expressions, strict=True)
    ]


def _told(recipe: Recipe, words: str, seed: int) -> tuple[Told, ...]:
    """What the editor is told, once for each noise."""
    instruction, span = fill(recipe.template, words)
    instruction = f"{instruction} {recipe.magnets}".strip()
    whole = recipe.words == "instruction" and recipe.prior_from == "attention"
    phrase = None if whole else span
    return tuple(Told(instruction, phrase, seed + offset) for offset in range(recipe.seeds))
