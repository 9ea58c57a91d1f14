"""Propagated maps, held against products of whole matrices, and attention outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import ground_probe as gp
from ground_probe import testing
from ground_probe.capture.kernel import Attention
from ground_probe.errors import InputError, SilentSiteError
from ground_probe.testing.check import Witness, softmax

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def editor():
    return gp.load_editor(testing.kontext())


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 160, 3), dtype=np.uint8))


def trace_of(editor, image, phrase="red circle", **wanted):
    return gp.trace(editor, image, testing.INSTRUCTION, phrase, num_steps=2, **wanted)


def witnessed(editor, image):
    """The attention of every module of a plain run, in float64."""
    arguments = editor.arguments(image, testing.INSTRUCTION)
    torch.manual_seed(0)  # JoyImageEdit draws its reference's latents from the global generator
    with torch.no_grad(), Witness(editor.denoiser) as witness:
        editor.pipeline(**arguments, num_inference_steps=2, output_type="latent")
    row = editor.family.rows.index("cond")
    return {at: softmax(call, row) for at, call in witness.calls.items()}


@pytest.mark.parametrize("build", [testing.kontext, testing.joy_edit])
def test_a_map_is_carried_on_by_the_attention_within_its_stream(build, image):
    editor = gp.load_editor(build())
    torch.manual_seed(0)
    trace = trace_of(editor, image, propagate=2)
    start = trace.layout.within_sequence()[1].start
    for (block, _), whole in witnessed(editor, image).items():
        for stream in trace.layout.grids:
            at = trace.layout.within_image(stream)
            rows = slice(start + at.start, start + at.stop)
            among = whole[:, rows, rows] / whole[:, rows, rows].sum(-1, keepdim=True)
            expected = among @ (among @ trace.attention[block, 0][:, at].double())
            carried = trace.propagated[block, 0, stream].double()
            torch.testing.assert_close(carried, expected, atol=1e-5, rtol=0)


def test_a_unets_maps_are_carried_on_by_its_finest_self_attention(image):
    editor = gp.load_editor(testing.instruct_pix2pix())
    trace = trace_of(editor, image, propagate=2)
    own = [whole for (_, module), whole in witnessed(editor, image).items() if module == "attn1"]
    finest = max(whole.shape[-1] for whole in own)
    among = torch.stack([whole.mean(0) for whole in own if whole.shape[-1] == finest]).mean(0)
    for block in trace.blocks:
        maps = trace.attention[block, 0].double().mean(0)
        grid = maps.T.reshape(1, -1, *trace.layout.grid_of(len(maps)))
        maps = F.interpolate(grid, trace.layout.grid_of(finest), mode="bilinear")[0].flatten(1).T
        carried = trace.propagated[block, 0, "noise"][0].double()
        torch.testing.assert_close(carried, among @ (among @ maps), atol=1e-5, rtol=0)


def test_propagation_is_averaged_after_each_head_carried_its_own(editor, image):
    heads = trace_of(editor, image, propagate=1)
    mean = trace_of(editor, image, propagate=1, attention="mean")
    only = trace_of(editor, image, propagate=1, streams=("reference",))
    for site, maps in heads.propagated.items():
        torch.testing.assert_close(mean.propagated[site], maps.mean(0, keepdim=True))
        if site[2] == "reference":
            assert torch.equal(only.propagated[site], maps)
    assert {site[2] for site in only.propagated} == {"reference"}


def test_more_words_than_a_head_is_wide_are_carried_in_parts():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 3, 20, 8, generator=generator)
    maps = torch.rand(1, 3, 20, 19, generator=generator)
    among = (query.double() @ key.double().mT * 8**-0.5).softmax(-1)
    carried = Attention(query, key, key).carry(maps)
    assert carried.shape == maps.shape
    torch.testing.assert_close(carried.double(), among @ maps.double(), atol=1e-6, rtol=1e-5)
    tiny = Attention(query.half(), key.half(), key.half()).carry(maps * 1e-9)
    torch.testing.assert_close(tiny.double(), among @ maps.double() * 1e-9, atol=0, rtol=1e-2)


def test_a_capture_that_propagates_leaves_the_output_bit_for_bit(editor, image):

    def run():
        given = editor.arguments(image, testing.INSTRUCTION) | {"output_type": "latent"}
        return editor.pipeline(**given, num_inference_steps=2).images

    bare = run()
    with gp.capture(
        editor.pipeline, attention_to="circle", propagate=1, attention_output=True, stop=False
    ) as captured:
        output = run()
    assert captured.propagated and captured.attention_output
    assert torch.equal(output, bare) and torch.equal(run(), bare)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"propagate": -1}, "number of rounds"),
        ({"propagate": 1, "attention": False}, "not captured"),
    ],
)
def test_rounds_that_make_no_sense_are_refused(editor, image, wanted, message):
    with pytest.raises(InputError, match=message):
        trace_of(editor, image, **wanted)


def test_a_unet_whose_text_is_not_attended_to_has_nothing_to_carry(image):
    unet = gp.load_editor(testing.instruct_pix2pix())
    with pytest.raises(SilentSiteError, match="no such attention passed"):
        trace_of(unet, image, blocks="*attn1", propagate=1)
