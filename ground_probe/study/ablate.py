"""What each part of a recipe is worth: variants scored on the same traces, and paired with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from ground_probe import stats
from ground_probe.errors import PhraseError, UnsupportedEditorError
from ground_probe.segmentation.depth import in_depth
from ground_probe.segmentation.recipe import Depth, Recipe
from ground_probe.study.bench import Bench
from ground_probe.study.calibrate import ENDS, STREAMS, TEMPLATES, fraction

STEPS = (0, 1, 3, 6, 13, 20, 27)
"""Of the 28 that the schedule has."""

_REMOVED: Mapping[str, Mapping[str, Any]] = {
    "features": {"classifier": "none", "product": False, "cut": "half"},
    "edges of the image": {"edges": 0.0},
}
_REMOVED_OF_ATTENTION: Mapping[str, Mapping[str, Any]] = {
    "propagation": {"propagation": 0},
    "chosen heads": {"heads": ()},
}
_CHANGED: Mapping[str, Sequence[Any]] = {
    "prior": ("attention", "change"),
    "classifier": ("cosine", "lda"),
    "template": TEMPLATES,
}
_OF_ATTENTION: Mapping[str, Sequence[Any]] = {
    "prior_streams": STREAMS,
    "words": ("all", "content"),
    "normalize": (True, False),
    "propagation": (0, 1),
}
_OF_FEATURES: Mapping[str, Sequence[Any]] = {
    "feature_streams": STREAMS,
    "feature_depth": ENDS,
    "seeds": ("hard", "soft"),
    "states": ("block", "attention"),
    "standardize": (True, False),
    "product": (True, False),
}


def variants(recipe: Recipe, streams: Sequence[str]) -> Iterator[tuple[str, str, Recipe]]:
    """Every (part, value, variant) of the ablation, of the streams that an editor has."""
    attends = recipe.prior == "attention"
    for part, change in {**(_REMOVED_OF_ATTENTION if attends else {}), **_REMOVED}.items():
        variant = replace(recipe, **change)
        if variant != recipe:
            yield "without", part, variant
    of_prior, of_features = (
        _OF_ATTENTION if attends else {},
        _OF_FEATURES if recipe.compares else {},
    )
    changed = {**_CHANGED, **of_prior, **of_features}
    for name, values in changed.items():
        for value in values:
            if name.endswith("streams") and not set(value) <= set(streams):
                continue
            shown = "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
            cut = "half" if name == "product" and value else recipe.cut
            yield name, shown, replace(recipe, **{name: value, "cut": cut})


def steps(recipe: Recipe, at: Sequence[int] = STEPS) -> Iterator[tuple[str, str, Recipe]]:
    """The recipe at other denoising steps of 28, each of which needs all steps before it."""
    for step in at:
        yield "step", str(step), replace(recipe, step=step)


def fractions(recipe: Recipe, blocks: Sequence[str]) -> Iterator[tuple[str, str, Recipe]]:
    """The recipe whose features and attention are read no later than each part of the blocks.

    Nothing else is chosen anew. For the best recipe at each fraction, chosen on training data, see
    the curve that calibration writes.
    """
    for _, high in ENDS:
        features = _until(recipe.feature_depth, high)
        heads = tuple(head for head in recipe.heads if head[0] < high)
        prior = recipe.prior_depth if heads else _until(recipe.prior_depth, high)
        variant = replace(recipe, feature_depth=features, heads=heads, prior_depth=prior)
        if high < 1:  # a change needs the whole step
            variant = replace(variant, prior="attention")
        last = in_depth(blocks, (0.0, high))[-1]
        yield "fraction", f"{(blocks.index(last) + 1) / len(blocks):.3f}", variant


def ablate(bench: Bench, recipe: Recipe, named: Iterator[tuple[str, str, Recipe]]) -> pd.DataFrame:
    """Score a recipe and its variants (part, value, variant) on a bench's examples.

    Returns one row a variant: `part, value, n, miou, low, high` with the interval over images,
    `difference` to the full recipe, paired over examples, with `difference_low` and
    `difference_high`, and `fraction` of a step's blocks that is computed. A variant that is the
    recipe itself is left out, but for those of a step or fraction; so is one that makes the
    instruction of some example too long for the editor, or reads a change that it does not give.
    """
    own = bench.ious(recipe)
    rows = [_row(bench, "full", recipe.digest, recipe, own)]
    for part, value, variant in tqdm(list(named), desc="ablation", leave=False):
        if variant != recipe or part in ("step", "fraction"):
            with suppress(PhraseError, UnsupportedEditorError):
                rows.append(_row(bench, part, value, variant, own))
    return pd.DataFrame(rows)


def _row(bench: Bench, part: str, value: str, variant: Recipe, own: np.ndarray) -> dict[str, Any]:
    ious = bench.ious(variant)
    low, high = stats.cluster_interval(ious, bench.images)
    difference = ious - own
    ends = stats.cluster_interval(difference, bench.images)
    return {
        "part": part,
        "value": value,
        "n": len(ious),
        "miou": ious.mean(),
        "low": low,
        "high": high,
        "difference": difference.mean(),
        "difference_low": ends[0],
        "difference_high": ends[1],
        "fraction": fraction(bench.blocks, variant),
    }


def _until(depth: Depth, high: float) -> Depth:
    """An interval moved back until it ends before a depth, and kept as wide as there is room."""
    low, top = depth
    back = max(0.0, top - high)
    return max(0.0, low - back), min(top, high)
