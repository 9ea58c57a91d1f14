from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ground_probe import photos
from ground_probe.errors import InputError


def test_exif_orientation_is_applied(tmp_path):
    lying = Image.new("RGB", (4, 2), "black")
    lying.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate clockwise by 90 degrees to see it upright
    lying.save(tmp_path / "a.png", exif=exif)
    upright = photos.read_photo(tmp_path / "a.png")
    assert upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 7, (7, 7, 7)),
        ("1", 1, (255, 255, 255)),
        ("LA", (0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 9, (9, 9, 9)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, colour, expected):
    Image.new(mode, (3, 2), colour).save(tmp_path / "a.png")
    photo = photos.read_photo(tmp_path / "a.png")
    assert photo.mode == "RGB" and photo.size == (3, 2)
    assert photo.getpixel((2, 1)) == expected


def test_a_palette_with_a_transparent_colour_is_laid_on_white(tmp_path):
    image = Image.new("P", (1, 1), 0)
    image.putpalette([9, 9, 9])
    image.save(tmp_path / "a.png", transparency=0)
    assert photos.read_photo(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no such file: .*none.jpg"):
        photos.read_photo(tmp_path / "none.jpg")
    with pytest.raises(InputError, match="no such file"):
        photos.read_photo(tmp_path)
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(InputError, match=r"text.png is no image that can be read"):
        photos.read_photo(tmp_path / "text.png")
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    (tmp_path / "torn.png").write_bytes(whole.read_bytes()[:900])
    with pytest.raises(InputError, match=r"torn.png is no image that can be read"):
        photos.read_photo(tmp_path / "torn.png")


def test_what_cannot_be_written_is_named_before_the_work(tmp_path):
    assert photos.check_target(tmp_path / "mask.png") == tmp_path / "mask.png"
    with pytest.raises(InputError, match=r"the name must end in .png"):
        photos.check_target(tmp_path / "mask")
    with pytest.raises(InputError, match=r"there is no folder .*/none"):
        photos.check_target(tmp_path / "none" / "mask.png")
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*taken.png: Is a directory"):
        photos.save_image(Image.new("L", (1, 1)), tmp_path / "taken.png")


def test_an_overlay_worked_by_hand():
    photo = Image.new("RGB", (5, 5), (100, 100, 100))
    mask = np.zeros((5, 5), dtype=bool)
    mask[1:4, 1:4] = True
    seen = np.asarray(photos.overlay(photo, mask))
    assert seen[0, 0].tolist() == [40, 40, 40]
    assert seen[1, 1].tolist() == [255, 255, 255]
    assert seen[2, 2].tolist() == [100, 100, 100]
    assert (np.asarray(photos.overlay(photo, np.zeros_like(mask))) == 40).all()
