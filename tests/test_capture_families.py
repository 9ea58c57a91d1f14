"""Every family of the registry, held against a tiny random instance of its real pipeline."""

from __future__ import annotations

import gc
import re
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import ground_probe as gp
from ground_probe import testing
from ground_probe.capture.sites import blocks_of
from ground_probe.editors import FAMILIES, families, family_of, models
from ground_probe.editors.families import REFUSED
from ground_probe.errors import (
    InputError,
    PhraseError,
    UnknownNameError,
    UnsupportedEditorError,
)

# The Euler schedulers of diffusers 0.42.1 under NumPy 2.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def smaller_images():
    with pytest.MonkeyPatch.context() as monkeypatch:
        testing.smaller_images(monkeypatch)
        yield


@pytest.fixture(scope="module", params=testing.BUILDERS)
def editor(request):
    return gp.load_editor(testing.BUILDERS[request.param]())


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8))


def trace_of(editor, image, phrase="circle", **wanted):
    name = editor.family.name
    more = testing.ARGUMENTS.get(name, {}) | wanted.pop("pipeline_kwargs", {})
    instruction = testing.INSTRUCTIONS.get(name, testing.INSTRUCTION)
    torch.manual_seed(0)  # JoyImageEdit draws its reference's latents from the global generator
    return gp.trace(editor, image, instruction, phrase, num_steps=2, pipeline_kwargs=more, **wanted)


def test_every_family_of_the_registry_is_built_and_listed():
    names = [family.name for family in FAMILIES]
    rows = models()
    assert list(testing.BUILDERS) == names == [row["name"] for row in rows[: len(names)]]
    assert all(row["weights"] in row["sources"] for row in rows[: len(names)])
    assert {row["name"]: row["refused"] for row in rows[len(names) :]} == REFUSED


def test_every_editing_pipeline_of_diffusers_is_known_or_refused_with_a_reason():
    import diffusers

    known = {family.pipeline for family in FAMILIES} | REFUSED.keys()
    assert all(hasattr(diffusers, name) for name in known)
    words = ("Edit", "Kontext", "InstructPix2Pix", "LEdits", "OmniGen")
    editing = {name for name in dir(diffusers) if any(word in name for word in words)}
    editing = {
        name for name in editing if "Pipeline" in name and not re.search("Modular|Output", name)
    }
    # These have no instruction: two prompts that differ, or a prompt and a concept to change.
    editing -= {"StableDiffusionDiffEditPipeline", "StableDiffusionModelEditingPipeline"}
    assert editing <= known, editing - known
    for name in REFUSED:
        with pytest.raises(UnsupportedEditorError, match=f"{name} cannot be captured: it"):
            family_of(object.__new__(getattr(diffusers, name)))


# (class, what is not the default of the weights' configuration): where a family says its size.
SIZES = {
    "FluxKontext": ("FluxTransformer2DModel", {"guidance_embeds": True}),
    "QwenImageEdit": ("QwenImageTransformer2DModel", {}),
    "InstructPix2Pix": ("UNet2DConditionModel", {"in_channels": 8, "cross_attention_dim": 768}),
    "InstructPix2PixXL": (
        "UNet2DConditionModel",
        {
            "in_channels": 8,
            "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
            "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
            "block_out_channels": (320, 640, 1280),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    ),
    "Flux2Klein": (
        "Flux2Transformer2DModel",
        {
            "num_layers": 5,
            "num_single_layers": 20,
            "num_attention_heads": 24,
            "joint_attention_dim": 7680,
            "guidance_embeds": False,
        },
    ),
    "Flux2": ("Flux2Transformer2DModel", {}),
    "LongCatImageEdit": (
        "LongCatImageTransformer2DModel",
        {"num_layers": 10, "num_single_layers": 20},
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_size_of_a_denoiser_is_what_its_class_has_at_that_configuration(name):
    import diffusers

    kind, config = SIZES[name]
    with torch.device("meta"):
        denoiser = getattr(diffusers, kind)(**config)
    counted = sum(p.numel() for p in denoiser.parameters()) / 1e9
    said = next(family.parameters_b for family in FAMILIES if family.name == name)
    assert counted == pytest.approx(said, rel=0.02)


LIMITS = {torch.float32: 1e-5, torch.bfloat16: 1e-3, torch.float16: 1e-3}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name in testing.BUILDERS for dtype in (torch.float32, torch.bfloat16)]
    + [("FluxKontext", torch.float16), ("InstructPix2Pix", torch.float16)],
    ids=str,
)
def test_a_family_is_what_its_entry_says(name, dtype):
    """States, attention outputs, maps, propagation, the order of the streams, the output."""
    pipeline = testing.BUILDERS[name]()
    if dtype != torch.float32:
        if name == "Kandinsky5I2I":
            pytest.skip("its class computes times in float32 and is not cast as a whole")
        pipeline = pipeline.to(dtype)
    testing.check_family(
        pipeline, testing.INSTRUCTIONS.get(name, testing.INSTRUCTION), "red circle",
        pipeline_kwargs=testing.ARGUMENTS.get(name), limit=LIMITS[dtype],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("FluxKontext", {"text_first": False}),
        ("JoyImageEdit", {"text_first": True}),
        ("DreamLite", {"rows": ("cond", "image_only", "uncond")}),
    ],
)
def test_an_entry_that_is_not_true_is_found(monkeypatch, name, wrong):
    entries = tuple(replace(f, **wrong) if f.name == name else f for f in FAMILIES)
    monkeypatch.setattr(families, "FAMILIES", entries)
    with pytest.raises((AssertionError, UnsupportedEditorError, PhraseError)):
        testing.check_family(testing.BUILDERS[name]())


@pytest.mark.parametrize("name", testing.BUILDERS)
def test_nothing_holds_the_model_afterwards(name, image):
    editor = gp.load_editor(testing.BUILDERS[name]())
    trace = trace_of(editor, image, blocks="*.0")
    denoiser = weakref.ref(editor.denoiser)
    del editor
    gc.collect()
    assert denoiser() is None and trace.hidden


def test_the_roles_of_guided_forwards(editor, image):
    name = editor.family.name
    guided = {
        "FluxKontext": {"negative_prompt": "cat", "true_cfg_scale": 2.0},
        "BriaFiboEdit": {"negative_prompt": "cat"},
        "Flux2": None,
    }.get(name, {})
    if guided is None:
        pytest.skip("guidance is embedded: there is only one forward")
    if name == "Flux2Klein":
        editor = gp.load_editor(testing.flux2(distilled=False))
    family = editor.family
    roles = family.rows if len(family.rows) > 1 else family.calls
    wanted = {"attention": False, "blocks": "*.0"}
    bare = trace_of(editor, image, **wanted)
    trace = trace_of(editor, image, roles=roles, pipeline_kwargs=guided, **wanted)
    for (block, step, stream), hidden in bare.hidden.items():
        cond = trace.hidden[block, step, stream, "cond"]
        torch.testing.assert_close(cond, hidden, atol=1e-5, rtol=1e-4)
        for role in set(roles) - {"cond"}:
            assert not torch.allclose(trace.hidden[block, step, stream, role], hidden, atol=1e-4)


def test_a_unet_has_one_image_stream_and_a_grid_for_each_level(image):
    editor = gp.load_editor(testing.instruct_pix2pix())
    assert [name.split("_")[0] for name in blocks_of(editor.denoiser)] == [
        "down", "down", "mid", "up", "up", "up", "up",
    ]  # fmt: skip
    trace = trace_of(editor, image, affinity="noise", mass=True)
    grids = {block: trace.grid("noise", block).grid for block in trace.blocks}
    assert set(grids.values()) == {(12, 20), (6, 10)}
    for block, (rows, cols) in grids.items():
        assert trace.attention[block, 0].shape[1] == rows * cols
    assert trace.grid("noise").grid == editor.geometry(image).grid
    assert sum(trace.mass("mid_block.attentions.0.transformer_blocks.0", 0).values()) > 0.999
    with pytest.raises(InputError, match=r"has no 'reference' tokens .* only noise"):
        trace_of(editor, image, streams=("reference",))
    only = trace_of(editor, image, blocks="mid_block*attn2", affinity=())
    assert len(only.attention) == 1
    with pytest.raises(UnknownNameError, match=r"unknown block 'down_blocks\.0"):
        only.grid("noise", trace.blocks[0])
