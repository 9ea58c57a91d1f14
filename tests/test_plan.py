"""The plan: FLOPs against a count by hand, facts against published configurations, memory, CLI."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ground_probe import Recipe, load_editor
from ground_probe.cli import plan as command
from ground_probe.errors import InputError, UnknownNameError
from ground_probe.study.plan import GPUS, plan
from ground_probe.study.plan.facts import FACTS
from ground_probe.study.plan.flops import _counted
from ground_probe.study.plan.memory import memory_of
from ground_probe.study.plan.parts import build
from ground_probe.study.plan.plan import sweep_cost

CONFIGS = Path(__file__).resolve().parents[2] / "shared" / "data" / "model-configs"
needs_configs = pytest.mark.skipif(not CONFIGS.is_dir(), reason=f"{CONFIGS} is not there")


@pytest.fixture(scope="module")
def kontext():
    recipe = Recipe(prior_depth=(0.3, 0.6), feature_depth=(0.4, 0.44))
    return plan("FLUX.1-Kontext-dev", "refcoco_unc", "val", recipe=recipe)


def by_hand(double, single, text=512, image=8140, dim=3072):
    """Multiply-adds of Kontext's blocks, from the architecture alone."""
    tokens, mlp = text + image, 4 * dim
    attention = 2 * tokens * tokens * dim
    streams = 4 * dim * dim + 2 * dim * mlp
    in_double = tokens * streams + attention + 2 * 6 * dim * dim
    in_single = tokens * (3 * dim * dim + dim * mlp + (dim + mlp) * dim) + attention + 3 * dim * dim
    return 2 * (double * in_double + single * in_single)


def test_a_step_of_kontext_equals_a_count_by_hand(kontext):
    assert kontext.native_px == (880, 1184) and kontext.tokens == (2 * 55 * 74, 512)
    assert kontext.blocks == (34, 57)
    # The rest is the embeddings and the last layer.
    assert kontext.flops.step == pytest.approx(by_hand(19, 38), rel=1e-3)
    assert kontext.flops.fraction == pytest.approx(by_hand(19, 15), rel=1e-3)
    assert by_hand(19, 37) < 0.99 * kontext.flops.step, "one block fewer would be seen"


def test_hours_and_memory_follow(kontext):
    assert kontext.sentences == 10_834
    flops = kontext.per_sentence()
    assert flops["28 steps"] > 28 * kontext.flops.step and flops["recipe"] < flops["one step"]
    seconds = 10_834 * flops["recipe"] / (GPUS["H200"].tflops * 1e12 * 0.4)
    assert kontext.hours()["recipe"] == pytest.approx(seconds / 3600)
    gib = kontext.memory.parts
    assert gib["transformer"] == pytest.approx(2 * 11.901e9 / 2**30, rel=1e-3)
    assert kontext.memory.peak == pytest.approx(sum(gib.values())) and kontext.memory.fits
    assert not replace(kontext.memory, room=24).fits
    assert json.loads(json.dumps(kontext.data()))["hours"] == kontext.hours()
    shown = str(kontext)
    assert "34 of 57 blocks" in shown and "10,834 sentences" in shown


def test_options_make_the_peak_smaller(kontext):
    parts = build("FLUX.1-Kontext-dev")
    all_off = {"offload": None, "quantize": None, "drop": False, "encode_ahead": False}

    def peak(**options):
        last = "single_transformer_blocks.14"
        return memory_of(parts, last, GPUS["RTX4090"], 2.0, **all_off | options).peak

    gib, dropped = kontext.memory.parts, kontext.memory.dropped
    text = gib["text_encoder"] + gib["text_encoder_2"]
    assert kontext.memory.text == text and 0.2 < dropped / gib["transformer"] < 0.4
    assert peak() == pytest.approx(sum(gib.values()))
    assert peak(drop=True) == pytest.approx(sum(gib.values()) - dropped)
    assert peak(encode_ahead=True) == pytest.approx(sum(gib.values()) - text)
    assert peak(offload="model") == pytest.approx(gib["transformer"])
    assert peak(offload="model", drop=True) == pytest.approx(gib["transformer"] - dropped)
    assert peak(offload="sequential") < 1
    assert peak(quantize="bnb4") < 0.3 * peak()


@needs_configs
@pytest.mark.parametrize(
    ("model", "folder", "family"),
    [
        ("FLUX.1-Kontext-dev", "FLUX.1-dev", "FluxKontext"),
        ("instruct-pix2pix", "stable-diffusion-v1-5", "InstructPix2Pix"),
    ],
)
def test_facts_equal_the_published_configurations(model, folder, family):
    facts, published = build(model), build(model, CONFIGS / folder)
    assert facts.missing == published.missing == () and published.folder == CONFIGS / folder
    for name, module in published.modules.items():
        shapes = {key: each.shape for key, each in module.named_parameters()}
        ours = {key: each.shape for key, each in facts.modules[name].named_parameters()}
        if (name, family) == ("unet", "InstructPix2Pix"):  # 8 input channels
            assert shapes.pop("conv_in.weight")[1] == 4 and ours.pop("conv_in.weight")[1] == 8
        assert ours == shapes, name
    assert set(FACTS[family]) == set(published.modules)


def test_the_fraction_ends_with_the_block():
    layers = torch.nn.Sequential(*(torch.nn.Linear(8, 8, device="meta") for _ in range(4)))
    total, part = _counted(lambda: layers(torch.empty(1, 8, device="meta")), layers[2])
    assert (total, part) == (4 * 128, 3 * 128)


def test_the_embedded_editor_is_counted_as_it_is():
    recipe = Recipe(step=1, prior_depth=(0.0, 0.3), feature_depth=(0, 0.2))
    planned = plan("tiny", "scenes", "test", recipe=recipe)
    parameters = sum(p.numel() for p in load_editor("tiny", device="cpu").denoiser.parameters())
    assert planned.memory.parts["transformer"] == pytest.approx(2 * parameters / 2**30)
    assert planned.steps_before == 1 and planned.blocks == (2, 8) and planned.tokens == (512, 24)
    flops, one = planned.flops, planned.per_sentence()
    encoded = flops.text + flops.encode
    assert one["recipe"] == encoded + flops.step + flops.fraction
    assert planned.sentences == 2000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Qwen-Image-Edit",), "no configuration of Qwen/Qwen-Image-Edit is here: .*'\\*.json'"),
        (("sdxl",), "no model of a known family, or is not here: choose from FLUX.1-Kontext-dev"),
        (("tiny", "coco"), "unknown dataset 'coco'"),
        (("tiny", "scenes", "tset"), "did you mean 'test'"),
        (("/etc", "scenes", "test"), "has no model_index.json"),
    ],
)
def test_what_is_missing_is_said(arguments, message):
    with pytest.raises(InputError, match=message):
        plan(*arguments)


def test_wrong_options_are_named():
    with pytest.raises(UnknownNameError, match=r"unknown GPU 'H2000'.*did you mean 'H200'"):
        plan("tiny", "scenes", "test", device="H2000")
    with pytest.raises(InputError, match=r"utilisation 1.5 .* in \(0, 1\]"):
        plan("tiny", "scenes", "test", utilisation=1.5)
    with pytest.raises(UnknownNameError, match="unknown quantizer 'int3'"):
        plan("tiny", "scenes", "test", quantize="int3")


def test_the_command(tmp_path):
    import argparse

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    options = {"--model": "tiny", "--dataset": "scenes", "--split": "test", "--gpu": "A100"}
    arguments = parser.parse_args([each for pair in options.items() for each in pair])
    answer = command.run(arguments)
    assert "one A100, 312 TFLOP/s" in answer.text and answer.data["fits"]
    assert answer.data["device"]["source"].startswith("https://www.nvidia.com/")
    assert answer.data["device"]["source"] in answer.text


def test_what_a_calibration_costs_is_its_forward_passes_and_the_states_of_one():
    planned = plan("tiny", "scenes", "test")
    cost = sweep_cost(planned, 10)
    flops = planned.flops
    one = flops.text + flops.encode + 5 * flops.step  # denoising steps 0 to 4
    speed = planned.device.tflops * 1e12 * planned.utilisation
    assert cost["hours"] == pytest.approx(10 * 2 * one / speed / 3600)
    # 512 image tokens, 8 blocks, two kinds of states, two steps, 128 channels in half precision
    assert cost["states_gib"] == pytest.approx(512 * 8 * 2 * 2 * 128 * 2 / 2**30)
