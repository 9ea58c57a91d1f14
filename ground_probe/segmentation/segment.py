"""Where x what: a mask of what an expression refers to, from one denoising step of an editor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image

from ground_probe.capture import Trace, trace
from ground_probe.capture.sites import blocks_of
from ground_probe.editors import Editor, fill
from ground_probe.geometry import Geometry
from ground_probe.segmentation.discriminate import discriminate, token_features
from ground_probe.segmentation.prior import attention_prior, propagate, spatial_factor, unit
from ground_probe.segmentation.recipe import Recipe, default_recipe, in_depth
from ground_probe.segmentation.refine import GuidedFilter, threshold
from ground_probe.segmentation.words import counted, place_of

Map = Float[np.ndarray, "rows cols"]
Mask = Bool[np.ndarray, "height width"]


@dataclass(frozen=True)
class Segmentation:
    """What an expression refers to in an image.

    Args:
        mask: at the image's own size.
        prior: where to look, on the token grid, in [0, 1].
        score: how much each token is like what is there, in [0, 1].
        expression: as given.
    """

    mask: Mask
    prior: Map
    score: Map
    expression: str


@dataclass(frozen=True)
class Look:
    """All that a recipe is applied to: an editor's first look at an image and an expression.

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
    _filters: dict[int, GuidedFilter] = field(default_factory=dict, repr=False, compare=False)

    @property
    def geometry(self) -> Geometry:
        """How the image lies on the token grid."""
        return self.traces[0].geometry

    def to_mask(self, score: Map, recipe: Recipe) -> Mask:
        """A map on the token grid as a mask of the image: upsampled first, then thresholded."""
        pixels = self.geometry.to_pixels(score)
        if recipe.edges:
            token_px = float(np.mean(self.geometry.token_size_px))
            radius_px = max(1, round(recipe.edges * token_px))
            if radius_px not in self._filters:
                self._filters[radius_px] = GuidedFilter(np.asarray(self.image), radius_px)
            pixels = self._filters[radius_px](pixels)
        inside = self.geometry.to_pixels(np.ones(self.geometry.grid)) > 0
        return threshold(pixels, recipe.threshold, inside, recipe.peak)


def segment(
    editor: Editor,
    image: Image.Image,
    expression: str,
    recipe: Recipe | None = None,
    seed: int = 0,
    **arguments: Any,
) -> Segmentation:
    """Segment what an expression refers to; nothing is trained and no image is made.

    There is always an answer: an expression for nothing in the image gives the regions that fit it
    best, and an object smaller than a token a region of about a token. The mask is empty only where
    no token differs from another.

    Args:
        editor: from `load_editor`.
        image: of any size and mode.
        expression: what refers, such as "the left red circle".
        recipe: every choice; None for the default of the editor's family.
        seed: of the noise.
        arguments: further arguments of the pipeline's call.

    Raises:
        PhraseError: the expression is empty, or longer than the text encoder reads.
    """
    recipe = recipe or default_recipe(editor)
    blocks = needed(tuple(blocks_of(editor.denoiser)), recipe)
    return decide(look(editor, image, expression, recipe, seed, blocks, **arguments), recipe)


def needed(blocks: Sequence[str], recipe: Recipe) -> tuple[str, ...]:
    """The blocks that a recipe reads, in order; the forward pass stops after the last."""
    wanted = {*in_depth(blocks, recipe.prior_depth), *in_depth(blocks, recipe.feature_depth)}
    return tuple(name for name in blocks if name in wanted)


def look(
    editor: Editor,
    image: Image.Image,
    expression: str,
    recipe: Recipe,
    seed: int = 0,
    blocks: str | Sequence[str] = "all",
    **more: Any,
) -> Look:
    """Run an editor on a recipe's template, step, seeds and contrast, up to the last of the blocks.

    Args:
        editor: from `load_editor`.
        image: of any size and mode.
        expression: what refers.
        recipe: names streams and heads as well.
        seed: of the first noise.
        blocks: whose attention and hidden states are kept.
        more: arguments of `trace`, those that the recipe decides included.
    """
    given = {
        "streams": tuple(dict.fromkeys((*recipe.prior_streams, *recipe.feature_streams))),
        "attention": True if recipe.heads else "mean",
        **more,
    }

    def traces(words: str) -> tuple[Trace, ...]:
        instruction, span = fill(recipe.template, words)
        phrase = None if recipe.words == "instruction" else span
        return tuple(
            trace(
                editor,
                image,
                instruction,
                phrase,
                steps=(recipe.step,),
                blocks=blocks,
                seed=seed + offset,
                **given,
            )
            for offset in range(recipe.seeds)
        )

    every = tuple(blocks_of(editor.denoiser))
    nulls = traces(recipe.contrast) if recipe.contrast else ()
    return Look(traces(expression), nulls, every, expression, image.convert("RGB"))


def decide(seen: Look, recipe: Recipe) -> Segmentation:
    """Turn a look into a mask: no model is run."""
    prior_blocks = in_depth(seen.blocks, recipe.prior_depth)
    feature_blocks = in_depth(seen.blocks, recipe.feature_depth)
    nulls = seen.nulls or (None,) * len(seen.traces)
    priors, scores = [], []
    for each, null in zip(seen.traces, nulls, strict=True):
        features = token_features(each, null, feature_blocks, recipe)
        prior = attention_prior(each, prior_blocks, recipe)
        prior = propagate(prior, features, recipe.propagation, recipe.temperature)
        prior = prior * spatial_factor(seen.expression, prior.shape, recipe.spatial)
        score = discriminate(
            features,
            prior.flatten(),
            classifier=recipe.classifier,
            prototypes=recipe.prototypes,
            focus=recipe.focus,
            rounds=recipe.rounds,
        )
        priors.append(prior)
        scores.append(score.view_as(prior))
    prior, score = (torch.stack(maps).mean(0) for maps in (priors, scores))
    combined = unit(score * prior**recipe.prior_power)
    mask = seen.to_mask(combined.numpy(), recipe)
    if recipe.spatial:
        mask = counted(mask, place_of(seen.expression))
    return Segmentation(mask, prior.numpy(), score.numpy(), seen.expression)
