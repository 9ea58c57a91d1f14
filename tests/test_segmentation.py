"""The segmenter on planted evidence, whose answer is known, and on tiny random editors."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
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
from ground_probe.capture.sites import Captured, blocks_of
from ground_probe.editors import random_weights
from ground_probe.errors import InputError, UnknownWordsWarning
from ground_probe.geometry import Geometry
from ground_probe.segmentation import methods, recipe_for
from ground_probe.segmentation.depth import in_depth
from ground_probe.segmentation.features import classify
from ground_probe.segmentation.forward import forward
from ground_probe.segmentation.prior import spatial_prior, token_weights, unit
from ground_probe.segmentation.recipe import Recipe
from ground_probe.segmentation.segment import segment, segment_trace
from ground_probe.testing import kontext

PHOTOS = Path(__file__).parents[2] / "shared/data/refer-sample/images"
EXPRESSION = "the red circle"
FAMILIES = (
    "Flux2", "Flux2Klein", "FluxKontext", "InstructPix2Pix", "InstructPix2PixXL",
    "LongCatImageEdit", "QwenImageEdit", "QwenImageEditPlus",
)  # fmt: skip
PLAIN = Recipe(
    words="content", normalize=True, propagation=0, prior_streams=("noise", "reference"),
    seeds="soft", states="block", standardize=True, feature_depth=(0.0, 1.0),
    feature_streams=("noise", "reference"), cut="half",
)  # fmt: skip
VARIANTS = [
    {},
    {"product": True},
    {"seeds": "hard"},
    {"seeds": "hard", "cut": "zero", "standardize": False},
    {"cut": "zero", "standardize": False},
    {"states": "attention"},
    {"propagation": 2},
    {"heads": ((0.5, 0),)},
    {"classifier": "lda"},
    {"classifier": "lda", "cut": "zero"},
    {"classifier": "none"},
    {"words": "all", "normalize": False},
    {"edges": 1.0},
]


@pytest.fixture(scope="module")
def editor():
    return gp.load_editor(kontext(), device="cpu")


def planted(inside: np.ndarray, geometry: Geometry, seed: int = 0) -> Trace:
    """Noisy attention and features in which the tokens `inside` differ from the rest."""
    generator = torch.Generator().manual_seed(seed)
    tokens, dim = inside.size, 16
    member = torch.as_tensor(inside.flatten(), dtype=torch.float32)
    centers = torch.randn(2, dim, generator=generator)
    hidden, outputs, maps, carried = Captured(), Captured(), Captured(), Captured()
    for stream in ("noise", "reference"):
        noise = 0.4 * torch.randn(tokens, dim, generator=generator)
        hidden["block", 0, stream] = centers[member.long()] + noise
        outputs["block", 0, stream] = centers[member.long()].flip(-1) + noise
    weight = 0.02 + 0.1 * member.repeat(2) + 0.02 * torch.rand(2 * tokens, generator=generator)
    maps["block", 0] = weight[None, :, None].expand(1, -1, 3)
    for stream, part in zip(("noise", "reference"), weight.chunk(2), strict=True):
        carried["block", 0, stream] = part[None, :, None].expand(1, -1, 3)
    return Trace(
        hidden=hidden,
        attention=maps,
        attention_output=outputs,
        propagated=carried,
        blocks=("block",),
        steps=(0,),
        phrase_tokens=("the", "red", "circle"),
        phrase_keys=(1, 2, 3),
        layout=Layout({"noise": (inside.shape,), "reference": (inside.shape,)}, 8, True),
        geometry=geometry,
    )


def decide(trace: Trace, recipe: Recipe, expression: str = EXPRESSION) -> gp.Segmentation:
    height, width = trace.geometry.image_size_px
    image = Image.new("RGB", (width, height), "gray")
    return segment_trace(trace, trace.blocks, image, expression, recipe)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("mode", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size_px", [(90, 160), (200, 120)])
def test_a_planted_object_comes_back_within_a_token(variant, mode, size_px):
    grid = (12, 16)
    inside = np.zeros(grid, bool)
    inside[5:8, 7:11] = True
    geometry = Geometry(size_px, grid, mode)
    mask = decide(planted(inside, geometry), replace(PLAIN, **variant)).mask
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


def _corner(geometry: Geometry, at: tuple[int, int]) -> tuple[float, float]:
    return geometry.pixel_of(*at)


@pytest.mark.parametrize("shape", [(2, 2), (12, 15)])
def test_an_object_of_four_tokens_and_one_that_nearly_fills_the_image(shape):
    inside = np.zeros((12, 16), bool)
    inside[: shape[0], : shape[1]] = True
    geometry = Geometry((96, 128), inside.shape)
    mask = decide(planted(inside, geometry), replace(PLAIN, seeds="hard")).mask
    gold = np.kron(inside, np.ones((8, 8), bool))
    assert gp.metrics.iou(*gp.metrics.counts(mask, gold)) > (0.4 if inside.sum() == 4 else 0.9)


def test_an_object_smaller_than_a_token_gives_a_region_of_about_a_token():
    inside = np.zeros((12, 16), bool)
    inside[4, 9] = True
    trace = planted(inside, Geometry((96, 128), inside.shape))
    maps = trace.attention["block", 0]  # a tenth of the token is the object
    trace.attention["block", 0] = 0.9 * maps.min() + 0.1 * maps
    mask = decide(trace, PLAIN).mask
    assert mask[36, 76] and 16 <= mask.sum() <= 9 * 64


def test_an_object_that_covers_the_image_gives_what_fits_best_and_equal_evidence_gives_nothing():
    inside = np.ones((12, 16), bool)
    trace = planted(inside, Geometry((96, 128), inside.shape))
    assert 0 < decide(trace, PLAIN).mask.sum() < 96 * 128


def test_an_expression_for_nothing_in_the_image_gives_a_mask_all_the_same(editor):
    image = Image.new("RGB", (48, 64), "gray")
    with pytest.warns(UnknownWordsWarning, match="does not know 'purple', 'elephant'"):
        mask = segment(editor, image, "the purple elephant", PLAIN).mask
    assert mask.shape == (64, 48) and mask.dtype == bool


def test_two_objects_of_one_expression_are_both_found():
    inside = np.zeros((12, 16), bool)
    inside[2:5, 2:5] = inside[7:10, 10:13] = True
    trace = planted(inside, Geometry((96, 128), inside.shape))
    mask = decide(trace, PLAIN).mask
    assert mask[28, 28] and mask[68, 92] and not mask[28, 92]


@pytest.mark.parametrize(
    "variant", [{}, {"cut": "zero"}, {"seeds": "hard", "cut": "zero"}], ids=str
)
def test_where_no_token_differs_the_mask_is_empty(variant):
    trace = planted(np.zeros((4, 4), bool), Geometry((32, 32), (4, 4)))
    for captured in (trace.hidden, trace.attention):
        for site in captured:
            captured[site] = torch.ones_like(captured[site])
    assert not decide(trace, replace(PLAIN, **variant)).mask.any()


def test_the_prior_by_hand():
    """Two words over three tokens: each map over its mean, then to [0, 1]."""
    trace = planted(np.zeros((1, 3), bool), Geometry((8, 24), (1, 3)))
    noise = [[0.9, 0.1, 0.1], [0.9, 0.2, 0.2], [0.9, 0.3, 0.3]]  # "the" is a stop word
    reference = [[0.9, 0.2, 0.0], [0.9, 0.2, 0.4], [0.9, 0.2, 0.0]]
    trace.attention["block", 0] = torch.tensor([noise + reference])
    # noise 1, 2, 3 over 2; reference 1, 3, 1 over 5/3; their mean 0.55, 1.4, 1.05
    prior = spatial_prior(trace, ("block",), PLAIN)
    torch.testing.assert_close(prior, torch.tensor([[0.0, 1.0, 0.5 / 0.85]]))
    # Raw probabilities of all words: noise 1.1, 1.3, 1.5 over 3, reference 1.1, 1.5, 1.1 over 3.
    raw = spatial_prior(trace, ("block",), replace(PLAIN, words="all", normalize=False))
    torch.testing.assert_close(raw, torch.tensor([[0.0, 1.0, 2 / 3]]))


@pytest.mark.parametrize("mark", ["▁{}", "Ġ{}", "{}</w>", "{}"])
def test_stop_words_and_punctuation_lose_their_weight_in_every_spelling(mark):
    tokens = [mark.format(word) for word in ("The", "red", "circle", ",", "that", "is", "big")]
    weights = token_weights(tokens, stop_words=False)
    np.testing.assert_allclose(weights, np.array([0, 1, 1, 0, 0, 0, 1]) / 3)
    np.testing.assert_allclose(token_weights(tokens, stop_words=True), np.full(7, 1 / 7))


def test_an_expression_of_stop_words_keeps_them():
    np.testing.assert_allclose(token_weights(["▁that", "▁one"], stop_words=False), [0.5, 0.5])


def test_hard_seeds_and_the_larger_product_by_hand():
    """Seeds above one half; means of unit features; the difference of two dot products."""
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
    prior = torch.tensor([[0.9, 0.6], [0.5, 0.1]])
    recipe = Recipe(seeds="hard", classifier="cosine")
    # object (0.8, 0.4), background (-0.5, 0.5); their difference (1.3, -0.1)
    expected = torch.tensor([[1.3, 0.7], [-0.1, -1.3]])
    torch.testing.assert_close(classify(features, prior, recipe), expected)


def test_the_discriminant_looks_away_from_what_varies_within_both_sides():
    """The first channel is the side plus a nuisance that the second channel shows alone."""
    generator = torch.Generator().manual_seed(0)
    member = torch.arange(400) < 120
    nuisance = torch.randn(400, generator=generator)
    features = torch.stack([member + nuisance, nuisance], -1)
    features = (features - features.mean(0)) / features.std(0)

    def separation(classifier: str) -> float:
        recipe = replace(PLAIN, classifier=classifier)
        score = classify(features, member.float()[None], recipe)[0]
        return float((score[member].mean() - score[~member].mean()) / score.std())

    assert separation("lda") > 1.5 * separation("cosine")


@given(st.integers(0, 2**16), st.integers(2, 40))
def test_the_discriminant_from_cosines_alone_is_fisher_s_with_a_shrunk_covariance(seed, channels):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(30, channels, generator=generator)
    prior = torch.rand(1, 30, generator=generator)
    weights = (prior[0].double(), 1 - prior[0].double())
    wide = features.double()
    means = [w @ wide / w.sum() for w in weights]
    pooled = sum(
        ((wide - m) * w[:, None]).T @ (wide - m) for w, m in zip(weights, means, strict=True)
    ) / len(wide)
    shrunk = 0.8 * pooled + 0.2 * pooled.diagonal().mean() * torch.eye(channels)
    along = torch.linalg.solve(shrunk, means[0] - means[1])
    expected = wide @ along - (means[0] + means[1]) @ along / 2
    score = classify(features, prior, replace(PLAIN, classifier="lda"))[0].double()
    torch.testing.assert_close(unit(score), unit(expected), atol=2e-3, rtol=0)
    assert ((score > 0) == (expected > 0)).float().mean() > 0.9


def test_unit_of_a_constant_is_zero():
    assert unit(torch.full((2, 2), 3.0)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("size", [(64, 64), (201, 83), (37, 150), (5, 300)])
def test_masks_have_the_image_s_own_size(editor, size):
    image = Image.effect_noise(size, 80).convert("RGB")
    result = segment(editor, image, EXPRESSION)
    assert result.mask.shape == size[::-1] and result.mask.dtype == bool
    assert result.prior.shape == result.score.shape == (8, 8)
    assert 0 <= result.prior.min() <= result.prior.max() <= 1 and np.isfinite(result.score).all()


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
@pytest.mark.parametrize("size", [(160, 96), (64, 160)], ids=str)
@pytest.mark.parametrize("name", ["paper", "default", "change"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_segments_by_name(family, name, size, monkeypatch):
    testing.smaller_images(monkeypatch)
    editor = gp.load_editor(testing.BUILDERS[family](), device="cpu")
    image = Image.effect_noise(size, 80).convert("RGB")
    more = testing.ARGUMENTS.get(family, {})
    if name == "change" and family.startswith("InstructPix2Pix"):
        with pytest.raises(InputError, match="needs a flow-matching scheduler, not Euler"):
            segment(editor, image, EXPRESSION, name, pipeline_kwargs=more)
        return
    result = segment(editor, image, EXPRESSION, name, pipeline_kwargs=more)
    assert result.mask.shape == size[::-1] and np.isfinite(result.score).all()


def test_the_same_seed_gives_the_same_mask(editor):
    image = Image.effect_noise((48, 64), 80).convert("RGB")
    one, again = (segment(editor, image, EXPRESSION, PLAIN, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.score, again.score)
    np.testing.assert_array_equal(one.mask, again.mask)
    assert not np.array_equal(one.score, segment(editor, image, EXPRESSION, PLAIN, seed=4).score)


def test_several_recipes_share_a_forward_pass_and_give_what_each_gives_alone(editor):
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    recipes = [replace(PLAIN, **variant) for variant in VARIANTS if "propagation" not in variant]
    recipes += [replace(PLAIN, propagation=1)]
    calls = []
    handle = editor.denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    trace = forward(editor, image, EXPRESSION, recipes)
    handle.remove()
    assert len(calls) == 1
    blocks = tuple(blocks_of(editor.denoiser))
    for recipe in recipes:
        together = segment_trace(trace, blocks, image, EXPRESSION, recipe)
        alone = segment(editor, image, EXPRESSION, recipe)
        np.testing.assert_allclose(together.score, alone.score, atol=1e-5)
    with pytest.raises(InputError, match="one instruction"):
        forward(editor, image, EXPRESSION, [PLAIN, replace(PLAIN, template="remove {expression}")])


def test_states_are_kept_of_the_blocks_that_are_compared_and_of_no_other(editor):
    """A large editor's states of all blocks, for its prior alone, were several GiB."""
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    blocks = tuple(blocks_of(editor.denoiser))
    every = replace(PLAIN, prior_depth=(0.0, 1.0), feature_depth=(0.5, 0.8))
    for states, recipes in {
        in_depth(blocks, (0.5, 0.8)): [every],
        (): [replace(every, classifier="none", cut="half")],
    }.items():
        trace = forward(editor, image, EXPRESSION, recipes)
        assert {key[0] for key in trace.hidden} == set(states) < set(blocks)
        assert {key[0] for key in trace.attention} == set(blocks)


def test_the_predicted_change_is_the_step_s_clean_latents_less_the_reference(editor):
    given = {}

    def keep(module, args, kwargs, output):
        given.update(kwargs, velocity=output[0])

    handle = editor.denoiser.register_forward_hook(keep, with_kwargs=True)
    image = Image.effect_noise((64, 96), 80).convert("RGB")
    trace = gp.trace(editor, image, f"remove {EXPRESSION}", attention=False, prediction=True)
    handle.remove()
    noise, reference = given["hidden_states"][0].chunk(2)
    clean = noise - trace.sigmas[0] * given["velocity"][0, : len(noise)]
    expected = (clean - reference).abs().mean(-1)
    torch.testing.assert_close(trace.change(0).flatten(), expected)
    assert trace.change(0).shape == trace.geometry.grid


def test_without_a_classifier_the_mask_is_the_prior_s_and_only_its_block_runs(editor):
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    recipe = replace(PLAIN, classifier="none", prior_streams=("noise",), heads=((0.4, 1),))
    trace = forward(editor, image, EXPRESSION, [recipe])
    assert len(trace.blocks) == 1 and not trace.attention_output
    result = segment(editor, image, EXPRESSION, recipe)
    np.testing.assert_array_equal(result.score, result.prior)
    np.testing.assert_array_equal(result.mask, gp.to_mask(result.prior, image))
    masks = methods.compare(editor, image, EXPRESSION, recipe)
    np.testing.assert_array_equal(masks["full"], masks["attention"])
    alone = segment(editor, image, EXPRESSION, replace(recipe, classifier="lda")).mask
    np.testing.assert_array_equal(masks["discriminant"], alone)
    assert not np.array_equal(masks["discriminant"], masks["full"])


def test_a_prior_of_the_predicted_change_reads_no_attention(editor):
    image = Image.effect_noise((64, 96), 80).convert("RGB")
    recipe = replace(PLAIN, prior="change", classifier="none", propagation=1)
    trace = forward(editor, image, EXPRESSION, [recipe])
    assert not trace.attention and not trace.propagated and not trace.hidden
    result = segment(editor, image, EXPRESSION, recipe)
    np.testing.assert_array_equal(result.prior, unit(trace.change(0)).numpy())
    masks = methods.compare(editor, image, EXPRESSION, recipe)
    np.testing.assert_array_equal(masks["full"], masks["one_step_difference"])
    compared = replace(recipe, classifier="lda")
    both = forward(editor, image, EXPRESSION, [compared, PLAIN])
    assert both.attention and both.hidden
    alone = segment(editor, image, EXPRESSION, compared)
    shared = segment_trace(both, tuple(blocks_of(editor.denoiser)), image, EXPRESSION, compared)
    np.testing.assert_array_equal(alone.score, shared.score)
    assert not np.array_equal(alone.score, segment(editor, image, EXPRESSION, PLAIN).score)


def test_the_forward_pass_ends_with_the_last_block_needed(editor):
    ran = []
    transformer = editor.denoiser
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    hooks = [
        block.register_forward_hook(lambda *_, at=at: ran.append(at))
        for at, block in enumerate(blocks)
    ]
    recipe = replace(PLAIN, prior_depth=(0, 0.25), feature_depth=(0.25, 0.5))
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


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_what_the_editor_does_not_have_is_an_error_that_says_what_exists(editor):
    image = Image.new("RGB", (64, 64))
    with pytest.raises(InputError, match=r"head 7 of .* which has 2"):
        segment(editor, image, EXPRESSION, replace(PLAIN, heads=((0.5, 7),)))
    unet = gp.load_editor(testing.instruct_pix2pix(), device="cpu")
    with pytest.raises(
        InputError, match=r"'reference', which InstructPix2Pix does not have: .*noise"
    ):
        recipe_for(unet, PLAIN)
    noise = replace(PLAIN, prior="change", prior_streams=("noise",), feature_streams=("noise",))
    with pytest.raises(InputError, match="prediction needs a flow-matching scheduler, not Euler"):
        segment(unet, image, EXPRESSION, noise)


def test_attention_between_image_tokens_carries_the_prior(editor):
    image = Image.effect_noise((64, 64), 80)
    carried = replace(PLAIN, propagation=1)
    with_it, without = (segment(editor, image, EXPRESSION, each) for each in (carried, PLAIN))
    assert with_it.prior.std() > 0 and not np.allclose(with_it.prior, without.prior)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_levels_of_a_unet_are_weighed_from_the_finest(monkeypatch):
    testing.smaller_images(monkeypatch)
    editor = gp.load_editor(testing.instruct_pix2pix(), device="cpu")
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    noise = {"prior_streams": ("noise",), "feature_streams": ("noise",), "classifier": "none"}
    recipes = [
        replace(PLAIN, **noise, level_weights=weights)
        for weights in ((), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0))
    ]
    equal, ones, finest, coarser = (segment(editor, image, EXPRESSION, r).prior for r in recipes)
    np.testing.assert_array_equal(equal, ones)
    assert not np.allclose(finest, coarser)


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


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_compared_by_what_it_gives(family, monkeypatch):
    testing.smaller_images(monkeypatch)
    editor = gp.load_editor(testing.BUILDERS[family](), device="cpu")
    image = Image.effect_noise((96, 96), 80).convert("RGB")
    lacking = {"one_step_difference", "concepts"} if "Pix2Pix" in family else set()
    assert set(methods.methods_of(editor)) == {*methods.METHODS} - lacking
    monkeypatch.setattr(
        methods, "trace", partial(gp.trace, pipeline_kwargs=testing.ARGUMENTS.get(family))
    )
    assert tuple(methods.compare(editor, image, EXPRESSION)) == methods.methods_of(editor)


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
