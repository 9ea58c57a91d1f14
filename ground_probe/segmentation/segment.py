"""Where x what: a mask of what an expression refers to, from one denoising step of an editor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ground_probe.editors import Editor
from ground_probe.segmentation.discriminate import discriminate, token_features
from ground_probe.segmentation.look import Look, Map, Mask, look, look_each
from ground_probe.segmentation.look import needed as needed
from ground_probe.segmentation.mask import Masks, to_masks
from ground_probe.segmentation.prior import (
    attention_prior,
    by_attention,
    by_features,
    change_prior,
    propagate,
    spatial_factor,
)
from ground_probe.segmentation.recipe import Recipe, default_recipe, in_depth
from ground_probe.segmentation.words import counted, place_of

# The choices that each stage depends on, besides those of the stage before.
_FEATURES = ("step", "feature_depth", "feature_streams", "contrast_in")
_PRIOR = (
    "prior_from", "step", "prior_depth", "prior_streams", "heads", "direction", "words",
    "contrast_in",
)  # fmt: skip
_SPREAD = ("propagation", "affinity", "temperature")
_SCORE = ("spatial", "classifier", "prototypes", "focus", "rounds")


@dataclass(frozen=True)
class Segmentation:
    """What an expression refers to in an image.

    Args:
        mask: at the image's own size.
        prior: where to look, on the token grid, in [0, 1].
        score: how much each token is like what is there, in [0, 1]; the prior itself where the
            recipe compares no features.
        expression: as given.
    """

    mask: Mask
    prior: Map
    score: Map
    expression: str


def segment(
    editor: Editor,
    image: Image.Image,
    expression: str,
    recipe: Recipe | None = None,
    seed: int = 0,
    **arguments: Any,
) -> Segmentation:
    """Segment what an expression refers to; nothing is trained and no image is made.

    There is always an answer. An expression for nothing in the image gives the regions that fit it
    best. An object smaller than a token gives a region of about a token. An object that covers the
    image gives the parts of it that fit best, for every threshold here divides; the mask is empty
    only where no token differs from another. An expression for several objects gives all of their
    regions, and "the two left dots", where the recipe reads places, the two furthest to the left.

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
    return decide(look(editor, image, expression, recipe, seed, **arguments), recipe)


def segment_each(
    editor: Editor,
    image: Image.Image,
    expressions: Sequence[str],
    recipe: Recipe | None = None,
    seeds: Sequence[int] | int = 0,
    **arguments: Any,
) -> list[Segmentation]:
    """`segment` for several expressions of one image, at a lower price for each.

    They share the image's encoding and the contrast's runs and, where the pipeline takes several
    prompts for one image, the denoiser's call.

    Args:
        editor: from `load_editor`.
        image: of any size and mode.
        expressions: what refers.
        recipe: see `segment`.
        seeds: of the noise, one for each expression or one for all.
        arguments: see `segment`.

    Raises:
        PhraseError: see `segment`.
    """
    recipe = recipe or default_recipe(editor)
    seeds = [seeds] * len(expressions) if isinstance(seeds, int) else seeds
    looks = look_each(editor, image, expressions, recipe, seeds, **arguments)
    return decide_each(looks, recipe)


def decide(seen: Look, recipe: Recipe) -> Segmentation:
    """Turn a look into a mask: no model is run. Stages whose choices stay the same are kept."""
    return decide_each([seen], recipe)[0]


def decide_each(looks: Sequence[Look], recipe: Recipe) -> list[Segmentation]:
    """`decide` for looks at one image, whose masks are made together."""
    key = _choices(recipe, "score")
    pairs = [each.once("score", key, partial(_prior_and_score, each, recipe)) for each in looks]
    compares = recipe.classifier != "none"
    maps = [score * prior**recipe.prior_power if compares else score for prior, score in pairs]
    masks = masks_of(looks[0], torch.stack(maps), recipe)
    found = []
    for seen, (prior, score), mask in zip(looks, pairs, masks, strict=True):
        if recipe.spatial:
            mask = counted(mask, place_of(seen.expression))
        found.append(Segmentation(mask, prior.numpy(), score.numpy(), seen.expression))
    return found


def masks_of(seen: Look, maps: Float[Tensor, "maps rows cols"], recipe: Recipe) -> Masks:
    """Any maps on the token grid as masks of the image, made where the editor ran."""
    maps = maps.to(seen.device)
    return to_masks(maps, seen.geometry, seen.image, edges=recipe.edges)


def features_of(seen: Look, recipe: Recipe) -> tuple[Tensor, ...]:
    """The features of every noise, one row a token."""
    blocks = in_depth(seen.blocks, recipe.feature_depth)
    pairs = zip(seen.traces, _nulls(seen, recipe, "features"), strict=True)
    return tuple(token_features(each, null, blocks, recipe) for each, null in pairs)


def _prior_and_score(seen: Look, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Both on the grid, averaged over the noises."""
    priors = seen.once("spread", _choices(recipe, "spread"), lambda: _spread(seen, recipe))
    factor = spatial_factor(seen.expression, priors[0].shape, recipe.spatial)
    priors = [prior.to(seen.device) * factor.to(seen.device) for prior in priors]
    scores = priors if recipe.classifier == "none" else _scores(seen, priors, recipe)
    return torch.stack(priors).mean(0).cpu(), torch.stack(scores).mean(0).cpu()


def _scores(seen: Look, priors: list[Tensor], recipe: Recipe) -> list[Tensor]:
    """How much each token is like what each noise's prior points at."""
    likeness, channels = _likeness(seen, recipe)
    scores = []
    for alike, prior in zip(likeness, priors, strict=True):
        score = discriminate(
            alike,
            prior.flatten(),
            channels=channels,
            classifier=recipe.classifier,
            prototypes=recipe.prototypes,
            focus=recipe.focus,
            rounds=recipe.rounds,
        )
        scores.append(score.view_as(prior))
    return scores


def _spread(seen: Look, recipe: Recipe) -> list[Tensor]:
    """The prior of every noise; attention is carried to each token's likes."""
    priors = seen.once("prior", _of(recipe, _PRIOR), lambda: _priors(seen, recipe))
    if recipe.prior_from == "change" or not recipe.propagation:
        return priors

    def weights() -> list[Tensor]:
        if recipe.affinity == "features":
            likeness, _ = _likeness(seen, recipe)
            return [by_features(alike, recipe.temperature) for alike in likeness]
        blocks = in_depth(seen.blocks, recipe.feature_depth)
        return [by_attention(each, blocks, recipe).to(seen.device) for each in seen.traces]

    key = _of(recipe, (*_FEATURES, "affinity", "temperature"))
    found = zip(priors, seen.once("weights", key, weights), strict=True)
    return [propagate(prior.to(each.device), each, recipe.propagation) for prior, each in found]


def _priors(seen: Look, recipe: Recipe) -> list[Tensor]:
    pairs = zip(seen.traces, _nulls(seen, recipe, "prior"), strict=True)
    if recipe.prior_from == "change":
        return [change_prior(each, null, recipe) for each, null in pairs]
    return [attention_prior(each, null, seen.blocks, recipe) for each, null in pairs]


def _likeness(seen: Look, recipe: Recipe) -> tuple[tuple[Tensor, ...], int]:
    """All cosines between the tokens of every noise, and the number of channels.

    At FLUX's size this is 0.4 TFLOP, and each classifier some more, so they run where the editor
    does.
    """

    def cosines() -> tuple[tuple[Tensor, ...], int]:
        features = [each.to(seen.device) for each in features_of(seen, recipe)]
        return tuple(each @ each.T for each in features), features[0].shape[-1]

    return seen.once("likeness", _of(recipe, _FEATURES), cosines)


def _nulls(seen: Look, recipe: Recipe, part: str) -> tuple:
    used = seen.nulls and recipe.contrast_in in (part, "both")
    return seen.nulls if used else (None,) * len(seen.traces)


def _choices(recipe: Recipe, stage: str) -> tuple:
    """What a stage and all before it depend on."""
    names = {
        "spread": (*_FEATURES, *_PRIOR, *_SPREAD),
        "score": (*_FEATURES, *_PRIOR, *_SPREAD, *_SCORE),
    }[stage]
    return _of(recipe, names)


def _of(recipe: Recipe, names: Sequence[str]) -> tuple:
    return tuple(getattr(recipe, name) for name in names)
