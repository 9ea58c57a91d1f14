"""What the segmenter is compared with, on the same editor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.color import rgb2lab
from skimage.filters import threshold_otsu
from skimage.measure import label
from torch import Tensor, nn

from ground_probe.capture import Trace
from ground_probe.capture.sites import attentions_of, blocks_of
from ground_probe.editors import Editor, fill
from ground_probe.images import to_rgb
from ground_probe.segmentation.look import Look, Mask, look, needed
from ground_probe.segmentation.mask import to_mask
from ground_probe.segmentation.prior import unit
from ground_probe.segmentation.recipe import Recipe, default_recipe
from ground_probe.segmentation.segment import decide, features_of, masks_of
from ground_probe.segmentation.words import token_weights

METHODS = (
    "full", "attention", "discriminant", "features", "one_step_difference", "concepts",
    "largest_region",
)  # fmt: skip
_POWER_ROUNDS = 30


def compare(
    editor: Editor,
    image: Image.Image,
    expression: str,
    recipe: Recipe | None = None,
    seed: int = 0,
) -> dict[str, Mask]:
    """The masks of every method in `METHODS`, all from the one step that the segmenter looks at.

    - full: `segment`.
    - attention: the prior from attention alone; the recipe itself where that compares no features.
    - discriminant: the score alone, of the linear discriminant where the recipe compares nothing.
    - features: the smaller of the two sides of the features' first principal component.
    - one_step_difference: the prior from the predicted change alone.
    - concepts: dot products in the attention's output space, of image tokens with the expression's
      words less the instruction's other words. Source: Helbling et al. (2025), ConceptAttention.
    - largest_region: see `largest_region`; looks at neither words nor editor.
    """
    recipe = recipe or default_recipe(editor)
    attends = replace(recipe, prior_from="attention", classifier="none")
    compared = "lda" if recipe.classifier == "none" else recipe.classifier
    compares = replace(recipe, classifier=compared, prior_power=0.0)
    blocks = tuple(blocks_of(editor.denoiser))
    chosen = {*needed(blocks, compares), *needed(blocks, attends)}
    with _listening(editor) as outputs:
        every = {"streams": None, "prediction": True}
        seen = look(editor, image, expression, attends, seed, sorted(chosen), **every)
    found, last = decide(seen, recipe), seen.traces[-1]
    maps = {
        "attention": torch.as_tensor(decide(seen, attends).prior),
        "features": _smaller_side(seen, recipe),
        "one_step_difference": last.change(recipe.step),
        "concepts": _concepts(outputs, last),
    }
    stacked = torch.stack([each.float().cpu() for each in maps.values()])
    masks = dict(zip(maps, masks_of(seen, stacked, recipe), strict=True))
    masks |= {"full": found.mask, "discriminant": decide(seen, compares).mask}
    masks["largest_region"] = largest_region(seen.image)
    return {name: masks[name] for name in METHODS}


def edit_difference(
    editor: Editor,
    image: Image.Image,
    expression: str,
    recipe: Recipe | None = None,
    seed: int = 0,
    steps: int = 28,
) -> Mask:
    """Where the finished edit differs from the image: the mean absolute difference, thresholded."""
    recipe = recipe or default_recipe(editor)
    instruction, _ = fill(recipe.template, expression)
    image = to_rgb(image)
    edited = editor.edit(image, instruction, seed, steps)
    change = np.abs(np.asarray(edited, float) - np.asarray(image, float)).mean(-1)
    return to_mask(change, image)


def largest_region(image: Image.Image) -> Mask:
    """The largest connected region unlike the image's median color: a guess without language."""
    colors = rgb2lab(np.asarray(to_rgb(image)))
    distance = np.linalg.norm(colors - np.median(colors, axis=(0, 1)), axis=-1)
    regions = label(distance > threshold_otsu(distance))
    sizes = np.bincount(regions.ravel())[1:]
    return regions == sizes.argmax() + 1 if len(sizes) else np.ones(distance.shape, bool)


@contextmanager
def _listening(editor: Editor) -> Iterator[list[Any]]:
    """Keep what the denoiser's attention modules return."""
    outputs: list[Any] = []

    def returned(module: nn.Module, args: tuple, output: Any) -> None:
        outputs.append(output)

    modules = [m for b in blocks_of(editor.denoiser).values() for m in attentions_of(b).values()]
    handles = [module.register_forward_hook(returned) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _smaller_side(seen: Look, recipe: Recipe) -> Tensor:
    features = features_of(seen, recipe)[-1]
    features = features - features.mean(0)
    axis = features[features.norm(dim=-1).argmax()]
    for _ in range(_POWER_ROUNDS):
        axis = F.normalize((features @ axis) @ features, dim=0)
    along = features @ axis
    side = along > threshold_otsu(along.numpy())
    return (along if side.float().mean() < 0.5 else -along).view(seen.geometry.grid)


def _concepts(outputs: list[Any], trace: Trace) -> Tensor:
    words = torch.as_tensor(token_weights(trace.phrase_tokens, False), dtype=torch.float32)
    phrase = list(trace.phrase_keys)
    maps = []
    for output in outputs:
        # Attention modules return the image before the text, blocks as in the sequence.
        output = output[::-1] if isinstance(output, tuple) and trace.layout.text_first else output
        streams = {name: part[0].float().cpu() for name, part in trace.layout.split(output).items()}
        text = streams.pop("text")
        rest = sorted({*range(len(text))} - {*phrase, *trace.padding})
        concept = words @ text[phrase] - text[rest].mean(0)
        maps += [unit(part @ concept) for part in streams.values()]
    return torch.stack(maps).mean(0).view(trace.geometry.grid)
