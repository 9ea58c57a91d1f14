"""The control of random weights: what it keeps, and that it can fail."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import ground_probe as gp
from ground_probe.editors import fill, load_editor, random_weights
from ground_probe.errors import InputError
from ground_probe.testing import kontext

TEMPLATE = "Change the color of {expression} to red"


@pytest.fixture(scope="module")
def tiny():
    return gp.load_editor("tiny")


def fresh_initialization(editor):
    torch.manual_seed(0)
    denoiser = type(editor.denoiser).from_config(editor.denoiser.config)
    denoiser.eval().requires_grad_(False)
    pipeline = editor.pipeline
    return load_editor(type(pipeline)(**pipeline.components | {"transformer": denoiser}))


def moved(editor, example) -> float:
    """How far another object's expression moves the last block's reference tokens, as a share."""
    other = next(words for words in example.others if words)
    one, two = (
        gp.trace(editor, example.image, *fill(TEMPLATE, words), attention=False)
        for words in (example.expression, other)
    )
    site = one.blocks[-1], 0, "reference"
    return float((one.hidden[site] - two.hidden[site]).norm() / one.hidden[site].norm())


def test_another_instruction_moves_the_states(tiny):
    examples = [each for each in gp.load_split("scenes", "test")[:12] if any(each.others)][:3]
    trained, control, fresh = (
        sum(moved(editor, each) for each in examples)
        for editor in (tiny, random_weights(tiny), fresh_initialization(tiny))
    )
    assert control > trained / 8
    assert fresh < trained / 8  # the control that can hardly fail


def test_each_tensor_keeps_its_values_and_none_its_order(tiny):
    control = random_weights(tiny).denoiser.state_dict()
    for name, weight in tiny.denoiser.named_parameters():
        assert torch.equal(control[name].flatten().sort()[0], weight.flatten().sort()[0])
        assert not torch.equal(control[name], weight), name


def test_weights_that_cannot_be_read_are_refused():
    editor = gp.load_editor(kontext())
    denoiser = editor.denoiser
    denoiser.proj_out.weight = torch.nn.Parameter(denoiser.proj_out.weight.to("meta"), False)
    with pytest.raises(InputError, match=r"proj_out.weight cannot be .* without sequential"):
        random_weights(replace(editor, name="mine"))
