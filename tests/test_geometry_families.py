"""A dot at a pixel is found under the token that the geometry says, in what is really encoded."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

import ground_probe as gp
from ground_probe import testing
from ground_probe.errors import InputError, UnsupportedEditorError

# The Euler schedulers of diffusers 0.42.1 under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIZES = [(480, 640), (640, 427), (333, 517), (1500, 1100), (96, 300)]
LARGE_KONTEXT = {"FluxKontext 1 MP": lambda: testing.kontext(levels=4, sample_size=1024)}


WITHOUT = {"DreamLite"}  # noise and reference lie side by side in one grid
PIPELINES = LARGE_KONTEXT | {k: v for k, v in testing.BUILDERS.items() if k not in WITHOUT}


@pytest.fixture(scope="module", params=PIPELINES)
def editor(request):
    return gp.load_editor(PIPELINES[request.param]())


class Encoded(Exception):
    pass


def encoded(editor, image, monkeypatch) -> np.ndarray:
    """The pixels that the pipeline hands to its autoencoder, (height, width)."""

    def encode(pixels, *args, **kwargs):
        raise Encoded(pixels)

    with monkeypatch.context() as patched:
        patched.setattr(editor.pipeline.vae, "encode", encode)
        with pytest.raises(Encoded) as caught:
            name = editor.family.name
            told = testing.INSTRUCTIONS.get(name, testing.INSTRUCTION)
            arguments = editor.arguments(image, told)
            more = testing.ARGUMENTS.get(editor.family.name, {})
            editor.pipeline(**arguments | more, num_inference_steps=2)
    pixels = caught.value.args[0]
    return pixels.reshape(-1, *pixels.shape[-2:])[:3].float().mean(0).numpy()


@pytest.mark.parametrize("size_px", SIZES)
def test_a_dot_lies_under_its_token_both_ways(editor, size_px, monkeypatch):
    height, width = size_px
    geometry = editor.geometry(Image.new("RGB", (width, height)))
    rows, cols = geometry.grid
    token_px = editor.family.token_px(editor.pipeline)
    for row, col in ((rows - 1, 0), (rows // 2, cols - 1)):
        x_px, y_px = geometry.pixel_of(row, col)
        assert geometry.token_of(x_px, y_px) == (row, col)
        image = Image.new("RGB", (width, height))
        radius = max(2, min(geometry.token_size_px) / 3)
        box = [x_px - radius, y_px - radius, x_px + radius, y_px + radius]
        ImageDraw.Draw(image).ellipse(box, fill="white")
        pixels = encoded(editor, image, monkeypatch)
        assert pixels.shape == (rows * token_px, cols * token_px)
        weight = np.clip(pixels - pixels.min() - 0.5, 0, None)
        found = [(weight * axis).sum() / weight.sum() for axis in np.indices(pixels.shape)]
        assert tuple(int(at // token_px) for at in found) == (row, col), (x_px, y_px)


@pytest.mark.parametrize("size_px", [(50, 20_000), (20_000, 50), (9, 2_000), (1, 1), (63, 63)])
def test_an_extreme_image_has_tokens_or_is_refused_in_a_sentence(editor, size_px, monkeypatch):
    image = Image.new("RGB", size_px[::-1])
    try:
        geometry = editor.geometry(image)
    except InputError as error:
        assert "pad it" in str(error)
        told = testing.INSTRUCTIONS.get(editor.family.name, testing.INSTRUCTION)
        with pytest.raises(InputError, match="pad it"):
            editor.arguments(image, told)
        return
    assert min(geometry.grid) >= 1
    covered = geometry.to_pixels(np.ones(geometry.grid))
    assert covered.shape == size_px and covered.max() == pytest.approx(1)
    pixels = encoded(editor, image, monkeypatch)
    token_px = editor.family.token_px(editor.pipeline)
    assert pixels.shape == (geometry.grid[0] * token_px, geometry.grid[1] * token_px)


def test_the_transform_of_an_unknown_pipeline_is_not_guessed():
    from diffusers import FluxImg2ImgPipeline

    components = testing.kontext().components
    pipeline = FluxImg2ImgPipeline(**components)
    with pytest.warns(UserWarning, match="not in the registry.*no geometry"):
        editor = gp.load_editor(pipeline)
    with pytest.raises(UnsupportedEditorError, match="add a `Family` with its `fit`"):
        editor.geometry(Image.new("RGB", (8, 8)))
