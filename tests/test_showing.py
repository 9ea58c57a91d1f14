"""What a notebook shows of a segmentation and of a trace."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

import ground_probe as gp
from ground_probe import images, testing


@pytest.fixture(scope="module")
def editor():
    return gp.load_editor(testing.kontext())


@pytest.fixture(scope="module")
def photo():
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


def test_a_segmentation_shows_its_mask_on_the_photo(editor, photo):
    found = gp.segment(editor, photo, "the <b>red</b> circle")
    assert repr(found).startswith("Segmentation of 'the <b>red</b> circle': ")
    assert len(repr(found)) < 120 and "of 64 x 48 px" in repr(found)
    expected = images.overlay(photo, found.mask)
    assert np.array_equal(np.asarray(opened(found._repr_png_())), np.asarray(expected))
    assert "<b>" not in found._repr_html_() and "data:image/png" in found._repr_html_()


def test_a_mask_without_a_photo_is_shown_alone():
    mask = np.eye(4, dtype=bool)
    found = gp.Segmentation(mask, np.ones((2, 2)), np.ones((2, 2)), "it")
    assert (np.asarray(opened(found._repr_png_())) == mask * 255).all()


def test_a_large_photo_is_shown_small():
    photo, mask = Image.new("RGB", (2000, 1000)), np.zeros((1000, 2000), bool)
    found = gp.Segmentation(mask, np.ones((2, 2)), np.ones((2, 2)), "it", photo)
    assert opened(found._repr_png_()).size == (640, 320)


def test_a_trace_fits_in_ten_lines_and_shows_its_attention(editor, photo):
    trace = gp.trace(
        editor, photo, "make the red circle blue", "the red circle", steps=(0, 2), prediction=True
    )
    lines = repr(trace).splitlines()
    assert len(lines) <= 10 and max(map(len, lines)) < 140
    assert lines[0].startswith("Trace of 4 blocks (transformer_blocks.0, single_transformer")
    assert any(line.startswith("  attention: (") for line in lines)
    sheet = np.asarray(opened(trace._repr_png_()))
    heads, count = len(trace.attention[trace.blocks[0], 0]), len(trace.blocks)
    assert sheet.shape == (76 * heads - 4, 76 * count - 4, 3)
    maps = trace.attention[trace.blocks[1], 0][0, trace.image_tokens("reference")].sum(-1)
    rows, cols = trace.grid("reference").grid
    row, col = divmod(int(maps.argmax()), cols)
    y, x = int((row + 0.5) * 72 / rows), 76 + int((col + 0.5) * 72 / cols)
    assert sheet[y, x].tolist() == [253, 231, 36]  # the brightest of the scale
    assert re.search(r"step 0, reference tokens", trace._repr_html_())


def test_a_trace_without_attention_has_no_picture(editor, photo):
    trace = gp.trace(editor, photo, "make the red circle blue", attention=False)
    assert trace._repr_png_() is None and "<img" not in trace._repr_html_()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_unets_trace_shows_maps_of_several_grids(photo):
    trace = gp.trace(gp.load_editor(testing.instruct_pix2pix()), photo, "make the circle blue")
    assert opened(trace._repr_png_()).width == 76 * len(trace.blocks) - 4


def test_a_trace_of_nothing_can_be_printed():
    assert repr(gp.Trace()) == "Trace of 0 blocks (), steps "
    assert gp.Trace()._repr_png_() is None
