"""Interventions, storage, and what other machinery does to hooks: it works or refuses."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

import ground_probe as gp
from ground_probe import testing
from ground_probe.capture import ReplaceRows, ReweightPhrase, keep_tokens
from ground_probe.capture.attention import places_of
from ground_probe.capture.kernel import Attention
from ground_probe.capture.layout import Layout
from ground_probe.errors import (
    InputError,
    SilentSiteError,
    UnknownNameError,
    UnsupportedEditorError,
)

INSTRUCTION = "make the red circle blue"


@pytest.fixture
def editor():
    return gp.load_editor(testing.kontext())


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8))


def run(editor, image, steps=2, **arguments):
    given = editor.arguments(image, INSTRUCTION) | {"output_type": "latent"} | arguments
    return editor.pipeline(**given, num_inference_steps=steps).images


def same(left, right):
    assert left.keys() == right.keys() and left
    return all(torch.equal(left[site], right[site]) for site in left)


# Interventions


def test_replaced_rows_are_what_the_next_block_is_given(editor, image):
    change = ReplaceRows("transformer_blocks.0", "reference", 7.0, rows=[2, 5])
    trace = gp.trace(editor, image, INSTRUCTION, edit=[change])
    bare = gp.trace(editor, image, INSTRUCTION)
    site = "transformer_blocks.0", 0, "reference"
    expected = bare.hidden[site].clone()
    expected[[2, 5]] = 7.0
    assert torch.equal(trace.hidden[site], expected)
    later = "transformer_blocks.1", 0, "noise"
    assert not torch.allclose(trace.hidden[later], bare.hidden[later])


def test_a_replacement_by_itself_changes_nothing(editor, image):
    site = "single_transformer_blocks.0", 0, "noise"
    bare = gp.trace(editor, image, INSTRUCTION)
    change = ReplaceRows(site[0], "noise", bare.hidden[site], steps=(0,))
    trace = gp.trace(editor, image, INSTRUCTION, edit=[change])
    assert same(trace.hidden, bare.hidden)


def test_an_ablated_phrase_gets_no_attention_and_a_weight_of_one_changes_nothing(editor, image):
    bare = gp.trace(editor, image, INSTRUCTION, "red circle")
    none = gp.trace(editor, image, INSTRUCTION, "red circle", edit=[ReweightPhrase(0.0)])
    assert all(maps.abs().max() == 0 for maps in none.attention.values())
    one = gp.trace(editor, image, INSTRUCTION, "red circle", edit=[ReweightPhrase(1.0)])
    for site, maps in one.attention.items():
        torch.testing.assert_close(maps, bare.attention[site])
    twice = gp.trace(
        editor, image, INSTRUCTION, "red circle", edit=[ReweightPhrase(2.0)]
    ).attention["transformer_blocks.0", 0]
    maps = bare.attention["transformer_blocks.0", 0]
    expected = 2 * maps / (1 + maps.sum(-1, keepdim=True))
    torch.testing.assert_close(twice, expected)


def test_an_intervention_alone_lets_the_pipeline_finish(editor, image):
    bare = run(editor, image)
    with gp.capture(editor.pipeline, [], attention_to="circle", edit=ReweightPhrase(0.0)):
        changed = run(editor, image)
    assert changed.shape == bare.shape and not torch.equal(changed, bare)
    assert torch.equal(run(editor, image), bare)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ReweightPhrase(-1.0), InputError, "at least 0"),
        (lambda: ReplaceRows("nowhere", "noise"), UnknownNameError, "unknown block 'nowhere'"),
        (lambda: ReplaceRows("all", "nothing"), UnknownNameError, "unknown stream 'nothing'"),
        (lambda: ReplaceRows("all", "noise", roles="x"), UnknownNameError, "unknown role 'x'"),
    ],
)
def test_an_intervention_that_makes_no_sense_is_refused(editor, image, make, error, message):
    with pytest.raises(error, match=message):
        gp.trace(editor, image, INSTRUCTION, edit=[make()])


# Storage


def test_traces_come_back_from_disk_as_they_were(editor, image, tmp_path):
    trace = gp.trace(
        editor, image, INSTRUCTION, "circle", steps=(0, 1), num_steps=2, mass=True,
        affinity=[0, 3], prediction=True, attention_output=True, propagate=1,
        reduce=keep_tokens(8),
    )  # fmt: skip
    path = tmp_path / "a trace.safetensors"
    trace.save(path)
    back = gp.load_trace(path)
    for part in fields(trace):
        value, got = getattr(trace, part.name), getattr(back, part.name)
        if part.name in ("device", "dtype"):
            assert str(value).removeprefix("torch.") == got
        elif isinstance(value, dict) and torch.is_tensor(next(iter(value.values()), None)):
            assert same(got, value), part.name
        elif torch.is_tensor(value):
            assert torch.equal(got, value)
        else:
            assert got == value, part.name
    assert back.mass("transformer_blocks.0", 0) == trace.mass("transformer_blocks.0", 0)
    assert back.attention["transformer_blocks.0", 0, "cond"].shape == (2, 128, 1)


def test_a_trace_that_is_cut_short_or_none_at_all_is_named(editor, image, tmp_path):
    path = tmp_path / "trace.safetensors"
    gp.trace(editor, image, INSTRUCTION, reduce=keep_tokens(4)).save(path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"{}"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"trace\.safetensors is no trace"):
            gp.load_trace(path)
    with pytest.raises(InputError, match="is no trace"):
        gp.load_trace(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == [path]


# Loudness


@pytest.mark.parametrize("how", ["whole", "in place", "blocks"])
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_denoiser_is_captured(editor, image, how):
    bare = gp.trace(editor, image, INSTRUCTION, "circle")
    if how == "whole":
        editor.pipeline.transformer = torch.compile(editor.denoiser, backend="eager")
    elif how == "in place":
        editor.denoiser.compile(backend="eager")
    else:
        editor.denoiser.compile_repeated_blocks(backend="eager")
    run(editor, image, steps=1)
    trace = gp.trace(editor, image, INSTRUCTION, "circle")
    assert same(trace.hidden, bare.hidden) and same(trace.attention, bare.attention)
    assert trace.blocks == bare.blocks


def test_fused_projections_are_captured(editor, image):
    bare = gp.trace(editor, image, INSTRUCTION, "circle")
    editor.denoiser.fuse_qkv_projections()
    trace = gp.trace(editor, image, INSTRUCTION, "circle")
    for site, maps in trace.attention.items():
        torch.testing.assert_close(maps, bare.attention[site])


def test_layerwise_casting_is_captured(editor, image):
    bare = gp.trace(editor, image, INSTRUCTION, "circle")
    editor.denoiser.enable_layerwise_casting(torch.bfloat16, torch.float32)
    trace = gp.trace(editor, image, INSTRUCTION, "circle")
    for site, maps in trace.attention.items():
        torch.testing.assert_close(maps, bare.attention[site], atol=0.01, rtol=0.1)
    assert same(gp.trace(editor, image, INSTRUCTION, "circle").hidden, trace.hidden)


@pytest.mark.parametrize("offload", ["block_level", "leaf_level"])
def test_group_offload_is_captured(editor, image, offload):
    bare = gp.trace(editor, image, INSTRUCTION, "circle")
    cpu = torch.device("cpu")
    editor.denoiser.enable_group_offload(
        onload_device=cpu, offload_device=cpu, offload_type=offload, num_blocks_per_group=1
    )
    for _ in range(2):
        trace = gp.trace(editor, image, INSTRUCTION, "circle", blocks="transformer_blocks.1")
        for site, maps in trace.attention.items():
            assert torch.equal(maps, bare.attention[site])


CACHES = {
    "FirstBlockCacheConfig": {"threshold": 0.1},
    "PyramidAttentionBroadcastConfig": {
        "spatial_attention_block_skip_range": 2,
        "current_timestep_callback": lambda: 500,
    },
    "FasterCacheConfig": {"current_timestep_callback": lambda: 500},
    "MagCacheConfig": {"num_inference_steps": 2, "mag_ratios": [1.0, 1.0]},
    "SeaCacheConfig": {},
    "TaylorSeerCacheConfig": {},
    "TextKVCacheConfig": {},
}


def test_all_caches_of_diffusers_are_known():
    import diffusers

    assert {name for name in dir(diffusers) if name.endswith("CacheConfig")} <= CACHES.keys()


@pytest.mark.parametrize("name", CACHES)
def test_every_step_cache_is_refused(editor, image, name):
    import diffusers

    try:
        editor.denoiser.enable_cache(getattr(diffusers, name)(**CACHES[name]))
    except (ValueError, TypeError) as error:
        pytest.skip(f"diffusers has no such cache for this denoiser: {error}")
    with pytest.raises(UnsupportedEditorError, match="disable_cache"):
        gp.trace(editor, image, INSTRUCTION)
    editor.denoiser.disable_cache()
    assert gp.trace(editor, image, INSTRUCTION).hidden


def test_skipped_layers_are_refused(editor, image):
    from diffusers import LayerSkipConfig
    from diffusers.hooks import apply_layer_skip

    config = LayerSkipConfig(indices=[1], fqn="transformer_blocks", skip_ff=True)
    apply_layer_skip(editor.denoiser, config)
    with pytest.raises(UnsupportedEditorError, match="layer_skip"):
        gp.trace(editor, image, INSTRUCTION)


@pytest.mark.parametrize("backend", ["_native_math", "_native_flash"])
def test_any_native_kernel_is_captured(editor, image, backend):
    bare = gp.trace(editor, image, INSTRUCTION, "circle")
    try:
        editor.denoiser.set_attention_backend(backend)
        trace = gp.trace(editor, image, INSTRUCTION, "circle")
    finally:
        editor.denoiser.set_attention_backend("native")  # the choice is global
    for site, maps in trace.attention.items():
        torch.testing.assert_close(maps, bare.attention[site], atol=1e-5, rtol=0)


def test_the_tokens_of_an_adapter_are_not_taken_for_the_text():
    layout = Layout({"noise": ((4, 4),)}, text=7, joint=False)

    def call(keys):
        return Attention(torch.ones(1, 1, 16, 8), *(torch.ones(1, 1, keys, 8),) * 2)

    assert places_of(layout, call(7), cross=True).text == slice(0, 7)
    assert places_of(layout, call(4), cross=True) is None
    assert places_of(layout, call(16), cross=False).image == slice(0, 16)
    joint = Layout({"noise": ((4, 4),)}, text=7, joint=True)
    assert places_of(joint, call(23), cross=False) is None


def test_a_kernel_that_bypasses_sdpa_is_told(editor, image):
    class Bypass:
        _attention_backend = "flash_hub"

        def __call__(
            self, attn, hidden_states, encoder_hidden_states=None, mask=None, image_rotary_emb=None
        ):
            if encoder_hidden_states is None:
                return hidden_states
            return hidden_states, encoder_hidden_states

    for block in editor.denoiser.transformer_blocks:
        block.attn.processor = Bypass()
    with pytest.raises(SilentSiteError, match=r"flash_hub.* may bypass it \(set the native one\)"):
        gp.trace(editor, image, INSTRUCTION)
    assert gp.trace(editor, image, INSTRUCTION, attention=False).hidden


def test_half_precision_is_captured(image):
    for dtype in (torch.bfloat16, torch.float16):
        pipeline = testing.kontext().to(dtype)
        trace = gp.trace(gp.load_editor(pipeline), image, INSTRUCTION, "circle")
        assert all(maps.dtype == torch.float32 for maps in trace.attention.values())
        assert all(hidden.dtype == torch.float32 for hidden in trace.hidden.values())


def test_an_interrupt_leaves_no_mode_behind(editor, image):
    def interrupt(*_):
        raise KeyboardInterrupt

    handle = editor.denoiser.transformer_blocks[1].attn.to_k.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        gp.trace(editor, image, INSTRUCTION)
    handle.remove()
    assert torch._C._len_torch_function_stack() == 0
    assert gp.trace(editor, image, INSTRUCTION).hidden
