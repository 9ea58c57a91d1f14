"""The emergence study: what is kept of an editor, and how it is resumed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import ground_probe as gp
from ground_probe import testing
from ground_probe.editors import fill, random_weights
from ground_probe.errors import IncompleteError, InputError, UnknownNameError
from ground_probe.geometry import Geometry
from ground_probe.permutation import holm
from ground_probe.probes import hard_labels
from ground_probe.probes.table import probe_table
from ground_probe.study import (
    CONDITIONS,
    Spec,
    causal_check,
    causal_sentences,
    collect,
    collect_each,
    effects,
    splits_of,
    visible,
)
from ground_probe.study import causal as causal_module
from ground_probe.study import collect as collect_function
from ground_probe.study.causal import causal_specs, intervene
from ground_probe.study.reduced import sample_tokens
from ground_probe.study.spec import NEUTRAL
from ground_probe.testing import kontext

SPEC = Spec(steps=(0, 2), num_steps=4, tokens=5)


@pytest.fixture(scope="module")
def editor():
    return gp.load_editor(kontext())


@pytest.fixture(scope="module")
def split():
    return gp.load_split("scenes", "test", limit=3)


@pytest.fixture(scope="module")
def samples(editor, split, tmp_path_factory):
    return collect(editor, split, replace(SPEC, visible=True), tmp_path_factory.mktemp("kept"))


def example(mask, *distractors, key="a", others=()):
    height, width = np.asarray(mask).shape
    masks = [np.asarray(each, dtype=bool) for each in (mask, *distractors)]
    image = Image.new("RGB", (width, height))
    return gp.RefExample(key, image, "the red circle", masks[0], key, tuple(masks[1:]), others)


def test_tokens_of_a_mask_that_a_reader_can_check():
    # One pixel a token: the referent on the left, another object on the right.
    shown = example([[1, 0, 0, 0], [1, 0, 0, 0]], [[0, 0, 0, 1], [0, 0, 0, 0]])
    tokens = sample_tokens(Geometry((2, 4), (2, 4)), shown, count=8)
    assert tokens.place[tokens.target].tolist() == [0, 4]
    assert tokens.place[tokens.distractor].tolist() == [3]
    assert tokens.place[tokens.rest].tolist() == [1, 2, 3, 5, 6, 7]


def test_a_token_that_is_partly_covered_is_neither():
    shown = example([[1, 0, 0, 0]])  # a quarter of the only token
    tokens = sample_tokens(Geometry((1, 4), (1, 1)), shown, count=8)
    assert len(tokens.place) == 0


def test_samples_are_balanced_and_belong_to_the_key(split):
    geometry = Geometry((128, 128), (16, 16))
    first, again = (sample_tokens(geometry, split[0], 4) for _ in range(2))
    assert np.array_equal(first.place, again.place)
    assert first.target.sum() == first.rest.sum() == 4 and len(first.place) <= 12
    assert first.distractor.sum() >= 4 and not (first.target & first.distractor).any()
    renamed = replace(split[0], key="another")
    assert not np.array_equal(first.place, sample_tokens(geometry, renamed, 4).place)


def test_places_on_a_coarser_level():
    shown = example(np.eye(4))
    tokens = sample_tokens(Geometry((4, 4), (4, 4)), shown, 16)
    assert np.array_equal(tokens.on(16), tokens.place)
    diagonal = tokens.on(4)[tokens.target]
    assert diagonal.tolist() == [0, 0, 3, 3]
    with pytest.raises(InputError, match="no halving"):
        tokens.on(5)


def test_what_each_condition_says(split):
    shown = replace(split[0], expression="the red circle", others=("", "the blue star"))
    said = {
        name: replace(SPEC, condition=name, template="remove {expression}").instruction(
            shown, ("the red circle", "the blue star", "the green ring")
        )
        for name in CONDITIONS
    }
    assert said["none"] == ("remove the red circle", (7, 21))
    assert said["other_expression"][0] == "remove the blue star"
    assert said["no_expression"][0] == f"remove {NEUTRAL}"
    assert said["shuffled"][0] == "remove the green ring"
    words = said["word_order"][0].split()[1:]
    assert sorted(words) == ["circle", "red", "the"] and words != ["the", "red", "circle"]


def test_an_example_that_offers_no_condition_is_left_out(split):
    alone = replace(
        split[0], expression="circle", others=("",), distractors=split[0].distractors[:1]
    )
    for name in ("other_expression", "word_order"):
        assert replace(SPEC, condition=name).instruction(alone, ("circle",)) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": (3, 1)}, "ascending"),
        ({"steps": (0, 4)}, "step 4 is not in a schedule of 4 steps"),
    ],
)
def test_a_spec_refuses_what_no_run_could_give(change, message):
    with pytest.raises(InputError, match=message):
        replace(SPEC, **change)


def test_splits_of_a_data_set():
    assert splits_of("scenes") == ("val", "test")
    assert splits_of("refcoco_unc") == ("val", "testA")
    with pytest.raises(UnknownNameError, match="unknown dataset"):
        splits_of("scene")


def test_samples_are_the_trace_at_the_sampled_places(editor, split, samples):
    shown = split[0]
    whole = gp.trace(
        editor,
        shown.image,
        *fill(SPEC.template, shown.expression),
        steps=SPEC.steps,
        num_steps=SPEC.num_steps,
        seed=SPEC.noise_seed(shown.key),
    )
    rows = samples.rows[samples.rows.key == shown.key]
    places, mine = rows.place.to_numpy(copy=True), rows.index.to_numpy()
    assert samples.cells == [
        (b, s, t) for b in whole.blocks for s in ("noise", "reference") for t in (0, 2)
    ]
    assert samples.sigmas == pytest.approx({step: whole.sigmas[step] for step in (0, 2)})
    for cell in samples.cells:
        block, stream, step = cell
        expected = whole.hidden[block, step, stream][places].half().numpy()
        assert np.array_equal(samples.hidden(cell)[mine], expected)
        maps = whole.attention[block, step][:, whole.image_tokens(stream)].sum(-1).mean(0)
        found = samples.attention("attention", cell)[mine]
        np.testing.assert_allclose(found, maps[places].numpy(), rtol=1e-4, atol=1e-7)


def test_the_run_stops_after_the_last_step(editor, split, tmp_path):
    calls = []
    handle = editor.denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    collect(editor, gp.load_split("scenes", "test", limit=1), replace(SPEC, steps=(0, 1)), tmp_path)
    handle.remove()
    assert len(calls) == 2


def test_inputs_are_colors_latents_and_places(samples):
    rows = len(samples.rows)
    assert samples.inputs("rgb").shape == (rows, 48)
    assert samples.inputs("vae_latent").shape == (rows, 16)
    assert samples.inputs("position").shape == (rows, 9)
    assert samples.inputs("rgb").min() >= 0 and samples.inputs("rgb").max() <= 1


class _Killed(BaseException):
    pass


def test_a_killed_collection_resumes_with_equal_samples(editor, split, tmp_path, monkeypatch):
    module = __import__("sys").modules["ground_probe.study.collect"]
    whole = collect(editor, split, SPEC, tmp_path / "whole")
    reduced, done = module.reduced, []

    def dying(*arguments):
        if len(done) == 2:
            raise _Killed
        done.append(arguments[1].key)
        return reduced(*arguments)

    monkeypatch.setattr(module, "reduced", dying)
    with pytest.raises(_Killed):
        collect(editor, split, SPEC, tmp_path / "killed", workers=1)
    done.pop()
    resumed = collect(editor, split, SPEC, tmp_path / "killed", workers=1)
    assert done == [split.keys[0], split.keys[2]]  # the second was not run again
    assert resumed.rows.equals(whole.rows)
    for cell in whole.cells:
        assert np.array_equal(resumed.hidden(cell), whole.hidden(cell))
    assert not list(tmp_path.rglob("*.part"))


def test_other_choices_never_share_a_file(editor, split, tmp_path):
    first = collect(editor, split, SPEC, tmp_path)
    for other in (replace(SPEC, seed=1), replace(SPEC, template="remove {expression}")):
        assert not set(first.files) & set(collect(editor, split, other, tmp_path).files)
    random = collect(random_weights(editor), split, SPEC, tmp_path, control="random_weights")
    assert not set(first.files) & set(random.files) and random.control == "random_weights"


def test_a_condition_that_no_example_offers(editor, tmp_path):
    alone = gp.load_split("scenes", "test", limit=1)
    with pytest.raises(IncompleteError, match="no example of scenes test has 'shuffled'"):
        collect(editor, alone, replace(SPEC, condition="shuffled"), tmp_path)


def test_random_weights_change_the_denoiser_alone(editor):
    before = editor.denoiser.proj_out.weight.clone()
    state = torch.get_rng_state()
    control = random_weights(editor)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(editor.denoiser.proj_out.weight, before)
    assert not torch.equal(control.denoiser.proj_out.weight, before)
    assert control.pipeline.vae is editor.pipeline.vae
    assert control.revision != editor.revision


@pytest.mark.parametrize("family", ["FluxKontext", "QwenImageEdit", "LongCatImageEdit"])
def test_the_visible_change_of_editors_that_pack_latents_in_their_own_ways(family, monkeypatch):
    testing.smaller_images(monkeypatch)
    editor, image = gp.load_editor(testing.BUILDERS[family]()), Image.effect_noise((96, 96), 80)
    with visible.Calls().of(editor.denoiser) as calls:
        trace = gp.trace(editor, image, "make it red", num_steps=2, prediction=True)
    latents = trace.reference
    views = torch.stack([latents, -latents])
    maps = visible.change_maps(editor, image, "make it red", latents, views, calls.output)
    assert maps.shape == (2, *trace.grid("noise").grid)
    assert (maps[0] == 0).all() and maps[1].mean() > 0.01


def test_visible_change_is_of_what_the_denoiser_was_given(samples):
    change = visible.visible_change(samples)
    assert set(change["view"]) == set(visible.VIEWS) and set(change.place) == set(visible.PLACES)
    assert change.value.between(0, 1).all() and set(change.n_images) == {3}
    assert samples.change(0, 0).shape == (len(samples.rows),)


@pytest.mark.parametrize("pooled", [True, False])
def test_causal_specs_pair_every_patch_with_its_control(pooled):
    specs = list(causal_specs(SPEC, ["transformer_blocks.0"], pooled))
    assert specs[0].intervention == "none" and all(each.steps == (0,) for each in specs)
    asked = [(each.intervention, each.at) for each in specs[1:]]
    assert len(set(asked)) == len(asked)
    ways = list(causal_module.WAYS) if pooled else ["patch"]
    for way, at in [*((way, "input") for way in ways), ("patch", "transformer_blocks.0")]:
        assert (way, at) in asked and (way + "_random", at) in asked
    assert {name for name, at in asked if at == "all"} == {"ablate", "ablate_other"}
    assert pooled == any("pooled" in name for name, _ in asked)


@pytest.mark.parametrize("at", ["transformer_blocks.0", "input"])
def test_a_random_patch_moves_each_row_as_far(editor, split, at):
    shown, told = split[0], fill(SPEC.template, split[0].expression)
    spec = replace(SPEC, steps=(0,), at=at)
    own = causal_module._text(editor, shown, told[0], spec)["encoder_hidden_states"]
    moved = {}
    for name in ("patch", "patch_random"):
        plan = intervene(editor, shown, told, replace(spec, intervention=name))
        patched = (
            plan.inputs["encoder_hidden_states"][1] if at == "input" else plan.changes[0].value
        )
        moved[name] = patched - own
    assert moved["patch"].abs().max() > 0
    torch.testing.assert_close(moved["patch"].norm(dim=1), moved["patch_random"].norm(dim=1))
    assert not torch.allclose(moved["patch"], moved["patch_random"])


def test_both_ways_patched_are_the_other_expression_itself(editor, tmp_path):
    one = gp.load_split("scenes", "test", limit=1)
    spec = replace(SPEC, steps=(0,))
    plain, told = (
        collect(editor, one, replace(spec, condition=name), tmp_path)
        for name in ("none", "other_expression")
    )
    cell = (plain.blocks[-1], "reference", 0)
    found = {
        name: collect(editor, one, replace(spec, intervention=name, at="input"), tmp_path)
        for name in causal_module.WAYS
    }
    both = found.pop("patch_both").hidden(cell)
    assert np.array_equal(both, told.hidden(cell))
    for alone in found.values():
        assert not np.array_equal(alone.hidden(cell), plain.hidden(cell))
        assert not np.array_equal(alone.hidden(cell), both)
    assert "forward" not in vars(editor.denoiser)  # nothing is left behind


def test_interventions_reach_the_blocks_behind_them_alone(editor, tmp_path):
    one = gp.load_split("scenes", "test", limit=1)
    spec = replace(SPEC, steps=(0,))
    plain = collect(editor, one, spec, tmp_path)
    at = "transformer_blocks.1"
    patched = collect_function(editor, one, replace(spec, intervention="patch", at=at), tmp_path)
    before, behind = ("transformer_blocks.0", "noise", 0), (plain.blocks[-1], "noise", 0)
    assert np.array_equal(plain.hidden(before), patched.hidden(before))
    assert not np.array_equal(plain.hidden(behind), patched.hidden(behind))


def test_runs_that_share_an_image_are_each_run_alone(editor, split, tmp_path):
    specs = {name: replace(SPEC, steps=(0,), condition=name) for name in ("none", "no_expression")}
    together = collect_each(editor, split, specs, tmp_path / "together")
    for found, (control, spec) in zip(together, specs.items(), strict=True):
        alone = collect(editor, split, spec, tmp_path / "alone")
        assert found.control == alone.control == control
        cell = alone.cells[-1]
        assert np.array_equal(found.hidden(cell), alone.hidden(cell))


def test_effects_declare_six_comparisons_and_adjust_for_them_alone(editor, tmp_path):
    val, test = gp.load_split("scenes", "val", limit=20), gp.load_split("scenes", "test", limit=5)
    spec = replace(SPEC, steps=(0,))
    fit = collect(editor, val, spec, tmp_path)
    changed = causal_check(editor, test, replace(spec, visible=True), tmp_path, blocks=())
    table = effects(fit, changed)
    declared = table[table.declared]
    assert len(declared) == 6 and set(declared.measure) == {"grounding", "edit"}
    assert table.p_holm.notna().equals(table.declared)
    assert declared.p_holm.to_numpy() == pytest.approx(holm(declared.p))
    for row in table[table.against != "none"].itertuples():
        assert row.against == row.intervention.replace(" at ", "_random at ")
    assert (table[table.against == "none"].groupby("measure").size() == len(changed) - 1).all()


@pytest.mark.parametrize(
    ("p", "difference", "said"),
    [(0.01, -0.3, "used."), (0.2, -0.3, "use not shown."), (0.01, 0.3, "use not shown.")],
)
def test_what_is_said_of_a_use(p, difference, said):
    row = {
        "measure": "grounding",
        "intervention": "patch at input",
        "against": "patch_random at input",
        "value": 0.5,
        "less": 0.5 - difference,
        "difference": difference,
        "low": difference - 0.1,
        "high": difference + 0.1,
        "n_images": 9,
        "p_holm": p,
        "over": "test images, given the fit",
        "declared": True,
    }
    bare = row | {"against": "none", "less": 0.9, "declared": False}
    sentence = causal_sentences(pd.DataFrame([row, bare]))
    assert said in sentence and "0.90 undisturbed" in sentence
    assert sentence.endswith("This editor has no pooled vector of the text.")


def test_other_words_are_those_around_the_phrase():
    assert causal_module._other_words("make the red circle blue now please", (5, 19)) == (20, 35)
    assert causal_module._other_words("remove the circle", (7, 17)) == (0, 6)
    assert causal_module._other_words("the circle", (0, 10)) is None


def test_patches_stay_at_the_first_step(editor, split):
    with pytest.raises(InputError, match="step 0 alone"):
        intervene(editor, split[0], ("a", (0, 1)), replace(SPEC, intervention="patch"))


def test_a_table_of_traces_is_their_linear_probe(editor):
    split = gp.load_split("scenes", "val", limit=12)
    traces = [
        gp.trace(
            editor,
            shown.image,
            "make the red circle blue",
            "the red circle",
            blocks=["transformer_blocks.0"],
            num_steps=4,
        )
        for shown in split
    ]
    masks, distractors = [s.mask for s in split], [s.distractors for s in split]
    table = probe_table(traces, masks, distractors=distractors)
    assert set(table.labels) == {"separability", "grounding"}
    assert set(table.control) == {"none", "position", "control_labels"}
    labels, features, groups = [], [], []
    for i, traced in enumerate(traces):
        target, keep = (x.ravel() for x in hard_labels(traced.geometry.soft_labels(masks[i])))
        labels.append(target[keep])
        features.append(traced.hidden[traced.blocks[0], 0, "reference"].numpy()[keep])
        groups += [i] * keep.sum()
    features = np.concatenate(features).astype(np.float16).astype(np.float32)
    expected = gp.linear_probe_auc(features, np.concatenate(labels), np.array(groups))
    row = table[(table.block == traces[0].blocks[0]) & (table.stream == "reference")]
    row = row.query("probe == 'linear' and labels == 'separability' and control == 'none'")
    assert row.value.item() == pytest.approx(expected.value, abs=0.005)
    alone = probe_table(traces, masks)
    assert set(alone.labels) == {"separability"}
    with pytest.raises(InputError, match="12 traces, 5 masks"):
        probe_table(traces, masks[:5])
