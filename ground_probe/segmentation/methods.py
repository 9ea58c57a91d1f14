"""What the segmenter is compared with, on the same editor and from the same forward pass."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from skimage.color import rgb2lab
from skimage.filters import threshold_otsu
from skimage.measure import label
from torch import Tensor

from ground_probe.capture import Trace, trace
from ground_probe.capture.sites import blocks_of
from ground_probe.editors import Editor, fill
from ground_probe.errors import UnsupportedEditorError
from ground_probe.images import to_rgb
from ground_probe.segmentation.features import Features, token_features
from ground_probe.segmentation.forward import blocks_read, geometry_of, gives_change
from ground_probe.segmentation.mask import to_mask, to_masks
from ground_probe.segmentation.prior import token_weights, unit
from ground_probe.segmentation.recipe import Recipe
from ground_probe.segmentation.recipes import recipe_for
from ground_probe.segmentation.segment import segment_trace

Mask = Bool[np.ndarray, "height width"]
METHODS = (
    "full", "attention", "discriminant", "features", "one_step_difference", "concepts",
    "largest_region",
)  # fmt: skip


def methods_of(editor: Editor) -> tuple[str, ...]:
    """The methods that an editor can be asked for: not all have text tokens or give a change."""
    lacking = set[str]()
    if not gives_change(editor):
        lacking.add("one_step_difference")
    if "text" not in editor.family.streams:
        lacking.add("concepts")
    return tuple(name for name in METHODS if name not in lacking)


def compare(
    editor: Editor,
    image: Image.Image,
    expression: str,
    recipe: Recipe | str | None = None,
    seed: int = 0,
) -> dict[str, Mask]:
    """The masks of every method of `methods_of`, all from one forward pass.

    - full: `segment`.
    - attention: the prior from attention alone.
    - discriminant: the features' score alone, of the linear discriminant where the recipe compares
      nothing.
    - features: the smaller of the two sides of the features' first principal component.
    - one_step_difference: the predicted change alone; left out where it is not known for an image.
    - concepts: dot products in the attention's output space, of image tokens with the expression's
      words less the instruction's other words. Source: Helbling et al. (2025), ConceptAttention.
    - largest_region: see `largest_region`; looks at neither words nor editor.
    """
    recipe = recipe_for(editor, recipe)
    attends = replace(recipe, prior="attention", classifier="none", product=False, cut="half")
    compares = replace(recipe if recipe.compares else _comparing(recipe), product=False)
    blocks = tuple(blocks_of(editor.denoiser))
    last = max(blocks.index(r) for one in (attends, compares) for r in blocks_read(blocks, one))
    instruction, phrase = fill(recipe.template, expression)
    made = trace(
        editor,
        image,
        instruction,
        phrase,
        steps=(recipe.step,),
        blocks=blocks[: last + 1],
        streams=editor.family.streams,
        attention=True if recipe.heads else "mean",
        propagate=recipe.propagation,
        attention_output=True,
        prediction=gives_change(editor),
        seed=seed,
    )
    masks = {
        name: segment_trace(made, blocks, image, expression, one).mask
        for name, one in {"full": recipe, "attention": attends, "discriminant": compares}.items()
    }
    geometry = geometry_of(made)
    features = token_features(made, blocks, compares)
    maps = {"features": _smaller_side(features).view(geometry.grid)}
    if made.prediction:
        with suppress(UnsupportedEditorError):  # the grids of this image differ
            maps["one_step_difference"] = made.change(recipe.step)
    if made.layout.joint:
        maps["concepts"] = _concepts(made, recipe.step)
    stacked = torch.stack([each.float().cpu() for each in maps.values()])
    made_masks = to_masks(stacked, geometry, image, edges=recipe.edges)
    masks |= dict(zip(maps, made_masks, strict=True))
    masks["largest_region"] = largest_region(image)
    return {name: masks[name] for name in METHODS if name in masks}


def edit_difference(
    editor: Editor,
    image: Image.Image,
    expression: str,
    recipe: Recipe | str | None = None,
    seed: int = 0,
    steps: int = 28,
) -> Mask:
    """Where the finished edit differs from the image: the mean absolute difference, cut at half."""
    instruction, _ = fill(recipe_for(editor, recipe).template, expression)
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


def _comparing(recipe: Recipe) -> Recipe:
    return replace(recipe, classifier="lda", cut="half")


def _smaller_side(features: Features) -> Tensor:
    from sklearn.decomposition import PCA  # takes longer to import than all else here

    along = PCA(1, random_state=0).fit_transform(features.numpy())[:, 0]
    smaller = (along > threshold_otsu(along)).mean() < 0.5
    return torch.as_tensor(along if smaller else -along)


def _concepts(made: Trace, step: int) -> Tensor:
    words = torch.as_tensor(token_weights(made.phrase_tokens, False), dtype=torch.float32)
    phrase, maps = list(made.phrase_keys), []
    for block in made.blocks:
        states = {s: made.attention_output[block, step, s] for s in (*made.layout.grids, "text")}
        text = states.pop("text").float()
        rest = sorted({*range(len(text))} - {*phrase, *made.padding})
        concept = words @ text[phrase] - text[rest].mean(0)
        maps += [unit(state.float() @ concept) for state in states.values()]
    return torch.stack(maps).mean(0).view(geometry_of(made).grid)
