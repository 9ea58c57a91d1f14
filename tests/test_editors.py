"""Editors: loading, calling, and what is said when that cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ground_probe as gp
from ground_probe import testing
from ground_probe.capture.layout import layout_of
from ground_probe.capture.sites import attentions_of, blocks_of
from ground_probe.editors import family_of
from ground_probe.errors import (
    InputError,
    MissingWeightsError,
    SilentSiteError,
    UnsupportedEditorError,
)

CONFIGS = Path(__file__).parents[1].parent / "shared" / "data" / "model-configs" / "FLUX.1-dev"
# The Euler schedulers of diffusers 0.42.1 under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
INSTRUCTION = "make the red circle blue"


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("kontext")
    testing.kontext().save_pretrained(path)
    return path


def test_a_saved_folder_loads_as_the_same_editor(folder, image):
    editor = gp.load_editor(folder, device="cpu")
    assert editor.family.name == "FluxKontext" and editor.name == str(folder)
    assert editor.device == torch.device("cpu") and editor.dtype == torch.float32
    original = gp.load_editor(testing.kontext())
    assert editor.revision == original.revision, "every weight and choice is the same"
    saved = gp.trace(editor, image, INSTRUCTION, "circle")
    made = gp.trace(original, image, INSTRUCTION, "circle")
    # Weights mapped from a file need not be aligned, so kernels may round otherwise.
    for site in made.hidden:
        torch.testing.assert_close(saved.hidden[site], made.hidden[site], rtol=0, atol=1e-5)
    half = gp.load_editor(folder, device="cpu", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16


def test_an_edit_has_the_images_size_and_its_seed_decides_the_noise(image):
    editor = gp.load_editor(testing.kontext())
    edits = [np.asarray(editor.edit(image, INSTRUCTION, seed, steps=2)) for seed in (0, 0, 1)]
    assert edits[0].shape == (48, 80, 3)
    assert (edits[0] == edits[1]).all() and (edits[0] != edits[2]).any()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_an_image_of_any_mode_is_given_as_rgb(image, mode):
    editor = gp.load_editor(testing.kontext())
    assert editor.arguments(image.convert(mode), INSTRUCTION)["image"].mode == "RGB"


def test_guidance_is_off_only_where_it_only_costs_time(image):
    editor = gp.load_editor(testing.instruct_pix2pix())
    assert editor.arguments(image, INSTRUCTION)["guidance_scale"] == 1.0
    assert "guidance_scale" not in editor.arguments(image, INSTRUCTION, guided=True)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no-such-model", "give 'tiny', an existing folder or a hub id"),
        ("./no/such/folder", "no model"),
        ("/etc", "has no model_index.json"),
    ],
)
def test_weights_that_are_not_there_are_named(model, message):
    with pytest.raises(MissingWeightsError, match=message):
        gp.load_editor(model)


def test_pipelines_that_cannot_work_are_refused_with_the_reason():
    class GlmImagePipeline:
        pass

    class Text2Image:
        def __call__(self, prompt):
            pass

    with pytest.raises(UnsupportedEditorError, match="never enters the denoiser"):
        gp.load_editor(GlmImagePipeline())
    with pytest.raises(UnsupportedEditorError, match="takes no `image` and `prompt`"):
        family_of(Text2Image())


def test_a_subclass_keeps_its_family_and_a_refused_one_its_reason():
    from diffusers import FluxKontextPipeline, OmniGenPipeline

    class Mine(FluxKontextPipeline):
        pass

    class Other(OmniGenPipeline):
        pass

    editor = gp.load_editor(Mine(**testing.kontext().components))
    assert editor.family.name == "FluxKontext"
    with pytest.raises(UnsupportedEditorError, match="Other cannot be captured: its denoiser emb"):
        family_of(object.__new__(Other))


def test_a_family_of_one_s_own_is_registered(image, monkeypatch):
    from diffusers import FluxImg2ImgPipeline

    from ground_probe.editors import Fit, families, models

    monkeypatch.setattr(families, "_registered", [])
    mine = gp.Family(
        name="Mine",
        pipeline="FluxImg2ImgPipeline",
        fit=lambda pipe, size_px: Fit((64, 64)),
        streams=("noise", "text"),
        arguments=lambda pipe, native: {"max_sequence_length": 24, "strength": 1.0},
    )
    gp.register_family(mine)
    pipeline = FluxImg2ImgPipeline(**testing.kontext().components)
    editor = gp.load_editor(pipeline)
    assert editor.family is mine and editor.geometry(image).grid == (8, 8)
    assert editor.arguments(image, INSTRUCTION)["strength"] == 1.0
    assert next(row for row in models() if row["name"] == "Mine")["geometry"] == "yes"
    kontext = gp.Family(name="Better", pipeline="FluxKontextPipeline", fit=mine.fit)
    gp.register_family(kontext)
    assert family_of(testing.kontext()) is kontext


@pytest.mark.parametrize("name", testing.BUILDERS)
def test_segmentation_works_where_the_list_of_models_says_so(name, monkeypatch):
    from ground_probe.editors import models

    testing.smaller_images(monkeypatch)
    row = next(row for row in models() if row["name"] == name)
    editor = gp.load_editor(testing.BUILDERS[name]())
    photo, more = Image.effect_noise((160, 96), 80), testing.ARGUMENTS.get(name, {})
    if row["segmentation"] == "yes":
        assert gp.segment(editor, photo, "the circle", pipeline_kwargs=more).mask.shape == (96, 160)
    else:
        with pytest.raises((InputError, UnsupportedEditorError), match=r"not known|is not told"):
            gp.segment(editor, photo, "the circle", pipeline_kwargs=more)


def test_a_pipeline_that_is_not_known_is_derived_as_far_as_possible(image):
    """Flux image-to-image has the same denoiser and no reference: only its noise is there."""
    from diffusers import FluxImg2ImgPipeline

    pipeline = FluxImg2ImgPipeline(**testing.kontext().components)
    pipeline.set_progress_bar_config(disable=True)
    with pytest.warns(UserWarning, match="not known are how the image is brought"):
        editor = gp.load_editor(pipeline)
    arguments = {"height": 64, "width": 64, "max_sequence_length": 24, "strength": 1.0}
    with pytest.warns(UserWarning, match="not in the registry"):
        trace = gp.trace(
            editor, image, INSTRUCTION, "red circle", num_steps=2, pipeline_kwargs=arguments
        )
    assert {stream for _, _, stream in trace.hidden} == {"noise"}
    assert trace.phrase_tokens == ("red", "circle")
    with pytest.raises(UnsupportedEditorError, match=r"its noise grid is \(\(8, 8\),\)"):
        trace.grid("noise")
    with (
        pytest.warns(UserWarning, match="not in the registry"),
        pytest.raises(InputError, match="no 'reference' tokens"),
    ):
        gp.trace(editor, image, INSTRUCTION, streams="reference", pipeline_kwargs=arguments)


def test_misuse_of_an_editor_is_named(image):
    editor = gp.load_editor(testing.kontext())
    with pytest.raises(InputError, match="choose None, 'model' or 'sequential'"):
        gp.load_editor(editor.pipeline, offload="disk")
    with pytest.raises(InputError, match="give a PIL image"):
        editor.arguments("photo.jpg", INSTRUCTION)
    with pytest.raises(InputError, match="say what to change"):
        editor.arguments(image, "  ")
    with pytest.raises(InputError, match="instruction ' ' is empty"):
        gp.trace(editor, image, " ", attention=False)
    with pytest.raises(InputError, match="one image and one instruction"):
        gp.trace(editor, image, INSTRUCTION, pipeline_kwargs={"num_images_per_prompt": 2})
    with (
        pytest.raises(SilentSiteError, match="inside the `with` block"),
        gp.capture(editor.pipeline),
    ):
        pass
    unet = gp.load_editor(testing.sdxl_instruct_pix2pix())
    with pytest.raises(InputError, match="needs a flow-matching scheduler"):
        gp.trace(unet, image, INSTRUCTION, prediction=True)


def test_a_prompt_that_is_not_the_instruction_is_told(image):
    editor = gp.load_editor(testing.kontext())
    arguments = editor.arguments(image, "remove the car")
    capturing = gp.capture(editor.pipeline, attention_to=(INSTRUCTION, None))
    with (
        pytest.raises(gp.errors.PhraseError, match="reached no fast tokenizer as it is"),
        capturing,
    ):
        editor.pipeline(**arguments)


@pytest.mark.skipif(not CONFIGS.is_dir(), reason=f"{CONFIGS} is not there")
@pytest.mark.parametrize(
    ("size_px", "grid"),
    [((1024, 1024), (64, 64)), ((1568, 672), (98, 42)), ((672, 1568), (42, 98))],
)
def test_the_full_size_structure_resolves_on_the_meta_device(size_px, grid):
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxKontextPipeline,
        FluxTransformer2DModel,
    )
    from transformers import AutoTokenizer

    with torch.device("meta"):
        transformer = FluxTransformer2DModel.from_config(
            FluxTransformer2DModel.load_config(CONFIGS / "transformer")
        )
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(CONFIGS / "vae"))
    tokenizer_2 = AutoTokenizer.from_pretrained(CONFIGS / "tokenizer_2")
    pipeline = FluxKontextPipeline(
        FlowMatchEulerDiscreteScheduler.from_pretrained(CONFIGS / "scheduler"),
        vae, None, None, None, tokenizer_2, transformer,
    )  # fmt: skip
    assert sum(p.numel() for p in transformer.parameters()) > 11.8e9
    blocks = blocks_of(transformer)
    assert len(blocks) == 57 and all(list(attentions_of(b)) == ["attn"] for b in blocks.values())
    assert list(blocks)[18:20] == ["transformer_blocks.18", "single_transformer_blocks.0"]
    editor = gp.Editor(pipeline, family_of(pipeline), "FLUX.1-Kontext-dev")
    image = Image.new("RGB", size_px[::-1])
    assert editor.geometry(image).grid == grid
    arguments = editor.arguments(image, INSTRUCTION)
    assert (arguments["height"], arguments["width"]) == size_px
    assert arguments["max_sequence_length"] == 512

    ids = [pipeline._prepare_latent_image_ids(1, *grid, "cpu", torch.float32) for _ in range(2)]
    ids[1][:, 0] = 1
    tokens = grid[0] * grid[1]
    given = {
        "hidden_states": torch.empty(1, 2 * tokens, 64, device="meta"),
        "encoder_hidden_states": torch.empty(1, 512, 4096, device="meta"),
        "img_ids": torch.cat(ids),
    }
    layout = layout_of(transformer, given, text_first=True)
    assert layout.grids == {"noise": (grid,), "reference": (grid,)}
    assert layout.text + layout.image == 512 + 2 * tokens
    assert 512 + 2 * tokens == 8704 or size_px != (1024, 1024)

    if size_px != (1024, 1024):
        return
    # One forward of all 57 blocks, in shapes alone.
    transformer.pos_embed.register_forward_hook(lambda *call: [x.to("meta") for x in call[-1]])
    capturing = gp.capture(
        pipeline, streams=("text", "noise", "reference"), reduce=lambda h: torch.tensor(h.shape)
    )
    with capturing as captured, torch.no_grad():
        transformer(
            **given,
            timestep=torch.ones(1, device="meta"),
            guidance=torch.ones(1, device="meta"),
            pooled_projections=torch.empty(1, 768, device="meta"),
            txt_ids=torch.zeros(512, 3),
        )
    assert len(captured.hidden) == 57 * 3
    for (_, _, stream), shape in captured.hidden.items():
        assert shape.tolist() == [layout.tokens(stream), 3072]
