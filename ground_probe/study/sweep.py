"""The first calibration of a large editor: the choices in which published sources disagree.

One forward pass for each example and template keeps what all candidates read; the rest is
arithmetic on it. What was scored is kept beside the recipe, so that a repeated sweep goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from ground_probe import metrics
from ground_probe.capture import keep_half
from ground_probe.capture.sites import blocks_of
from ground_probe.datasets.example import RefExample
from ground_probe.editors import Editor
from ground_probe.editors.fits import small_side_px
from ground_probe.errors import UnsupportedEditorError
from ground_probe.io import digest, seed_of, whole_file, writable_folder
from ground_probe.segmentation.forward import forward, gives_change
from ground_probe.segmentation.recipe import Recipe
from ground_probe.segmentation.recipes import recipe_for
from ground_probe.segmentation.segment import segment_trace
from ground_probe.study.bench import in_folds, provenance

CHOICES: Mapping[str, Sequence[Any]] = {
    "template": ("Change the color of {expression} to red", "Remove {expression}"),
    "step": (0, 4),
    "prior": ("attention", "change"),
    "streams": (("reference",), ("noise",), ("noise", "reference")),
    "prior_depth": ((0.0, 1.0), (0.3, 0.6), (0.6, 1.0)),
    "words": ("all", "content"),
    "seeds": ("hard", "soft"),
    "states": ("attention", "block"),
    "feature_depth": ((0.775, 0.785), (0.82, 0.83), (0.59, 0.61), (0.41, 0.43)),
}
"""What is tried, the paper's own values first; the sources are in `docs/recipes.md`."""


def candidates(editor: Editor, choices: Mapping[str, Sequence[Any]] = CHOICES) -> list[Recipe]:
    """Every combination of the choices, the others as the paper's; streams are the editor's.

    A change is one map, whatever blocks and words attention would be read of.
    """
    base, there = recipe_for(editor, "paper"), set(editor.family.streams)
    attended = {name: choices[name][0] for name in ("prior_depth", "words") if name in choices}
    recipes: list[Recipe] = []
    for values in product(*choices.values()):
        chosen = dict(zip(choices, values, strict=True))
        streams = chosen.pop("streams", base.prior_streams)
        if chosen.get("prior") == "change":
            chosen |= attended
            if not gives_change(editor):
                continue
        if set(streams) <= there:
            recipes.append(replace(base, prior_streams=streams, feature_streams=streams, **chosen))
    return list(dict.fromkeys(recipes))


def is_swept(editor: Editor) -> bool:
    """Whether an editor is calibrated by `sweep`; small ones take the finer search by heads."""
    return not small_side_px(editor.pipeline)


def sweep(
    editor: Editor,
    examples: Sequence[RefExample],
    out: Path | str,
    *,
    choices: Mapping[str, Sequence[Any]] = CHOICES,
    folds: int = 5,
    seed: int = 0,
) -> Recipe:
    """Choose among all combinations on training examples, and write the best as a recipe.

    Args:
        editor: from `load_editor`.
        examples: a training split.
        out: the recipe's JSON file; what was scored is kept in a folder `<out>.ious` beside it.
        choices: fields of `Recipe` with the values to try; "streams" are both the prior's and the
            features'.
        folds: of images, for the held-out score in the provenance: at least 2.
        seed: of the noise.
    """
    images = np.unique([example.image_id for example in examples], return_inverse=True)[1]
    inside_folds = in_folds(images, folds)
    recipes = candidates(editor, choices)
    folder = writable_folder(Path(out).with_suffix(".ious"))
    ious = np.stack(list(_scored(editor, examples, recipes, folder, seed)))
    held_out = np.full(len(examples), np.nan)
    for inside in inside_folds:
        held_out[inside] = ious[inside, ious[~inside].mean(0).argmax()]
    method = f"best of {len(recipes)} combinations; held-out score from {folds} folds"
    record = provenance(method, editor, examples, seed, held_out, images)
    record["miou_paper"] = round(float(ious[:, 0].mean()), 4)
    recipe = replace(recipes[int(ious.mean(0).argmax())], provenance=record)
    recipe.to_json(out)
    return recipe


def _scored(
    editor: Editor,
    examples: Sequence[RefExample],
    recipes: Sequence[Recipe],
    folder: Path,
    seed: int,
) -> Iterator[Float[np.ndarray, " recipes"]]:
    """Each example's IoU by every recipe, read where it was kept."""
    about = [editor.revision, [recipe.digest for recipe in recipes]]
    for example in tqdm(examples, desc="sweep", unit="example"):
        noise = seed_of(example.key, seed)
        path = folder / f"{digest([*about, noise, example.key])}.npy"
        if not path.exists():
            ious = _ious(editor, example, recipes, noise)
            with whole_file(path) as part, part.open("wb") as file:
                np.save(file, ious)
        yield np.load(path, allow_pickle=False)


def _ious(
    editor: Editor, example: RefExample, recipes: Sequence[Recipe], seed: int
) -> Float[np.ndarray, " recipes"]:
    blocks = tuple(blocks_of(editor.denoiser))
    ious = np.zeros(len(recipes))
    for template in dict.fromkeys(recipe.template for recipe in recipes):
        rows = [at for at, recipe in enumerate(recipes) if recipe.template == template]
        of_template = [recipes[at] for at in rows]
        trace = forward(
            editor, example.image, example.expression, of_template, seed, reduce=keep_half
        )
        for at in rows:
            with suppress(UnsupportedEditorError):  # no change is known where the grids differ
                result = segment_trace(
                    trace, blocks, example.image, example.expression, recipes[at]
                )
                ious[at] = metrics.iou(*metrics.counts(result.mask, example.mask))
    return ious
