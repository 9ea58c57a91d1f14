"""A mask of what an expression refers to, from one denoising step of an editor.

`segment` is one pass, each step a module of this package: the recipe, the forward pass, where
(prior), what (features), and the mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image

from ground_probe.capture import Trace
from ground_probe.capture.sites import blocks_of
from ground_probe.editors import Editor
from ground_probe.images import overlay, png, shown_as_html
from ground_probe.segmentation.features import classify, token_features
from ground_probe.segmentation.forward import forward, geometry_of
from ground_probe.segmentation.mask import to_masks
from ground_probe.segmentation.prior import Grid, spatial_prior
from ground_probe.segmentation.recipe import Recipe
from ground_probe.segmentation.recipes import recipe_for

Map = Float[np.ndarray, "rows cols"]
Mask = Bool[np.ndarray, "height width"]
_SHOWN_PX = 640  # of a picture in a notebook, at most


@dataclass(frozen=True, repr=False)
class Segmentation:
    """What an expression refers to in an image.

    ```python
    result = gp.segment(editor, image, "left man")
    result.mask, result.prior, result.score
    ```

    Args:
        mask: at the image's own size.
        prior: where to look, on the token grid, in [0, 1].
        score: how much more each token is like what is there than like the rest; the prior itself
            where the recipe compares no features.
        expression: as given.
        image: that was segmented, in whose picture a notebook shows the mask.
    """

    mask: Mask
    prior: Map
    score: Map
    expression: str
    image: Image.Image | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        height, width = self.mask.shape
        rows, cols = self.prior.shape
        return (
            f"Segmentation of {self.expression!r}: {self.mask.mean():.1%} of {width} x {height} "
            f"px, prior and score on {rows} x {cols} tokens"
        )

    def _repr_png_(self) -> bytes:
        return png(self._picture())

    def _repr_html_(self) -> str:
        return shown_as_html(repr(self), self._picture(), f"the mask of {self.expression}")

    def _picture(self) -> Image.Image:
        if self.image is None:
            return Image.fromarray(self.mask.astype(np.uint8) * 255)
        shown = overlay(self.image, self.mask)
        shown.thumbnail((_SHOWN_PX, _SHOWN_PX))
        return shown


def segment(
    editor: Editor,
    image: Image.Image,
    expression: str,
    recipe: Recipe | str | Path | None = None,
    seed: int = 0,
    pipeline_kwargs: Mapping[str, Any] | None = None,
) -> Segmentation:
    """Segment what an expression refers to; nothing is trained and no image is made.

    ```python
    mask = gp.segment(editor, image, "the left red circle").mask
    mask = gp.segment(editor, image, "the left red circle", recipe="paper").mask
    ```

    There is always an answer. An expression for nothing in the image gives the regions that fit it
    best. An object smaller than a token gives a region of about a token. An object that covers the
    image gives the parts of it that fit best; the mask is empty only where no token differs from
    another. An expression for several objects gives all of their regions.

    Args:
        editor: from `load_editor`.
        image: of any size and mode.
        expression: what refers, such as "the left red circle".
        recipe: every choice, the name of a packaged recipe ("default", "paper") or a file; None
            for the default of the editor's family.
        seed: of the noise.
        pipeline_kwargs: further arguments of the pipeline's call.

    Raises:
        PhraseError: the expression is empty, or longer than the text encoder reads.
        InputError: a recipe that is none, or that reads what the editor does not have.
    """
    recipe = recipe_for(editor, recipe)
    trace = forward(editor, image, expression, [recipe], seed, pipeline_kwargs)
    return segment_trace(trace, tuple(blocks_of(editor.denoiser)), image, expression, recipe)


def segment_trace(
    trace: Trace, blocks: Sequence[str], image: Image.Image, expression: str, recipe: Recipe
) -> Segmentation:
    """Turn a forward pass that was made into a mask: no model is run.

    Args:
        trace: of the recipe's instruction; it may hold more blocks and streams than are read.
        blocks: all of the denoiser's, in order.
        image: that was given to the editor.
        expression: what refers.
        recipe: every choice.
    """
    return segment_traces([trace], blocks, [image], [expression], recipe)[0]


def segment_traces(
    traces: Sequence[Trace],
    blocks: Sequence[str],
    images: Sequence[Image.Image],
    expressions: Sequence[str],
    recipe: Recipe,
) -> list[Segmentation]:
    """`segment_trace` of several: the same to the bit, sooner where images are of one size."""
    made: list[Segmentation] = []
    pairs = zip(
        zip(traces, images, expressions, strict=True), map(geometry_of, traces), strict=True
    )
    for geometry, group in groupby(pairs, itemgetter(1)):
        given = [each for each, _ in group]
        priors = [spatial_prior(trace, blocks, recipe) for trace, *_ in given]
        scores = [
            _score(trace, blocks, prior, recipe)
            for (trace, *_), prior in zip(given, priors, strict=True)
        ]
        maps = torch.stack(scores).to(given[0][0].device)
        shown = [image for _, image, _ in given]
        masks = to_masks(maps, geometry, shown, cut=recipe.cut, edges=recipe.edges)
        made += [
            Segmentation(mask, prior.numpy(), score.numpy(), words, image)
            for mask, prior, score, (_, image, words) in zip(
                masks, priors, scores, given, strict=True
            )
        ]
    return made


def _score(trace: Trace, blocks: Sequence[str], prior: Grid, recipe: Recipe) -> Grid:
    if not recipe.compares:
        return prior
    features = token_features(trace, blocks, recipe).to(trace.device)
    return classify(features, prior, recipe)
