"""References that need no model: what a score has to be above, and what it cannot pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from ground_probe import metrics
from ground_probe.datasets import GENERATED
from ground_probe.datasets.example import Mask, RefExample, Split
from ground_probe.editors import random_weights
from ground_probe.errors import InputError
from ground_probe.geometry import Geometry
from ground_probe.segmentation import edit_difference, segment
from ground_probe.segmentation.mask import along_edges, enlarge, inside

_EDGES = (1.0, 2.5)  # radii of the filter, in tokens


def whole_image(editor: Any, example: RefExample) -> Mask:
    """Everything: the floor of a predictor that does not look."""
    return np.ones_like(example.mask)


def largest_object(editor: Any, example: RefExample) -> Mask:
    """The largest object of the image with its exact mask: perfect edges, no language.

    Raises:
        InputError: no other object is known, so that the largest would be the answer itself.
    """
    if not example.distractors:
        raise InputError("largest_object: only the referent is annotated, the answer itself")
    return max((example.mask, *example.distractors), key=np.count_nonzero)


def ceiling(editor: Any, example: RefExample) -> Mask:
    """The best mask of the exact token map by any cut: the true mask averaged on the token grid."""
    geometry = editor.geometry(example.image)
    maps = _token_map(geometry, example)
    pixels = np.concatenate([strip[0].numpy() for _, strip in enlarge(maps, geometry)])
    return best_cut(np.where(inside(geometry), pixels, -np.inf), example.mask)


def ceiling_with_edges(editor: Any, example: RefExample) -> Mask:
    """The best mask of the exact token map by any cut, with or without edges of the image."""
    geometry = editor.geometry(example.image)
    masks = [ceiling(editor, example)]
    for radius in _EDGES:
        pixels = next(along_edges(_token_map(geometry, example), geometry, example.image, radius))
        masks.append(best_cut(np.where(inside(geometry), pixels, -np.inf), example.mask))
    return max(masks, key=lambda mask: metrics.iou(*metrics.counts(mask, example.mask)))


def best_cut(values: Float[np.ndarray, "height width"], truth: Mask) -> Mask:
    """Of all masks of what is above a cut, the one most like the truth.

    >>> best_cut(np.array([[0.9, 0.2], [0.6, 0.5]]), np.array([[True, False], [False, True]]))
    array([[ True, False],
           [ True,  True]])
    """
    if not truth.any():  # nothing is what is most like nothing
        return np.zeros_like(truth)
    order = np.argsort(-values, axis=None, kind="stable")
    kept = np.arange(1, values.size + 1)
    shared = np.cumsum(truth.flat[order])
    ious = shared / (np.count_nonzero(truth) + kept - shared)
    ranked = values.flat[order]
    ious[:-1][ranked[:-1] == ranked[1:]] = 0  # no cut divides equal values
    return values >= ranked[np.argmax(ious)]


def _token_map(geometry: Geometry, example: RefExample) -> Float[Tensor, "1 rows cols"]:
    return torch.as_tensor(geometry.soft_labels(example.mask)[None], dtype=torch.float32)


BASELINES: dict[str, Callable[[Any, RefExample], Mask]] = {
    "whole_image": whole_image,
    "largest_object": largest_object,
    "ceiling": ceiling,
    "ceiling_with_edges": ceiling_with_edges,
}


def _random_weights(
    editor: Any, image: Image, expression: str, recipe: Any = None, seed: int = 0
) -> Any:
    """The segmenter on weights in random order: the floor of everything learned."""
    if editor.denoiser not in _UNTRAINED:
        _UNTRAINED[editor.denoiser] = random_weights(editor)
    return segment(_UNTRAINED[editor.denoiser], image, expression, recipe=recipe, seed=seed)


_UNTRAINED: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
CONTROLS: dict[str, Callable[..., Any]] = {
    "random_weights": _random_weights,
    "edit_difference": edit_difference,
}
"""What needs the editor but not the one step that all other methods share."""


def applicable(split: Split) -> tuple[str, ...]:
    """The baselines that mean something on a split.

    `largest_object` needs every object's mask. RefCOCO gives those that somebody referred to: the
    largest of them is mostly the referent, which would look like a strong method.
    """
    return tuple(n for n in BASELINES if n != "largest_object" or split.dataset in GENERATED)
