"""Representation analyses, held against oracles and against what the pipeline itself does."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

import ground_probe as gp
from ground_probe import testing
from ground_probe.capture.sites import attentions_of, blocks_of
from ground_probe.errors import InputError, UnknownNameError, UnsupportedEditorError
from ground_probe.inside import INPUT
from ground_probe.testing.check import Witness, softmax

# The Euler schedulers of diffusers 0.42.1 under NumPy 2.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning"),
]
RNG = np.random.default_rng(0)
OTHER = "make the green square blue"
TRANSFORMERS = [
    name
    for name in testing.BUILDERS
    if name not in ("InstructPix2Pix", "InstructPix2PixXL", "DreamLite")
]


@pytest.fixture(scope="module", autouse=True)
def smaller_images():
    with pytest.MonkeyPatch.context() as monkeypatch:
        testing.smaller_images(monkeypatch)
        yield


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8))


@pytest.fixture(scope="module", params=TRANSFORMERS)
def editor(request):
    return gp.load_editor(testing.BUILDERS[request.param]())


@pytest.fixture(scope="module")
def kontext():
    return gp.load_editor(testing.kontext())


def told(editor, words=testing.INSTRUCTION):
    """An instruction in the family's form, and what its pipeline must be told."""
    name = editor.family.name
    form = testing.INSTRUCTIONS.get(name, testing.INSTRUCTION)
    return form.replace(testing.INSTRUCTION, words), testing.ARGUMENTS.get(name, {})


# Similarity


def centered(states):
    n = len(states)
    h = np.eye(n) - np.ones((n, n)) / n
    return h @ states @ states.T @ h


def test_plain_cka_is_that_of_centered_gram_matrices():
    x, y = RNG.normal(size=(2, 30, 12))
    y[:, :6] += x[:, :6]
    k, l = centered(x), centered(y)  # noqa: E741
    oracle = (k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum())
    assert gp.linear_cka(x, y, unbiased=False) == pytest.approx(oracle, abs=1e-12)


def test_unbiased_hsic_is_a_mean_over_all_quadruples():
    """Song et al. 2012, definition: K_ij (L_ij + L_kl - 2 L_ik), i, j, k, l all different."""
    from itertools import permutations

    from ground_probe.inside.similarity import _unbiased_hsic

    x, y = RNG.normal(size=(2, 6, 3))
    k, l = x @ x.T, y @ y.T  # noqa: E741
    oracle = np.mean(
        [k[i, j] * (l[i, j] + l[a, b] - 2 * l[i, a]) for i, j, a, b in permutations(range(6), 4)]
    )
    x, y = x - x.mean(0), y - y.mean(0)
    assert _unbiased_hsic(x, y) == pytest.approx(oracle, abs=1e-12)


@pytest.mark.parametrize("unbiased", [True, False])
def test_cka_knows_no_rotation_scale_or_shift(unbiased):
    x = RNG.normal(size=(40, 7))
    rotation = np.linalg.qr(RNG.normal(size=(7, 7)))[0]
    assert gp.linear_cka(x, x @ rotation * 3 + 5, unbiased) == pytest.approx(1, abs=1e-9)
    stretched = x @ np.diag([9, 1, 1, 1, 1, 1, 1])
    assert gp.linear_cka(x, stretched, unbiased) < 0.9


def test_rsa_is_the_rank_correlation_of_distances():
    x, y = RNG.normal(size=(2, 12, 5))
    upper = np.triu_indices(12, 1)
    far = [np.linalg.norm(s[:, None] - s[None], axis=-1)[upper] for s in (x, y)]
    ranks = [values.argsort().argsort() for values in far]
    assert gp.rsa(x, y, "euclidean") == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)


def test_states_that_cannot_be_compared_are_refused():
    with pytest.raises(InputError, match="same four or more tokens"):
        gp.linear_cka(np.ones((5, 2)), np.ones((6, 2)))
    with pytest.raises(InputError, match="same at every token"):
        gp.linear_cka(np.ones((5, 2)), RNG.normal(size=(5, 2)))


def test_a_table_has_every_site_of_two_editors(kontext, image):
    other = gp.load_editor(testing.kontext(seed=1))
    images = [image, image.rotate(180)]
    options = {"attention": False, "num_steps": 2}
    ours, theirs = (
        [gp.trace(each, one, testing.INSTRUCTION, **options) for one in images]
        for each in (kontext, other)
    )
    table = gp.similarity_table(ours)
    assert np.diag(table) == pytest.approx(1) and table.shape == (8, 8)
    assert table.to_numpy() == pytest.approx(table.to_numpy().T)
    site = table.index[3]
    stacked = [torch.cat([t.hidden[site] for t in traces]) for traces in (ours, theirs)]
    across = gp.similarity_table(ours, theirs)
    assert across.loc[site, site] == pytest.approx(gp.linear_cka(*stacked))
    assert across.loc[site, site] < 0.99
    with pytest.raises(InputError, match="2 and 1 traces"):
        gp.similarity_table(ours, theirs[:1])


# Lens


def test_the_lens_at_the_last_block_is_the_pipelines_own_prediction(editor, image, step=1):
    instruction, more = told(editor)
    lens = gp.logit_lens(
        editor, image, instruction, step=step, num_steps=3, pipeline_kwargs=more, seed=3
    )
    last = list(blocks_of(editor.denoiser))[-1]
    own = lens.trace.prediction[step]
    assert torch.allclose(lens.predictions[last], own, atol=1e-5)
    assert list(lens.predictions) == list(blocks_of(editor.denoiser))
    assert min(value for name, value in lens.distance().items() if name != last) > 1e-4
    plain = editor.arguments(image, instruction, 3) | editor.family.unguided | more
    ended = []
    with torch.no_grad(), torch.random.fork_rng():  # a hook's run against a plain one
        torch.manual_seed(3)
        step_of = editor.pipeline.scheduler.step
        editor.pipeline.scheduler.step = lambda output, t, sample, *a, **k: (
            ended.append((output.clone(), sample.clone())) or step_of(output, t, sample, *a, **k)
        )
        editor.pipeline(**plain, num_inference_steps=3)
        del editor.pipeline.scheduler.step
    output, sample = ended[step]
    expected = sample - lens.trace.sigmas[step] * output
    assert torch.allclose(lens.predictions[last], expected, atol=1e-5)


def test_a_block_is_read_out_by_the_final_layers(kontext, image):
    lens = gp.logit_lens(kontext, image, testing.INSTRUCTION, num_steps=2)
    given = []
    handle = kontext.denoiser.norm_out.register_forward_pre_hook(
        lambda module, args: given.append(args)
    )
    sample = []
    gp.trace(kontext, image, testing.INSTRUCTION, num_steps=2, prediction=True, attention=False)
    handle.remove()
    temb = given[0][1]
    sigma = lens.trace.sigmas[0]
    last = lens.trace.blocks[-1]
    for block in lens.trace.blocks:
        states = lens.trace.hidden[block, 0, "noise"][None]
        with torch.no_grad():
            output = kontext.denoiser.proj_out(kontext.denoiser.norm_out(states, temb))
        sample.append(lens.predictions[block] + sigma * output)
    for each in sample:  # x = prediction + sigma * output is the same noise for every block
        assert torch.allclose(each, sample[-1], atol=1e-5)
    assert not torch.allclose(lens.predictions[lens.trace.blocks[0]], lens.predictions[last])


def test_the_last_blocks_image_is_what_one_step_makes(kontext, image):
    lens = gp.logit_lens(kontext, image, testing.INSTRUCTION, num_steps=1, seed=5)
    edited = kontext.edit(image, testing.INSTRUCTION, seed=5, steps=1)
    shown = lens.image(lens.trace.blocks[-1])
    assert np.abs(np.asarray(shown, int) - np.asarray(edited, int)).max() <= 1
    assert lens.change(lens.trace.blocks[-1]).shape == lens.trace.layout.grids["noise"][0]
    decoded = gp.decode(kontext, image, "make it red", lens.trace.prediction[0])
    assert np.array_equal(decoded, shown)


def test_nothing_is_left_behind(kontext, image):
    before = kontext.edit(image, testing.INSTRUCTION, steps=2)
    gp.logit_lens(kontext, image, testing.INSTRUCTION, num_steps=2).image("transformer_blocks.0")
    gp.attention_rollout(kontext, image, testing.INSTRUCTION, num_steps=2)
    assert np.array_equal(before, kontext.edit(image, testing.INSTRUCTION, steps=2))
    modules = [kontext.denoiser, *blocks_of(kontext.denoiser).values()]
    assert not [m for m in modules if "forward" in vars(m) or m._forward_hooks]


@pytest.mark.parametrize("build", [testing.instruct_pix2pix, testing.dreamlite])
def test_a_unet_has_no_lens(build, image):
    editor = gp.load_editor(build())
    with pytest.raises(UnsupportedEditorError, match="is a UNet"):
        gp.logit_lens(editor, image, testing.INSTRUCTION)
    with pytest.raises(UnsupportedEditorError, match="cross-attention"):
        gp.attention_rollout(editor, image, testing.INSTRUCTION)


# Patching


def test_patching_everything_gives_the_others_edit(editor, image):
    instruction, more = told(editor)
    other, _ = told(editor, OTHER)
    last, noise = list(blocks_of(editor.denoiser))[-1], "noise"
    more = more | editor.family.unguided
    run = {"num_steps": 2, "pipeline_kwargs": more, "seed": 1, "blocks": last, "streams": noise}
    parameters = inspect.signature(type(editor.denoiser).forward).parameters
    ways = {"text": "encoder_hidden_states", "pooled": "pooled_projections"}
    entering = [(INPUT, 0, stream) for stream, name in ways.items() if name in parameters]
    if "text_encoder_layers" in parameters:  # every block is given the words: no one entrance
        with pytest.raises(InputError, match="unknown block 'input'"):
            gp.activation_patching(editor, image, instruction, other, together=[entering], **run)
        entering = []
    together = [[*entering, (last, 0, noise)], []]
    table = gp.activation_patching(editor, image, instruction, other, together=together, **run)
    everything, nothing = table[table.block == "together"].itertuples()
    assert everything.left < 1e-5 and everything.effect == pytest.approx(1, abs=1e-5)
    assert (nothing.effect, nothing.left) == (0, 1)
    assert (table[table.block == last].effect > 0.3).all()


def test_a_run_patched_with_its_own_states_is_as_it_was(kontext, image):
    table = gp.activation_patching(kontext, image, testing.INSTRUCTION, OTHER, num_steps=3)
    text_of_last = table[(table.block == "single_transformer_blocks.1") & (table.stream == "text")]
    assert text_of_last.effect.item() == 0 and text_of_last.left.item() == 1  # nobody reads it
    assert list(table.stream[:2]) == ["text", "pooled"] and len(table) == 2 + 4 * 3
    with pytest.raises(InputError, match="predict the same"):
        gp.activation_patching(kontext, image, testing.INSTRUCTION, testing.INSTRUCTION)


def test_an_earlier_steps_patch_acts_on_a_later_prediction(kontext, image):
    table = gp.activation_patching(
        kontext, image, testing.INSTRUCTION, OTHER, steps=(0, 1), num_steps=3,
        streams="noise", blocks="single_transformer_blocks.1",
        together=[[("single_transformer_blocks.1", step, "noise") for step in (0, 1)]],
    )  # fmt: skip
    by_step = table[table.block == "single_transformer_blocks.1"].set_index("step").effect
    both = table[table.block == "together"].effect.item()
    assert 0 < by_step[0] < by_step[1] and both > by_step[1]


def test_text_without_a_counterpart_is_refused(image):
    editor = gp.load_editor(testing.qwen_edit())
    longer = "make the red circle blue and big"
    with pytest.raises(InputError, match=r"tokens in one run and \d+ in the other"):
        gp.activation_patching(editor, image, testing.INSTRUCTION, longer, num_steps=2)
    table = gp.activation_patching(
        editor, image, testing.INSTRUCTION, longer, num_steps=2, streams=("noise", "reference")
    )
    assert set(table.stream) == {"noise", "reference"}


# Steering


def test_a_direction_is_where_a_probe_points():
    x = RNG.normal(size=(200, 4)) * [1, 5, 1, 1] + [3, 0, 0, 0]
    y = x[:, 0] > 3
    means = gp.probe_direction(torch.from_numpy(x), y)
    assert means.spread == pytest.approx((x @ means.unit.numpy()).std(), rel=1e-5)
    linear = gp.probe_direction(x, y, LogisticRegression())
    assert abs(float(linear.unit[0])) > 0.99  # the wide second direction does not lure it
    assert float(torch.linalg.norm(linear.unit)) == pytest.approx(1)
    with pytest.raises(InputError, match="both classes"):
        gp.probe_direction(x, np.ones(200))
    with pytest.raises(InputError, match="no `coef_`"):
        gp.probe_direction(x, y, KNeighborsClassifier())
    with pytest.raises(UnknownNameError, match="means, linear"):
        gp.probe_direction(x, y, "lienar")


@pytest.fixture
def steer():
    unit = torch.nn.functional.normalize(torch.randn(32, generator=torch.manual_seed(0)), dim=0)
    return gp.Steer(gp.Direction(unit, 0.5, 2.0), "single_*", "noise")


def test_dose_nothing_changes_nothing(kontext, image, steer):
    run = {"num_steps": 2, "seed": 4}
    plain = gp.trace(kontext, image, testing.INSTRUCTION, prediction=True, attention=False, **run)
    curve = gp.dose_curve(
        kontext, image, testing.INSTRUCTION, steer, (-1, 0, 1, 2),
        lambda t: {"far": (t.prediction[0] - plain.prediction[0]).norm()}, **run,
    )  # fmt: skip
    far = curve.set_index("dose").far
    assert far[0.0] == 0 and far[1.0] > 0 and far[-1.0] > 0 and far[2.0] > far[1.0]


def test_what_is_removed_is_gone_and_a_dose_is_in_standard_deviations(kontext, image, steer):
    def along(edit):
        traced = gp.trace(kontext, image, "make it blue", edit=edit, num_steps=2, attention=False)
        return traced.hidden["single_transformer_blocks.0", 0, "noise"] @ steer.direction.unit

    from dataclasses import replace

    plain = along(None)
    removed = along(replace(steer, remove=True, blocks="single_transformer_blocks.0"))
    assert torch.allclose(removed, torch.full_like(removed, 0.5), atol=1e-5)
    some = replace(steer, dose=1.5, rows=[0, 3], blocks="single_transformer_blocks.0")
    moved = along(some) - plain
    assert torch.allclose(moved[[0, 3]], torch.tensor(3.0), atol=1e-4)
    assert torch.equal(moved[1:3], torch.zeros(2))
    with pytest.raises(InputError, match="32"):
        along(replace(steer, direction=gp.Direction(torch.ones(5), 0.0, 1.0)))


# Rollout


@pytest.mark.parametrize("build", [testing.kontext, testing.qwen_edit, testing.joy_edit])
def test_a_rollout_is_the_product_of_the_whole_matrices(build, image):
    editor = gp.load_editor(build())
    instruction = testing.INSTRUCTION
    rolled = gp.attention_rollout(
        editor, image, instruction, "red circle", residual=0.25, num_steps=2
    )
    layout, torch_seed = rolled.layout, 0
    torch.manual_seed(torch_seed)
    with torch.no_grad(), Witness(editor.denoiser) as witness:
        editor.pipeline(
            **editor.arguments(image, instruction), num_inference_steps=2, output_type="latent"
        )
    text, image_at = layout.within_sequence()
    product = torch.eye(layout.text + layout.image, dtype=torch.float64)
    for (block, _), call in witness.calls.items():
        product = (0.25 * torch.eye(len(product)) + 0.75 * softmax(call, 0).mean(0)) @ product
        keys = [text.start + key for key in rolled.phrase_keys]
        expected = product[image_at][:, keys].sum(1)
        got = rolled.attention[block, 0][0, :, 0].double()
        assert torch.allclose(got, expected, atol=1e-6), block
    assert list(rolled.attention) == [(block, 0) for block in blocks_of(editor.denoiser)]
    assert all(attentions_of(block) for block in blocks_of(editor.denoiser).values())
    with pytest.raises(InputError, match="share from 0 to 1"):
        gp.attention_rollout(editor, image, instruction, residual=2)
