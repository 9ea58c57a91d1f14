"""Every family of the registry, held against a tiny random instance of its real pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_pipelines
import torch
import torch.nn.functional as F
from PIL import Image
from torch.overrides import TorchFunctionMode

import ground_probe as gp
from ground_probe.capture.sites import attentions_of, blocks_of
from ground_probe.editors import FAMILIES, models
from ground_probe.errors import InputError

# The Euler schedulers of diffusers 0.42.1 under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
INSTRUCTION = "make the red circle blue"


@pytest.fixture(scope="module", autouse=True)
def smaller_images():
    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny_pipelines.smaller_images(monkeypatch)
        yield


@pytest.fixture(scope="module", params=tiny_pipelines.BUILDERS)
def editor(request):
    return gp.load_editor(tiny_pipelines.BUILDERS[request.param]())


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8))


def extra(editor):
    return tiny_pipelines.ARGUMENTS.get(editor.family.name, {})


def run(editor, image, steps=2, **arguments):
    given = editor.arguments(image, INSTRUCTION) | extra(editor) | {"output_type": "latent"}
    return editor.pipeline(**given | arguments, num_inference_steps=steps).images


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
    assert list(tiny_pipelines.BUILDERS) == names == [row["name"] for row in models()]
    assert all(row["weights"] and row["licence"] for row in models())


def test_maps_and_states_are_those_of_a_plain_run(editor, image):
    seen = {}
    handles = [
        block.register_forward_hook(lambda *call, name=name: seen.setdefault(name, call[-1]))
        for name, block in blocks_of(editor.denoiser).items()
    ]
    with Heard(editor.denoiser) as heard:
        run(editor, image)
    for handle in handles:
        handle.remove()
    trace = gp.trace(
        editor, image, INSTRUCTION, "red circle", num_steps=2, affinity=[0, 7], **extra(editor)
    )
    assert trace.phrase_tokens == ("red", "circle")
    assert set(trace.blocks) == set(seen) and len(trace.attention) == len(seen)
    text, joint = trace.layout.text, trace.layout.joint
    image_at = slice(text, None) if joint else slice(None)
    keys = list(trace.phrase_keys)
    first = {}
    for (block, inside), call in heard.calls:
        first.setdefault((block, inside), call)
    for (block, inside), call in first.items():
        expected = softmax(call).float()
        if joint or inside == "attn2":
            got = trace.attention[block, 0]
            torch.testing.assert_close(got, expected[:, image_at][..., keys], atol=1e-6, rtol=1e-4)
        if joint:
            got = trace.attention_from_text[block, 0]
            torch.testing.assert_close(got, expected[:, keys][..., image_at], atol=1e-6, rtol=1e-4)
        if joint or inside == "attn1":
            rows = expected[:, image_at][:, [0, 7]][..., image_at]
            torch.testing.assert_close(trace.affinity[block, 0], rows, atol=1e-6, rtol=1e-4)
    for block, output in seen.items():
        parts = torch.cat([o for o in (output if isinstance(output, tuple) else (output,))], 1)[0]
        parts = parts[text:] if joint else parts
        states = torch.cat([trace.hidden[block, 0, s] for s in trace.layout.grids])
        assert torch.equal(states, parts)


def test_the_output_is_the_same_bit_for_bit_with_and_after_a_capture(editor, image):
    bare = run(editor, image)
    outputs = []
    decode = editor.pipeline.scheduler.step
    capturing = gp.capture(
        editor.pipeline, steps=(1,), attention=True, instruction=INSTRUCTION, streams=()
    )
    # The last block of the last step completes the capture: let it run on from there.
    capturing._capturing = False
    with capturing as captured:
        outputs.append(run(editor, image))
    assert captured.attention and editor.pipeline.scheduler.step == decode
    gp.trace(editor, image, INSTRUCTION, num_steps=2, **extra(editor))
    outputs.append(run(editor, image))
    assert all(torch.equal(output, bare) for output in outputs)


@pytest.mark.parametrize("stream", ["text", "image"])
def test_one_perturbed_token_moves_the_keys_that_the_entry_says(editor, image, stream):
    """The order of the streams in a family's entry, from the outside."""
    name = {"text": "encoder_hidden_states", "image": "hidden_states"}[stream]

    def keys(token=None):
        def perturb(module, args, kwargs):
            given = kwargs[name].clone()
            given[0, token] += 1
            return args, kwargs | {name: given}

        handles = []
        if token is not None:
            handles.append(editor.denoiser.register_forward_pre_hook(perturb, with_kwargs=True))
        with Heard(editor.denoiser) as heard:
            run(editor, image)
        for handle in handles:
            handle.remove()
        return next(call["key"][0] for (_, inside), call in heard.calls if inside != "attn1")

    trace = gp.trace(editor, image, INSTRUCTION, "circle", num_steps=2, **extra(editor))
    if not trace.layout.joint and stream == "image":
        pytest.skip("a UNet mixes pixels before its first attention")
    text_at, image_at = slice(0, None), None
    if trace.layout.joint:
        text_at, image_at = trace.layout.within_sequence()
    token = trace.phrase_keys[0] if stream == "text" else trace.layout.image - 1
    moved = (keys(token) != keys()).any(-1).any(0).nonzero().flatten().tolist()
    assert moved == [token + (text_at if stream == "text" else image_at).start]


def test_the_roles_of_guided_forwards(editor, image):
    name = editor.family.name
    guided = {
        "FluxKontext": {"negative_prompt": "cat", "true_cfg_scale": 2.0},
        "Flux2Klein": {},
        "Flux2": None,
    }.get(name, {})
    if guided is None:
        pytest.skip("guidance is embedded: there is only one forward")
    if name == "Flux2Klein":
        editor = gp.load_editor(tiny_pipelines.flux2(distilled=False))
    family = editor.family
    roles = family.rows if len(family.rows) > 1 else family.calls
    kwargs = {"attention": False, "blocks": "*.0", "num_steps": 2, **extra(editor)}
    bare = gp.trace(editor, image, INSTRUCTION, **kwargs)
    trace = gp.trace(editor, image, INSTRUCTION, roles=roles, **kwargs, **guided)
    for (block, step, stream), hidden in bare.hidden.items():
        cond = trace.hidden[block, step, stream, "cond"]
        torch.testing.assert_close(cond, hidden, atol=1e-5, rtol=1e-4)
        for role in roles[1:]:
            assert not torch.allclose(trace.hidden[block, step, stream, role], hidden, atol=1e-4)


def test_a_unet_has_one_image_stream_and_a_grid_for_each_level(image):
    editor = gp.load_editor(tiny_pipelines.instruct_pix2pix())
    assert [name.split("_")[0] for name in blocks_of(editor.denoiser)] == [
        "down", "down", "mid", "up", "up", "up", "up",
    ]  # fmt: skip
    trace = gp.trace(editor, image, INSTRUCTION, "circle", affinity="noise", mass=True)
    grids = {block: trace.grid("noise", block).grid for block in trace.blocks}
    assert set(grids.values()) == {(12, 20), (6, 10)}
    for block, (rows, cols) in grids.items():
        assert trace.attention[block, 0].shape[1] == rows * cols
    assert trace.grid("noise").grid == editor.geometry(image).grid
    assert sum(trace.mass("mid_block.attentions.0.transformer_blocks.0", 0).values()) > 0.999
    with pytest.raises(InputError, match=r"has no 'reference' tokens .* only noise"):
        gp.trace(editor, image, INSTRUCTION, streams=("reference",))
    only = gp.trace(editor, image, INSTRUCTION, blocks="mid_block*attn2", affinity=())
    assert len(only.attention) == 1
