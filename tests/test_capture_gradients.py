"""Gradients through captured states: equal to finite differences, and nothing else changes."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

import ground_probe as gp
from ground_probe.capture.calls import arguments_of
from ground_probe.testing import instruct_pix2pix, kontext, qwen_edit

TOLD = "make the red circle blue"
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@contextmanager
def shifted(denoiser, by):
    """Add to what the denoiser is given in its first call."""
    calls = []

    def hook(module, args, kwargs):
        given = arguments_of(module, args, kwargs)
        name = "sample" if "sample" in given else "hidden_states"
        moved = given[name] + (by if not calls else 0)
        calls.append(name)
        return (args, {**kwargs, name: moved}) if name in kwargs else ((moved, *args[1:]), kwargs)

    handle = denoiser.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers
@pytest.mark.parametrize("make", [kontext, qwen_edit, instruct_pix2pix])
def test_a_gradient_equals_finite_differences(make):
    editor = gp.load_editor(make())
    (*_, block), stream = gp.trace(editor, PHOTO, TOLD, attention=False).blocks, "noise"

    def run(**how):
        return gp.trace(editor, PHOTO, TOLD, blocks=block, attention_output=True, **how)

    trace, plain = run(gradients=True), run()
    states = trace.hidden[block, 0, stream]
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))

    def score(trace):
        return sum((of[block, 0, stream] * weights).sum() for of in
                   (trace.hidden, trace.attention_output))  # fmt: skip

    (gradient,) = torch.autograd.grad(score(trace), trace.inputs[0])
    assert gradient.shape == trace.inputs[0].shape and gradient.abs().sum() > 0
    generator = torch.Generator().manual_seed(2)
    direction = gradient / gradient.norm() + torch.randn(gradient.shape, generator=generator) / 20
    ends = []
    for sign in (1, -1):
        with shifted(editor.denoiser, sign * 5e-3 * direction):
            ends.append(float(score(run())))
    assert (ends[0] - ends[1]) / 1e-2 == pytest.approx(
        float((gradient * direction).sum()), rel=0.02
    )
    torch.testing.assert_close(states.detach(), plain.hidden[block, 0, stream])
    assert not plain.hidden[block, 0, stream].requires_grad and not plain.inputs
    torch.testing.assert_close(trace.attention[block, 0], plain.attention[block, 0])
    assert not trace.attention[block, 0].requires_grad, "a map carries no gradient"


def test_a_later_step_has_its_own_input_and_the_run_may_go_on(tmp_path):
    pipeline = kontext()
    denoiser, modes = pipeline.transformer, []
    handle = denoiser.proj_out.register_forward_pre_hook(
        lambda *_: modes.append(torch.is_grad_enabled())
    )
    call = {"prompt": TOLD, "num_inference_steps": 3, "output_type": "np", "max_area": 64 * 64}
    with gp.capture(pipeline, "*.1", (1,), stop=False, gradients=True) as captured:
        image = pipeline(image=PHOTO, **call).images
    handle.remove()
    assert modes == [False, True, False] and torch.is_grad_enabled()
    assert list(captured.inputs) == [1] and np.isfinite(image).all()
    state = captured.hidden["single_transformer_blocks.1", 1, "noise"]
    (gradient,) = torch.autograd.grad(state.sum(), captured.inputs[1])
    assert gradient.isfinite().all()
    captured.save(tmp_path / "trace.safetensors")
    again = gp.load_trace(tmp_path / "trace.safetensors")
    assert again.inputs == {} and not again.hidden[again.blocks[0], 1, "noise"].requires_grad
    with pytest.raises(KeyboardInterrupt), gp.capture(pipeline, gradients=True):
        raise KeyboardInterrupt
    assert torch.is_grad_enabled() and not denoiser._forward_pre_hooks
