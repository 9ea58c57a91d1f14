"""Contracts of capture on a tiny random instance of the real Kontext pipeline."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.overrides import TorchFunctionMode

import ground_probe as gp
from ground_probe import testing
from ground_probe.capture import keep_half
from ground_probe.capture.sites import attentions_of, blocks_of
from ground_probe.editors import load_editor
from ground_probe.errors import (
    InputError,
    PhraseError,
    SilentSiteError,
    UnknownNameError,
    UnsupportedEditorError,
)

INSTRUCTION = "make the red circle blue"


@pytest.fixture(scope="module")
def editor():
    return load_editor(testing.kontext())


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8))


def run(editor, image, steps=3, **arguments):
    given = editor.arguments(image, INSTRUCTION) | {"output_type": "latent"} | arguments
    return editor.pipeline(**given, num_inference_steps=steps).images


class Softmaxes(TorchFunctionMode):
    """Full attention of every call, in float64: what a capture is held against."""

    def __init__(self):
        super().__init__()
        self.maps = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            query, key = (kwargs or {}).get("query", args[:1]), (kwargs or {}).get("key", args[1:2])
            query, key = (x if torch.is_tensor(x) else x[0] for x in (query, key))
            logits = query.double() @ key.double().transpose(-1, -2) * query.shape[-1] ** -0.5
            self.maps.append(logits.softmax(-1)[0])
        return func(*args, **(kwargs or {}))


def test_hidden_states_are_the_blocks_own_outputs(editor, image):
    seen = {}

    def remember(name):
        return lambda module, args, output: seen.setdefault(name, []).append(output)

    handles = [
        block.register_forward_hook(remember(name))
        for name, block in blocks_of(editor.denoiser).items()
    ]
    run(editor, image, steps=2)
    for handle in handles:
        handle.remove()
    trace = gp.trace(
        editor,
        image,
        INSTRUCTION,
        steps=(0, 1),
        streams=("text", "noise", "reference"),
        num_steps=2,
    )
    assert len(trace.hidden) == 4 * 2 * 3
    for (block, step, stream), hidden in trace.hidden.items():
        text, both = (part[0] for part in seen[block][step])
        expected = {"text": text, "noise": both[:64], "reference": both[64:]}[stream]
        assert torch.equal(hidden, expected), (block, step, stream)


def test_attention_is_that_of_a_full_softmax(editor, image):
    with Softmaxes() as full:
        run(editor, image, steps=2)
    maps = [m for m in full.maps if m.shape == (2, 152, 152)]
    trace = gp.trace(
        editor, image, INSTRUCTION, "red circle", steps=(0, 1), affinity="reference", num_steps=2
    )
    assert trace.phrase_tokens == ("red", "circle") and trace.phrase_keys == (2, 3)
    sites = [(block, step) for step in (0, 1) for block in trace.blocks]
    assert len(maps) == len(sites)
    for site, expected in zip(sites, maps, strict=True):
        got = trace.attention[site]
        torch.testing.assert_close(got.double(), expected[:, 24:, 2:4], atol=1e-6, rtol=1e-5)
        got = trace.attention_from_text[site]
        torch.testing.assert_close(got.double(), expected[:, 2:4, 24:], atol=1e-6, rtol=1e-5)
        got = trace.affinity[site]
        torch.testing.assert_close(got.double(), expected[:, 88:, 24:], atol=1e-6, rtol=1e-5)


def test_the_output_is_unchanged_in_a_run_after_a_stopped_one(editor, image):
    bare = run(editor, image)
    with gp.capture(editor.pipeline, attention_to=(INSTRUCTION, None)) as stopped:
        run(editor, image)
    assert stopped.attention and torch.equal(run(editor, image), bare)


def test_a_capture_that_does_not_stop_leaves_the_output_bitwise_the_same(editor, image):
    bare = run(editor, image)
    capturing = gp.capture(editor.pipeline, steps=(0, 3), attention_to="red circle")
    with pytest.raises(SilentSiteError, match="only 3 steps ran"), capturing:
        output = run(editor, image)
    assert torch.equal(output, bare)


def test_a_processor_that_a_base_class_names_makes_an_attention_module():
    class Base(torch.nn.Module):
        processor = "native"

    class Mine(Base):
        pass

    block = torch.nn.ModuleDict({"attn": Mine(), "norm": torch.nn.Identity()})
    assert list(attentions_of(block)) == ["attn"]


def test_it_stops_after_the_last_block_of_the_last_step(editor, image):
    ran = []
    blocks = blocks_of(editor.denoiser)
    handles = [
        block.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, block in blocks.items()
    ]
    gp.trace(editor, image, INSTRUCTION, steps=(0, 1), blocks="transformer_blocks.1")
    for handle in handles:
        handle.remove()
    assert ran == [*blocks, *list(blocks)[:2]]


def test_nothing_is_left_behind(editor, image):
    def left():
        return [
            (m._forward_hooks, m._forward_pre_hooks)
            for component in editor.pipeline.components.values()
            if isinstance(component, torch.nn.Module)
            for m in component.modules()
            if m._forward_hooks or m._forward_pre_hooks
        ]

    gp.trace(editor, image, INSTRUCTION)
    assert not left() and "step" not in vars(editor.pipeline.scheduler)

    class Mine(Exception):
        pass

    def burst(*_):
        raise Mine

    handle = editor.denoiser.single_transformer_blocks[0].attn.to_q.register_forward_hook(burst)
    with pytest.raises(Mine):
        gp.trace(editor, image, INSTRUCTION)
    handle.remove()
    assert not left() and torch._C._len_torch_function_stack() == 0


@pytest.mark.filterwarnings("ignore")
def test_nothing_holds_the_model_afterwards(image):
    editor = load_editor(testing.kontext())
    trace = gp.trace(editor, image, INSTRUCTION)
    capturing = gp.capture(editor.pipeline)
    with capturing as captured:
        run(editor, image)
    model = weakref.ref(editor.denoiser)
    del editor
    gc.collect()
    assert model() is None and trace.hidden and captured.hidden


def test_reducers_run_before_anything_is_stored(editor, image):
    whole = gp.trace(editor, image, INSTRUCTION, attention=False)
    keep = gp.keep_tokens(5, seed=1)
    kept = gp.trace(editor, image, INSTRUCTION, attention=False, reduce=keep)
    for site, hidden in kept.hidden.items():
        assert torch.equal(hidden, whole.hidden[site][keep.index(64)])
    half = gp.trace(editor, image, INSTRUCTION, reduce=keep_half)
    assert {h.dtype for h in half.hidden.values()} == {torch.float16}


def test_the_mean_over_heads_is_taken_on_the_device(editor, image):
    heads = gp.trace(editor, image, INSTRUCTION, "circle", affinity=[3, 70])
    mean = gp.trace(editor, image, INSTRUCTION, "circle", affinity=[3, 70], attention="mean")
    for site, maps in mean.attention.items():
        torch.testing.assert_close(maps, heads.attention[site].mean(0, keepdim=True))
        torch.testing.assert_close(mean.affinity[site], heads.affinity[site].mean(0, keepdim=True))


def test_the_mass_of_an_image_tokens_attention_is_one(editor, image):
    trace = gp.trace(editor, image, INSTRUCTION, "red circle", mass=True)
    mass = trace.mass("transformer_blocks.0", 0)
    assert sum(mass.values()) == pytest.approx(1, abs=1e-5)
    assert list(mass) == ["phrase", "padding", "other text", "noise", "reference"]
    assert len(trace.padding) == 24 - 6 and mass["padding"] > mass["phrase"] > 0


def test_both_forwards_of_true_guidance_are_told_apart(editor, image):
    guidance = {"negative_prompt": "cat", "true_cfg_scale": 2.0}
    trace = gp.trace(editor, image, INSTRUCTION, roles=("cond", "uncond"), pipeline_kwargs=guidance)
    cond = gp.trace(editor, image, INSTRUCTION)
    site = "single_transformer_blocks.1", 0, "noise"
    assert torch.equal(trace.hidden[site], cond.hidden[site])
    assert torch.equal(trace.hidden[site], trace.hidden[(*site, "cond")])
    assert not torch.equal(trace.hidden[site], trace.hidden[(*site, "uncond")])
    with pytest.raises(SilentSiteError, match="no 'uncond' forward ran"):
        gp.trace(editor, image, INSTRUCTION, roles=("cond", "uncond"))


def test_the_prediction_is_the_clean_latent_of_flow_matching(editor, image):
    trace = gp.trace(editor, image, INSTRUCTION, steps=(1,), prediction=True, num_steps=2)
    # The last Euler step of flow matching goes from sigma to zero: it lands on the prediction.
    torch.testing.assert_close(trace.prediction[1], run(editor, image, steps=2))


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        ({"blocks": "transformer_blocks.9"}, UnknownNameError, "unknown block .* choose one of"),
        ({"streams": ("image",)}, UnknownNameError, "unknown stream 'image'"),
        ({"roles": ("conditional",)}, UnknownNameError, "choose one of cond, image_only, uncond"),
        ({"steps": (-1,)}, InputError, "counted from 0"),
        ({"steps": ()}, InputError, "counted from 0"),
        ({"steps": (28,)}, InputError, "not in a schedule of 28 steps"),
        ({"phrase": "green circle"}, PhraseError, "not in the instruction"),
        ({"phrase": " "}, PhraseError, "phrase is empty"),
        ({"phrase": (3, 99)}, PhraseError, "holds no text"),
        ({"attention": "max"}, UnknownNameError, "unknown attention 'max'"),
        ({"affinity": "text"}, UnknownNameError, "unknown stream 'text'"),
    ],
)
def test_misuse_is_named(editor, image, wanted, error, message):
    with pytest.raises(error, match=message):
        gp.trace(editor, image, INSTRUCTION, **wanted)


def test_a_phrase_that_was_cut_off_shows_what_is_left(editor, image):
    long = "make the red circle blue and " * 5 + "remove the cat"
    with pytest.raises(PhraseError, match=r"lost its tokens.*24 tokens, which keep \['make'"):
        gp.trace(editor, image, long, "the cat")


def test_a_site_that_was_not_captured_is_named(editor, image):
    trace = gp.trace(editor, image, INSTRUCTION, blocks="*.0")
    with pytest.raises(UnknownNameError, match=r"unknown block 'transformer_blocks\.1'"):
        trace.hidden["transformer_blocks.1", 0, "noise"]
    with pytest.raises(UnknownNameError, match="unknown step 3"):
        trace.attention["transformer_blocks.0", 3]
    with pytest.raises(InputError, match="holds nothing of the kind"):
        trace.affinity["transformer_blocks.0", 0]


def test_a_cached_denoiser_is_refused(image):
    from diffusers import FirstBlockCacheConfig

    editor = load_editor(testing.kontext())
    editor.denoiser.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(UnsupportedEditorError, match="disable_cache"):
        gp.trace(editor, image, INSTRUCTION)
    editor.denoiser.disable_cache()
    assert gp.trace(editor, image, INSTRUCTION).hidden
