"""The segmenter on planted evidence, whose answer is known, and on tiny random editors."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import ground_probe as gp
from ground_probe import testing
from ground_probe.capture import Trace
from ground_probe.capture.layout import Layout
from ground_probe.capture.sites import Captured
from ground_probe.editors import random_weights
from ground_probe.errors import InputError, PhraseError
from ground_probe.geometry import Geometry
from ground_probe.segmentation import methods
from ground_probe.segmentation.discriminate import discriminate
from ground_probe.segmentation.look import Look, look
from ground_probe.segmentation.prior import (
    attention_prior,
    by_features,
    propagate,
    spatial_factor,
    unit,
)
from ground_probe.segmentation.recipe import OF_ATTENTION, Recipe, default_recipe
from ground_probe.segmentation.segment import decide, masks_of, segment, segment_each
from ground_probe.testing import kontext

PHOTOS = Path(__file__).parents[2] / "shared/data/refer-sample/images"
EXPRESSION = "the red circle"
RECIPES = {
    file.name.removesuffix(".json"): file
    for file in (files("ground_probe.segmentation") / "recipes").iterdir()
    if file.name.endswith(".json") and file.name != "tiny.json"
}
PLAIN = Recipe(prior_depth=(0.0, 1.0), feature_depth=(0.0, 1.0), propagation=0, edges=0.0)
VARIANTS = [
    {},
    {"prior_from": "change"},
    {"propagation": 2},
    {"propagation": 1, "affinity": "attention"},
    {"heads": ((0.5, 0),)},
    {"classifier": "lda"},
    {"classifier": "none"},
    {"prototypes": 3},
    {"direction": "both"},
    {"edges": 1.0},
    {"rounds": 5, "focus": 1.0},
]


@pytest.fixture(scope="module")
def editor():
    return gp.load_editor(kontext(), device="cpu")


def planted(inside: np.ndarray, geometry: Geometry, seed: int = 0) -> Look:
    """Noisy attention and features in which the tokens `inside` differ from the rest."""
    generator = torch.Generator().manual_seed(seed)
    tokens, dim = inside.size, 16
    member = torch.as_tensor(inside.flatten(), dtype=torch.float32)
    centres = torch.randn(2, dim, generator=generator)
    hidden, maps, from_text, affinity = Captured(), Captured(), Captured(), Captured()
    for stream in ("noise", "reference"):
        noise = 0.4 * torch.randn(tokens, dim, generator=generator)
        hidden["block", 0, stream] = centres[member.long()] + noise
    weight = 0.02 + 0.1 * member.repeat(2) + 0.02 * torch.rand(2 * tokens, generator=generator)
    maps["block", 0] = weight[None, :, None].expand(1, -1, 3)
    from_text["block", 0] = maps["block", 0].transpose(1, 2) / tokens
    alike = 0.1 + (member[:, None] == member[None]).float()
    affinity["block", 0] = torch.cat([alike, alike], -1)[None] / tokens
    latents = torch.randn(2, tokens, 4, generator=generator)
    predicted = latents[0] + 0.2 * latents[1] + member[:, None]
    trace = Trace(
        hidden=hidden,
        attention=maps,
        attention_from_text=from_text,
        affinity=affinity,
        prediction={0: predicted[None]},
        reference=latents[0],
        blocks=("block",),
        steps=(0,),
        sigmas={0: 1.0},
        timesteps={0: 1000.0},
        phrase_tokens=("the", "red", "circle"),
        phrase_keys=(1, 2, 3),
        layout=Layout({"noise": (inside.shape,), "reference": (inside.shape,)}, 8, True),
        geometry=geometry,
    )
    height, width = geometry.image_size_px
    return Look((trace,), (), ("block",), EXPRESSION, Image.new("RGB", (width, height), "gray"))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("mode", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size_px", [(90, 160), (200, 120)])
def test_a_planted_object_comes_back_within_a_token(variant, mode, size_px):
    grid = (12, 16)
    inside = np.zeros(grid, bool)
    inside[5:8, 7:11] = True
    geometry = Geometry(size_px, grid, mode)
    mask = decide(planted(inside, geometry), Recipe(**{**_choices(PLAIN), **variant})).mask
    assert mask.shape == size_px and mask.any()
    ys, xs = np.nonzero(mask)
    (left, top), (right, bottom) = (_corner(geometry, at) for at in ((5, 7), (7, 10)))
    height_px, width_px = geometry.token_size_px
    expected = (
        top - height_px / 2,
        left - width_px / 2,
        bottom + height_px / 2,
        right + width_px / 2,
    )
    found = (ys.min(), xs.min(), ys.max() + 1, xs.max() + 1)
    limits = (height_px, width_px, height_px, width_px)
    for low, high, limit in zip(found, expected, limits, strict=True):
        assert abs(low - high) <= limit + 1


def _choices(recipe: Recipe) -> dict:
    return recipe.choices


def _corner(geometry: Geometry, at: tuple[int, int]) -> tuple[float, float]:
    return geometry.pixel_of(*at)


@pytest.mark.parametrize("shape", [(1, 1), (12, 15)])
def test_an_object_of_one_token_and_one_that_nearly_fills_the_image(shape):
    inside = np.zeros((12, 16), bool)
    inside[: shape[0], : shape[1]] = True
    geometry = Geometry((96, 128), inside.shape)
    mask = decide(planted(inside, geometry), PLAIN).mask
    gold = np.kron(inside, np.ones((8, 8), bool))
    assert gp.metrics.iou(*gp.metrics.counts(mask, gold)) > (0.4 if inside.sum() == 1 else 0.9)


def test_an_object_smaller_than_a_token_gives_a_region_of_about_a_token():
    inside = np.zeros((12, 16), bool)
    inside[4, 9] = True
    seen = planted(inside, Geometry((96, 128), inside.shape))
    for maps in (seen.traces[0].attention, seen.traces[0].attention_from_text):
        for site in maps:  # a tenth of the token is the object
            maps[site] = 0.9 * maps[site].min() + 0.1 * maps[site]
    mask = decide(seen, PLAIN).mask
    assert mask[36, 76] and 16 <= mask.sum() <= 9 * 64


def test_an_object_that_covers_the_image_gives_what_fits_best_and_equal_evidence_gives_nothing():
    inside = np.ones((12, 16), bool)
    seen = planted(inside, Geometry((96, 128), inside.shape))
    assert 0 < decide(seen, PLAIN).mask.sum() < 96 * 128


def test_an_expression_for_nothing_in_the_image_gives_a_mask_all_the_same(editor):
    mask = segment(editor, Image.new("RGB", (48, 64), "gray"), "the purple elephant", PLAIN).mask
    assert mask.shape == (64, 48) and mask.dtype == bool


def test_the_two_left_dots_are_the_two_furthest_to_the_left():
    inside = np.zeros((12, 20), bool)
    for col in (1, 7, 16):
        inside[4:7, col : col + 3] = True
    seen = planted(inside, Geometry((96, 160), inside.shape))
    found = {}
    for words in ("the dots", "the two left dots", "the two right dots"):
        one = Look(seen.traces, (), seen.blocks, words, seen.image)
        mask = decide(one, Recipe(**_choices(PLAIN) | {"spatial": 1.0})).mask
        found[words] = [bool(mask[44, x]) for x in (20, 68, 140)]
    assert found["the dots"] == [True, True, True]
    assert found["the two left dots"] == [True, True, False]
    assert found["the two right dots"] == [False, True, True]


def test_two_objects_of_one_expression_are_both_found():
    inside = np.zeros((12, 16), bool)
    inside[2:5, 2:5] = inside[7:10, 10:13] = True
    seen = planted(inside, Geometry((96, 128), inside.shape))
    mask = decide(seen, PLAIN).mask
    assert mask[28, 28] and mask[68, 92] and not mask[28, 92]


def test_where_no_token_differs_the_mask_is_empty():
    seen = planted(np.zeros((4, 4), bool), Geometry((32, 32), (4, 4)))
    for captured in (seen.traces[0].hidden, seen.traces[0].attention):
        for site in captured:
            captured[site] = torch.ones_like(captured[site])
    assert not decide(seen, PLAIN).mask.any()


def test_spatial_words_choose_among_equals_only_when_they_are_switched_on():
    inside = np.zeros((12, 16), bool)
    inside[4:7, 2:5] = inside[4:7, 11:14] = True
    seen = planted(inside, Geometry((96, 128), inside.shape))
    seen = Look(seen.traces, (), seen.blocks, "the left circle", seen.image)
    choices = _choices(PLAIN) | {"prior_power": 2.0}
    off, on = (decide(seen, Recipe(**choices | {"spatial": x})).mask for x in (0.0, 1.0))
    assert off[44, 28] and off[44, 100]
    assert on[44, 28] and not on[44, 100]


def test_the_prior_by_hand():
    """Two words over three tokens: each map over its mean, then to [0, 1]."""
    seen = planted(np.zeros((1, 3), bool), Geometry((8, 24), (1, 3)))
    trace = seen.traces[0]
    noise = [[0.9, 0.1, 0.1], [0.9, 0.2, 0.2], [0.9, 0.3, 0.3]]  # "the" is a stop word
    reference = [[0.9, 0.2, 0.0], [0.9, 0.2, 0.4], [0.9, 0.2, 0.0]]
    trace.attention["block", 0] = torch.tensor([noise + reference])
    # noise 1, 2, 3 over 2; reference 1, 3, 1 over 5/3; their mean 0.55, 1.4, 1.05
    prior = attention_prior(trace, None, ("block",), PLAIN)
    torch.testing.assert_close(prior, torch.tensor([[0.0, 1.0, 0.5 / 0.85]]))


def test_propagation_carries_a_prior_to_the_likes_of_a_token():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    prior = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    weights = by_features(features @ features.T, temperature=0.1)
    spread = propagate(prior, weights, rounds=1)
    torch.testing.assert_close(spread, torch.tensor([[1.0, 1.0, 0.0, 0.0]]))


def test_several_background_prototypes_tell_a_mixed_background_apart():
    """Two kinds of background on both sides of the object: their mean looks like the object."""
    directions = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    features = directions[torch.tensor([0] * 4 + [1] * 8 + [2] * 8)]
    prior = torch.tensor([1.0] * 4 + [0.3] * 16)
    score = discriminate(features @ features.T, prior, channels=2, prototypes=2, rounds=1)
    assert score[:4].min() > 0.9 and score[4:].max() < 0.1


def test_the_discriminant_looks_away_from_what_varies_within_both_classes():
    """The first channel is the class plus a nuisance that the second channel shows alone."""
    generator = torch.Generator().manual_seed(0)
    member = torch.arange(400) < 120
    nuisance = torch.randn(400, generator=generator)
    features = torch.stack([member + nuisance, nuisance], -1)
    features = (features - features.mean(0)) / features.std(0)

    def separation(classifier: str) -> float:
        score = discriminate(
            features @ features.T, member.float(), channels=2, classifier=classifier, rounds=1
        )
        return float((score[member].mean() - score[~member].mean()) / score.std())

    assert separation("lda") > 1.5 * separation("cosine")


@given(st.integers(0, 2**16), st.integers(2, 40))
def test_the_discriminant_from_cosines_alone_is_fisher_s_with_a_shrunk_covariance(seed, channels):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(30, channels, generator=generator)
    prior = torch.rand(30, generator=generator)
    weights = (prior.double() ** 2, 1 - prior.double() ** 2)
    wide = features.double()
    means = [w @ wide / w.sum() for w in weights]
    pooled = sum(
        ((wide - m) * w[:, None]).T @ (wide - m) for w, m in zip(weights, means, strict=True)
    ) / len(wide)
    scale = pooled.diagonal().mean()
    shrunk = 0.8 * pooled + 0.2 * scale * torch.eye(channels)
    expected = unit(wide @ torch.linalg.solve(shrunk, means[0] - means[1]))
    found = discriminate(
        features @ features.T, prior, channels=channels, classifier="lda", rounds=1
    )
    torch.testing.assert_close(found.double(), expected, atol=2e-3, rtol=0)


def test_unit_of_a_constant_is_zero():
    assert unit(torch.full((2, 2), 3.0)).tolist() == [[0, 0], [0, 0]]


def test_the_spatial_factor_lies_between_one_minus_weight_and_one():
    factor = spatial_factor("the left circle", (4, 8), 0.5)
    assert 0.5 <= factor.min() < factor.max() <= 1
    assert (spatial_factor("the red circle", (4, 8), 1.0) == 1).all()


@pytest.mark.parametrize("size", [(64, 64), (201, 83), (37, 150), (5, 300)])
def test_masks_have_the_image_s_own_size(editor, size):
    image = Image.effect_noise(size, 80).convert("RGB")
    result = segment(editor, image, EXPRESSION)
    assert result.mask.shape == size[::-1] and result.mask.dtype == bool
    assert result.prior.shape == result.score.shape == (8, 8)
    for values in (result.prior, result.score):
        assert 0 <= values.min() <= values.max() <= 1


@pytest.mark.skipif(not PHOTOS.exists(), reason=f"{PHOTOS} is not here")
def test_photos_of_every_aspect_ratio(editor):
    by_ratio = {}
    for path in sorted(PHOTOS.iterdir()):
        with Image.open(path) as photo:
            by_ratio.setdefault(round(photo.width / photo.height, 1), path)
    for path in by_ratio.values():
        with Image.open(path) as photo:
            assert segment(editor, photo, EXPRESSION).mask.shape == photo.size[::-1]


# The Euler schedulers of diffusers 0.42.1 under NumPy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("family", RECIPES)
def test_every_family_with_a_recipe_segments_with_it(family, monkeypatch):
    testing.smaller_images(monkeypatch)
    editor = gp.load_editor(testing.BUILDERS[family](), device="cpu")
    image = Image.effect_noise((160, 96), 80).convert("RGB")
    more = testing.ARGUMENTS.get(family, {})
    assert segment(editor, image, EXPRESSION, **more).mask.shape == (96, 160)
    if family != "FluxKontext":  # a small one is the embedded editor's kin
        assert default_recipe(editor) == Recipe.from_json(RECIPES[family])


def test_the_same_seed_gives_the_same_mask_and_seeds_are_averaged(editor):
    image = Image.effect_noise((48, 64), 80).convert("RGB")
    one, again = (segment(editor, image, EXPRESSION, PLAIN, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.score, again.score)
    np.testing.assert_array_equal(one.mask, again.mask)
    four = segment(editor, image, EXPRESSION, PLAIN, seed=4)
    both = segment(editor, image, EXPRESSION, Recipe(**_choices(PLAIN) | {"seeds": 2}), seed=3)
    np.testing.assert_allclose(both.score, (one.score + four.score) / 2, atol=1e-6)


TOKENS = ("Flux2", "Flux2Klein", "FluxKontext", "LongCatImageEdit", "QwenImageEdit")
CHANGE = Recipe(**_choices(PLAIN) | {"prior_from": "change"})


@pytest.mark.parametrize("family", TOKENS)
def test_the_predicted_change_is_a_prior_wherever_the_reference_has_tokens(family, monkeypatch):
    testing.smaller_images(monkeypatch)
    editor = gp.load_editor(testing.BUILDERS[family](), device="cpu")
    image = Image.effect_noise((160, 96), 80).convert("RGB")
    found = segment(editor, image, EXPRESSION, CHANGE, **testing.ARGUMENTS.get(family, {}))
    assert found.mask.shape == (96, 160) and found.prior.std() > 0


def test_the_predicted_change_is_the_step_s_clean_latents_less_the_reference(editor):
    heard = {}

    def hear(module, args, kwargs, output):
        heard.update(kwargs, velocity=output[0])

    handle = editor.denoiser.register_forward_hook(hear, with_kwargs=True)
    image = Image.effect_noise((64, 96), 80).convert("RGB")
    taken = gp.trace(editor, image, f"remove {EXPRESSION}", attention=False, prediction=True)
    handle.remove()
    noise, reference = heard["hidden_states"][0].chunk(2)
    clean = noise - taken.sigmas[0] * heard["velocity"][0, : len(noise)]
    expected = (clean - reference).abs().mean(-1)
    torch.testing.assert_close(taken.change(0).flatten(), expected)
    assert taken.change(0).shape == taken.geometry.grid


def test_a_prior_from_change_keeps_no_attention_and_runs_every_block(editor):
    image = Image.effect_noise((64, 64), 80)
    seen = look(editor, image, EXPRESSION, CHANGE)
    assert not seen.traces[0].attention and seen.blocks[-1] in seen.traces[0].blocks
    # It still sees to it that the whole expression was read.
    with pytest.raises(PhraseError, match="lost"):
        look(editor, image, "the red circle " * 40, CHANGE)


@pytest.mark.parametrize(
    "choice",
    [
        {"propagation": 2}, {"heads": ((0.5, 0),)}, {"direction": "both"}, {"words": "all"},
        {"prior_depth": (0.0, 0.2)}, {"prior_streams": ("noise",)},
    ],
    ids=str,
)  # fmt: skip
def test_choices_of_attention_say_nothing_of_the_predicted_change(editor, choice):
    assert set(choice) <= OF_ATTENTION <= CHANGE.idle
    _says_nothing(editor, CHANGE, choice)


@pytest.mark.parametrize(
    "choice",
    [
        {"prototypes": 3}, {"focus": 1.0}, {"rounds": 4}, {"prior_power": 2.0},
        {"feature_depth": (0.0, 0.2)}, {"feature_streams": ("noise",)}, {"temperature": 0.9},
        {"affinity": "attention"},
    ],
    ids=str,
)  # fmt: skip
def test_choices_of_features_say_nothing_where_none_are_compared(editor, choice):
    recipe = replace(PLAIN, classifier="none")
    assert set(choice) <= recipe.idle
    _says_nothing(editor, recipe, choice)


def _says_nothing(editor, recipe: Recipe, choice: dict) -> None:
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    plain, other = (
        segment(editor, image, EXPRESSION, each) for each in (recipe, replace(recipe, **choice))
    )
    np.testing.assert_array_equal(plain.prior, other.prior)
    np.testing.assert_array_equal(plain.mask, other.mask)


def test_without_a_classifier_the_mask_is_the_prior_s_and_no_features_are_kept(editor):
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    recipe = replace(PLAIN, classifier="none", prior_streams=("noise",), heads=((0.4, 1),))
    seen = look(editor, image, EXPRESSION, recipe)
    assert {site[2] for site in seen.traces[0].hidden} == {"noise"}
    assert len(seen.traces[0].blocks) == 1
    found = decide(seen, recipe)
    np.testing.assert_array_equal(found.score, found.prior)
    maps = torch.as_tensor(found.prior)[None]
    np.testing.assert_array_equal(found.mask, masks_of(seen, maps, recipe)[0])
    masks = methods.compare(editor, image, EXPRESSION, recipe)
    np.testing.assert_array_equal(masks["full"], masks["attention"])
    compared = replace(recipe, classifier="lda", prior_power=0.0)
    alone = segment(editor, image, EXPRESSION, compared).mask
    np.testing.assert_array_equal(masks["discriminant"], alone)
    assert not np.array_equal(masks["discriminant"], masks["full"])


def test_the_comparison_s_rows_are_each_prior_alone(editor):
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    masks = [methods.compare(editor, image, EXPRESSION, each) for each in (PLAIN, CHANGE)]
    for name in ("attention", "one_step_difference"):
        np.testing.assert_array_equal(masks[0][name], masks[1][name])
    np.testing.assert_array_equal(masks[1]["full"], segment(editor, image, EXPRESSION, CHANGE).mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_unet_predicts_no_change(monkeypatch):
    testing.smaller_images(monkeypatch)
    editor = gp.load_editor(testing.BUILDERS["InstructPix2Pix"](), device="cpu")
    noise_only = {"prior_streams": ["noise"], "feature_streams": ["noise"]}
    recipe = Recipe(**_choices(CHANGE) | noise_only)
    with pytest.raises(InputError, match="flow-matching scheduler"):
        segment(editor, Image.new("RGB", (64, 64)), EXPRESSION, recipe)


def test_the_forward_pass_ends_with_the_last_block_needed(editor):
    ran = []
    transformer = editor.denoiser
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    hooks = [
        block.register_forward_hook(lambda *_, at=at: ran.append(at))
        for at, block in enumerate(blocks)
    ]
    recipe = Recipe(**_choices(PLAIN) | {"prior_depth": (0, 0.25), "feature_depth": (0.25, 0.5)})
    segment(editor, Image.new("RGB", (64, 64)), EXPRESSION, recipe)
    for hook in hooks:
        hook.remove()
    assert ran == [0, 1]


@pytest.mark.parametrize("expression", ["", "  \n"])
def test_an_empty_expression_is_an_error(editor, expression):
    with pytest.raises(InputError, match="at least one word"):
        segment(editor, Image.new("RGB", (64, 64)), expression)


def test_no_image_is_an_error(editor):
    with pytest.raises(InputError, match="give a PIL image"):
        segment(editor, np.zeros((8, 8, 3)), EXPRESSION)


@pytest.mark.parametrize("part", ["prior", "features", "both"])
def test_a_contrast_is_taken_from_what_the_recipe_names(editor, part):
    recipe = Recipe(**_choices(PLAIN) | {"contrast": EXPRESSION, "contrast_in": part})
    image = Image.effect_noise((64, 64), 80)
    found = decide(look(editor, image, EXPRESSION, recipe), recipe)
    # An expression less itself is nothing, and a score without a prior knows no foreground.
    assert (not found.prior.any()) == (part in ("prior", "both"))


def test_stages_that_are_kept_change_nothing(editor):
    image = Image.effect_noise((64, 64), 80)
    everything = {"streams": None, "attention": True, "blocks": "all", "steps": (0, 1)}
    kept = look(editor, image, EXPRESSION, PLAIN, **everything)
    changes = [
        {"focus": 4.0}, {"feature_depth": (0.5, 1.0)}, {"propagation": 2}, {"edges": 2.0},
        {"words": "all"}, {"step": 1}, {"heads": ((0.6, 1), (0.1, 0))}, {"spatial": 1.0},
        {"temperature": 0.3},
    ]  # fmt: skip
    recipe = PLAIN
    for change in (*changes, *changes[::-1]):
        recipe = Recipe(**_choices(recipe) | change)
        fresh = look(editor, image, EXPRESSION, recipe, **everything)
        np.testing.assert_array_equal(decide(kept, recipe).mask, decide(fresh, recipe).mask)


TOGETHER = [{}, {"seeds": 2}, {"contrast": "the object"}, {"prior_from": "change"}]


@pytest.mark.parametrize("choices", TOGETHER, ids=str)
def test_expressions_together_give_what_they_give_one_by_one(editor, choices):
    image = Image.effect_noise((64, 80), 80).convert("RGB")
    words = ["the red circle", "the red circle to the left", "a big green square", "dog"]
    recipe, seeds = Recipe(**_choices(PLAIN) | choices), [3, 3, 4, 5]
    encoded, called = [], []
    vae, denoiser = editor.pipeline.vae, editor.denoiser
    hooks = [
        vae.encoder.register_forward_hook(lambda *_: encoded.append(1)),
        denoiser.register_forward_pre_hook(lambda *_: called.append(1)),
    ]
    together = segment_each(editor, image, words, recipe, seeds)
    for hook in hooks:
        hook.remove()
    assert len(encoded) == 1
    for one, expression, seed in zip(together, words, seeds, strict=True):
        alone = segment(editor, image, expression, recipe, seed)
        np.testing.assert_allclose(one.prior, alone.prior, atol=1e-5)
        np.testing.assert_allclose(one.score, alone.score, atol=1e-5)
        assert one.expression == expression


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("family", ["Flux2Klein", "InstructPix2Pix"])
def test_expressions_share_the_image_s_encoding_where_prompts_go_one_by_one(family, monkeypatch):
    testing.smaller_images(monkeypatch)
    editor = gp.load_editor(testing.BUILDERS[family](), device="cpu")
    encoded = []
    editor.pipeline.vae.encoder.register_forward_hook(lambda *_: encoded.append(1))
    image = Image.effect_noise((160, 96), 80).convert("RGB")
    more = testing.ARGUMENTS.get(family, {})
    together = segment_each(editor, image, ["the red circle", "dog"], **more)
    assert len(encoded) == 1
    alone = segment(editor, image, "dog", **more)
    np.testing.assert_allclose(together[1].score, alone.score, atol=1e-5)


def test_a_head_that_is_not_there_is_an_error(editor):
    with pytest.raises(InputError, match=r"head 7 of .* which has 2"):
        segment(editor, Image.new("RGB", (64, 64)), EXPRESSION, Recipe(heads=((0.5, 7),)))


def test_attention_between_image_tokens_can_carry_the_prior(editor):
    recipe = Recipe(**_choices(PLAIN) | {"propagation": 1, "affinity": "attention"})
    image = Image.effect_noise((64, 64), 80)
    with_it, without = (segment(editor, image, EXPRESSION, each) for each in (recipe, PLAIN))
    assert with_it.prior.std() > 0 and not np.allclose(with_it.prior, without.prior)


def test_magnets_come_after_the_instruction_and_are_not_looked_at(editor):
    recipe = Recipe(**_choices(PLAIN) | {"magnets": "of the and"})
    seen = look(editor, Image.new("RGB", (64, 64)), EXPRESSION, recipe)
    assert seen.traces[0].phrase_tokens == ("the", "red", "circle")
    assert (
        len(seen.traces[0].padding)
        == len(look(editor, Image.new("RGB", (64, 64)), EXPRESSION, PLAIN).traces[0].padding) - 3
    )


def test_the_contrast_of_an_expression_with_itself_says_nothing(editor):
    recipe = Recipe(**_choices(PLAIN) | {"contrast": EXPRESSION})
    seen = look(editor, Image.effect_noise((64, 64), 80), EXPRESSION, recipe)
    assert not decide(seen, recipe).mask.any()


def test_every_method_of_the_comparison_gives_a_mask_from_one_forward(editor):
    calls = []
    handle = editor.denoiser.register_forward_hook(lambda *_: calls.append(1))
    image = Image.effect_noise((48, 80), 80).convert("RGB")
    masks = methods.compare(editor, image, EXPRESSION, PLAIN)
    handle.remove()
    assert len(calls) == 1
    assert tuple(masks) == methods.METHODS
    assert all(mask.shape == (80, 48) and mask.dtype == bool for mask in masks.values())
    np.testing.assert_array_equal(masks["full"], segment(editor, image, EXPRESSION, PLAIN).mask)


def test_the_edit_difference_is_where_the_edit_differs(editor):
    mask = methods.edit_difference(editor, Image.new("RGB", (48, 80)), EXPRESSION, PLAIN, steps=2)
    assert mask.shape == (80, 48) and mask.any()


def test_the_largest_region_is_found_without_words():
    image = np.full((60, 60, 3), 90, np.uint8)
    image[5:15, 5:15] = (200, 30, 30)
    image[30:50, 20:50] = (30, 30, 200)
    gold = np.zeros((60, 60), bool)
    gold[30:50, 20:50] = True
    assert (methods.largest_region(Image.fromarray(image)) == gold).all()


def test_random_weights_are_drawn_by_seed_and_leave_the_editor_alone(editor):
    before = [weight.clone() for weight in editor.denoiser.parameters()]
    one, again, other = (random_weights(editor, seed) for seed in (1, 1, 2))
    for w, x, y, z in zip(
        *(e.denoiser.parameters() for e in (editor, one, again, other)), strict=True
    ):
        assert torch.equal(x, y)
        assert w.ndim < 2 or not (torch.equal(w, x) or torch.equal(x, z))
    assert all(map(torch.equal, before, editor.denoiser.parameters()))
    assert one.revision != other.revision and one.pipeline.vae is editor.pipeline.vae
    segment(one, Image.new("RGB", (64, 64)), EXPRESSION)
