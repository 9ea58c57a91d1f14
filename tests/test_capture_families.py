"""Every family of the registry, held against a tiny random instance of its real pipeline."""

from __future__ import annotations

import gc
import re
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.overrides import TorchFunctionMode

import ground_probe as gp
from ground_probe import testing
from ground_probe.capture.sites import attentions_of, blocks_of
from ground_probe.editors import FAMILIES, family_of, models
from ground_probe.editors.families import REFUSED
from ground_probe.errors import InputError, UnsupportedEditorError

# The Euler schedulers of diffusers 0.42.1 under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CROSS = ("attn2", "cross_attention")
SELF = ("attn1", "self_attention")


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


def extra(editor):
    return testing.ARGUMENTS.get(editor.family.name, {})


def instruction(editor):
    return testing.INSTRUCTIONS.get(editor.family.name, testing.INSTRUCTION)


def trace_of(editor, image, phrase="circle", **wanted):
    more = extra(editor) | wanted.pop("pipeline_kwargs", {})
    given = {"num_steps": 2, "pipeline_kwargs": more} | wanted
    torch.manual_seed(0)  # JoyImageEdit draws its reference's latents from the global generator
    return gp.trace(editor, image, instruction(editor), phrase, **given)


def run(editor, image, steps=2, **arguments):
    given = editor.arguments(image, instruction(editor)) | extra(editor) | arguments
    given |= {"output_type": "latent", "return_dict": False}
    torch.manual_seed(0)
    return editor.pipeline(**given, num_inference_steps=steps)[0]


def row_of(editor):
    """The conditional row of an unguided call: some families always make all three."""
    always = editor.family.name == "DreamLite"
    return editor.family.rows.index("cond") if always else 0


class Heard(TorchFunctionMode):
    """Queries, keys, masks and block of every attention in the denoiser's blocks, in order."""

    def __init__(self, denoiser):
        super().__init__()
        self.calls, self.at, self.handles = [], None, []
        for name, block in blocks_of(denoiser).items():
            for inside, module in attentions_of(block).items():
                before = module.register_forward_pre_hook(
                    lambda *_, at=(name, inside): setattr(self, "at", at)
                )
                after = module.register_forward_hook(lambda *_: setattr(self, "at", None))
                self.handles += [before, after]

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()
        return super().__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self.at:
            named = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | kwargs
            self.calls.append((self.at, named))
        return func(*args, **kwargs)


def softmax(call, row=0):
    """The full attention in float64, repeated heads and masks included."""
    query, key = call["query"][row].double(), call["key"][row].double()
    key = key.repeat_interleave(len(query) // len(key), dim=0)
    logits = query @ key.transpose(-1, -2) * (call.get("scale") or query.shape[-1] ** -0.5)
    mask = call.get("attn_mask")
    if mask is not None:
        mask = mask[row] if mask.ndim == 4 else mask
        logits = (
            logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        )
    return logits.softmax(-1)


def test_every_family_of_the_registry_is_built_and_listed():
    names = [family.name for family in FAMILIES]
    assert list(testing.BUILDERS) == names == [row["name"] for row in models()]
    assert all(row["weights"] in row["sources"] for row in models())


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maps_and_states_are_those_of_a_plain_run(editor, image, dtype):
    if dtype != torch.float32:
        if editor.family.name == "Kandinsky5I2I":
            pytest.skip("its class computes times in float32 and is not cast as a whole")
        editor = gp.load_editor(testing.BUILDERS[editor.family.name]().to(dtype))
    limit = 1e-5 if dtype == torch.float32 else 1e-3
    seen = {}
    handles = [
        block.register_forward_hook(lambda *call, name=name: seen.setdefault(name, call[-1]))
        for name, block in blocks_of(editor.denoiser).items()
    ]
    with Heard(editor.denoiser) as heard:
        run(editor, image)
    for handle in handles:
        handle.remove()
    trace = trace_of(editor, image, "red circle", affinity=[0, 7])
    assert trace.phrase_tokens == ("red", "circle")
    assert set(trace.blocks) == set(seen) and len(trace.attention) == len(seen)
    joint, row = trace.layout.joint, row_of(editor)
    text_at, image_at = trace.layout.within_sequence() if joint else (slice(0, None), slice(None))
    keys = [text_at.start + key for key in trace.phrase_keys]
    first = {}
    for (block, inside), call in heard.calls:
        first.setdefault((block, inside), call)
    for (block, inside), call in first.items():
        expected = softmax(call, row).float()
        pairs = []
        if joint or inside in CROSS:
            pairs.append((trace.attention[block, 0], expected[:, image_at][..., keys]))
        if joint:
            pairs.append((trace.attention_from_text[block, 0], expected[:, keys][..., image_at]))
        if joint or inside in SELF:
            rows = expected[:, image_at][:, [0, 7]][..., image_at]
            pairs.append((trace.affinity[block, 0], rows))
        for got, plain in pairs:
            torch.testing.assert_close(got, plain, atol=limit, rtol=0)
    for block, output in seen.items():
        parts = output if isinstance(output, tuple) else (output,)
        if len(parts) == 2 and not trace.layout.text_first:
            assert parts[0].shape[1] == trace.layout.image
        parts = torch.cat(parts, 1)[row][image_at]
        states = torch.cat([trace.hidden[block, 0, s] for s in trace.layout.grids])
        assert torch.equal(states, parts.float())


def test_the_output_is_the_same_bit_for_bit_with_and_after_a_capture(editor, image):
    bare = run(editor, image)
    outputs = []
    step = editor.pipeline.scheduler.step
    with gp.capture(
        editor.pipeline, steps=(1,), streams=(), attention_to=(instruction(editor), "circle"),
        propagate=1, stop=False,
    ) as captured:  # fmt: skip
        outputs.append(run(editor, image))
    assert captured.attention and editor.pipeline.scheduler.step == step
    trace_of(editor, image)
    outputs.append(run(editor, image))
    assert all(torch.equal(output, bare) for output in outputs)


@pytest.mark.parametrize("name", testing.BUILDERS)
def test_nothing_holds_the_model_afterwards(name, image):
    editor = gp.load_editor(testing.BUILDERS[name]())
    trace = trace_of(editor, image, blocks="*.0")
    denoiser = weakref.ref(editor.denoiser)
    del editor
    gc.collect()
    assert denoiser() is None and trace.hidden


@pytest.mark.parametrize("stream", ["text", "image"])
def test_one_perturbed_token_moves_the_keys_that_the_entry_says(editor, image, stream):
    """The order of the streams in a family's entry, from the outside."""
    name, row = {"text": "encoder_hidden_states", "image": "hidden_states"}[stream], row_of(editor)

    def keys(token=None):
        def perturb(module, args, kwargs):
            given = kwargs[name].clone()
            if given.ndim == 6:  # items, channels, frames, rows, columns: the first item's corner
                given[0, 0, ..., -1, -1] += 1
            else:
                given[row, token] += 1
            return args, kwargs | {name: given}

        handles = []
        if token is not None:
            handles.append(editor.denoiser.register_forward_pre_hook(perturb, with_kwargs=True))
        with Heard(editor.denoiser) as heard:
            run(editor, image)
        for handle in handles:
            handle.remove()
        return next(call["key"][row] for (_, inside), call in heard.calls if inside not in SELF)

    trace = trace_of(editor, image)
    if not trace.layout.joint and stream == "image":
        pytest.skip("its one image stream is all of its queries")
    text_at, image_at = slice(0, None), None
    if trace.layout.joint:
        text_at, image_at = trace.layout.within_sequence()
    token = trace.phrase_keys[0] if stream == "text" else trace.layout.image - 1
    change = (keys(token) - keys()).abs().sum((0, -1))
    moved = [token + (text_at if stream == "text" else image_at).start]
    if editor.family.name == "Kandinsky5I2I":
        assert [change.argmax()] == moved  # its text blocks mix the tokens first
    else:
        assert change.nonzero().flatten().tolist() == moved


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
