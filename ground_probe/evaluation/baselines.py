"""References that need no model: what a score has to be above, and what it cannot pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from PIL.Image import Image

from ground_probe.datasets import GENERATED
from ground_probe.datasets.example import Mask, RefExample
from ground_probe.errors import InputError


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


def oracle_grid(editor: Any, example: RefExample) -> Mask:
    """The ceiling: the true mask averaged on the editor's token grid, upsampled, thresholded."""
    geometry = editor.geometry(example.image)
    return np.asarray(geometry.to_pixels(geometry.soft_labels(example.mask))) >= 0.5


BASELINES: dict[str, Callable[[Any, RefExample], Mask]] = {
    "whole_image": whole_image,
    "largest_object": largest_object,
    "oracle_grid": oracle_grid,
}


def _random_weights(
    editor: Any, image: Image, expression: str, recipe: Any = None, seed: int = 0
) -> Any:
    """The segmenter on the same architecture, untrained: the floor of everything learned."""
    from ground_probe.editors import random_weights
    from ground_probe.segmentation import segment

    if editor.denoiser not in _UNTRAINED:
        _UNTRAINED[editor.denoiser] = random_weights(editor)
    return segment(_UNTRAINED[editor.denoiser], image, expression, recipe=recipe, seed=seed)


def _edit_difference(
    editor: Any, image: Image, expression: str, recipe: Any = None, seed: int = 0
) -> Any:
    """Where the finished edit differs from the image; takes a whole edit."""
    from ground_probe.segmentation import edit_difference

    return edit_difference(editor, image, expression, recipe, seed)


_UNTRAINED: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
CONTROLS: dict[str, Callable[..., Any]] = {
    "random_weights": _random_weights,
    "edit_difference": _edit_difference,
}
"""What needs the editor but not the one step that all other methods share."""


def applicable(split: Sequence[RefExample]) -> tuple[str, ...]:
    """The baselines that mean something on a split.

    `largest_object` needs every object's mask. RefCOCO gives those that somebody referred to: the
    largest of them is mostly the referent, which would look like a strong method.
    """
    return tuple(n for n in BASELINES if n != "largest_object" or split.dataset in GENERATED)
