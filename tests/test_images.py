"""One conversion of any image to RGB, within bounds; files written whole."""

from __future__ import annotations

import os
import re
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ground_probe as gp
from ground_probe import images
from ground_probe.datasets.sources import FileImage, decode
from ground_probe.errors import InputError


def test_exif_orientation_is_applied(tmp_path):
    lying = Image.new("RGB", (4, 2), "black")
    lying.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate clockwise by 90 degrees to see it upright
    lying.save(tmp_path / "a.png", exif=exif)
    upright = images.read_image(tmp_path / "a.png")
    assert upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("L", 7, (7, 7, 7)),
        ("1", 1, (255, 255, 255)),
        ("LA", (0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 9, (9, 9, 9)),
        ("I;16B", 257 * 9, (9, 9, 9)),
        ("I", 257 * 9, (9, 9, 9)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("P", 0, (0, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, color, expected):
    image = Image.new(mode, (3, 2), color)
    image.save(tmp_path / "a.tif")
    stored = decode(FileImage(str(tmp_path / "a.tif")))
    for photo in (images.to_rgb(image), images.read_image(tmp_path / "a.tif"), stored):
        assert photo.mode == "RGB" and photo.size == (3, 2) and not photo.info
        assert photo.getpixel((2, 1)) == expected


def test_a_palette_with_a_transparent_color_is_laid_on_white(tmp_path):
    image = Image.new("P", (1, 1), 0)
    image.putpalette([9, 9, 9])
    image.save(tmp_path / "a.png", transparency=0)
    assert images.read_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


def test_a_transparent_grey_of_16_bits_is_laid_on_white(tmp_path):
    Image.new("I;16", (1, 1), 257).save(tmp_path / "a.png", transparency=257)
    assert images.read_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("F", (1, 1)), "of floats, of no agreed range"),
        (Image.new("I", (1, 1), 70_000), r"not of 16 bits: scale it to 0\.\.65535"),
        (Image.new("L", (0, 1)), "no pixels"),
        (np.zeros((2, 2, 3)), "is a ndarray: give a PIL image"),
    ],
)
def test_what_has_no_agreed_range_is_refused(image, message):
    with pytest.raises(InputError, match=message):
        images.to_rgb(image)


def test_a_photo_that_lies_is_said_and_not_turned_in_memory(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 2)).save(tmp_path / "a.jpg", exif=exif)
    said = pytest.warns(UserWarning, match="orientation 6 is not applied")
    with Image.open(tmp_path / "a.jpg") as lying, said:
        assert images.to_rgb(lying).size == (4, 2)
    assert images.to_rgb(images.read_image(tmp_path / "a.jpg")).size == (2, 4)  # in silence


@pytest.mark.parametrize("mode", ["LA", "I;16", "CMYK", "P"])
def test_library_command_line_and_data_sets_give_the_editor_equal_pixels(mode, tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2**16, (16, 16)).astype(np.uint16)
    colors = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    if mode == "I;16":
        photo = Image.fromarray(noise)
    elif mode == "LA":
        photo = colors.convert("LA")
        photo.putalpha(Image.fromarray((noise >> 8).astype(np.uint8)))
    else:
        photo = colors.convert(mode)
    path = tmp_path / "a.tif"
    photo.save(path)
    editor = gp.load_editor("tiny", device="cpu")
    sources = photo, images.read_image(path), decode(FileImage(str(path)))
    given = [np.asarray(editor.arguments(each, "remove it")["image"]) for each in sources]
    assert given[0].std() > 20
    np.testing.assert_array_equal(given[0], given[1])
    np.testing.assert_array_equal(given[0], given[2])


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no such file: .*none.jpg"):
        images.read_image(tmp_path / "none.jpg")
    with pytest.raises(InputError, match="is no regular file"):
        images.read_image(tmp_path)
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(InputError, match=r"text.png is no sound image: none of the formats"):
        images.read_image(tmp_path / "text.png")
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    (tmp_path / "torn.png").write_bytes(whole.read_bytes()[:900])
    with pytest.raises(InputError, match=r"torn.png is no sound image"):
        images.read_image(tmp_path / "torn.png")


@pytest.mark.parametrize("name", ["fifo", "/dev/zero", "n" * 300, "nul\0"])
def test_what_is_no_regular_file_is_refused_unopened(tmp_path, name):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match=r"no regular file|cannot be read|no such file"):
        images.read_image(tmp_path / name)


def test_an_image_of_a_billion_pixels_is_refused_undecoded(tmp_path):
    def chunk(kind, data):
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(10**6)))
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"bomb.png is no sound image"):
        images.read_image(tmp_path / "bomb.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_file_that_is_too_large_is_refused_unread(tmp_path):
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(InputError, match=r"large.png is of 1,073,741,824 bytes, at most"):
        images.read_image(tmp_path / "large.png")


def test_a_full_disk_leaves_the_old_mask_whole(tmp_path):
    path = tmp_path / "mask.png"
    Image.new("L", (8, 8), 7).save(path)
    text = f"""
import resource, numpy as np
from PIL import Image
from ground_probe.images import write_image
noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
write_image(noise, {str(path)!r})
"""
    result = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert f"cannot write {path}: File too large" in result.stderr.splitlines()[-1]
    with Image.open(path) as image:
        assert image.getpixel((0, 0)) == 7
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named_before_the_work(tmp_path):
    assert images.check_target(tmp_path / "mask.png") == tmp_path / "mask.png"
    with pytest.raises(InputError, match=r"the name must end in .png"):
        images.check_target(tmp_path / "mask")
    with pytest.raises(InputError, match="cannot write"):
        images.write_image(Image.new("L", (1, 1)), tmp_path / f"{'n' * 300}.png")
    with pytest.raises(InputError, match=r"there is no folder .*/none"):
        images.check_target(tmp_path / "none" / "mask.png")
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*taken.png: it is a folder"):
        images.write_image(Image.new("L", (1, 1)), tmp_path / "taken.png")


def test_an_overlay_worked_by_hand():
    photo = Image.new("RGB", (5, 5), (100, 100, 100))
    mask = np.zeros((5, 5), dtype=bool)
    mask[1:4, 1:4] = True
    seen = np.asarray(images.overlay(photo, mask))
    assert seen[0, 0].tolist() == [40, 40, 40]
    assert seen[1, 1].tolist() == [255, 255, 255]
    assert seen[2, 2].tolist() == [100, 100, 100]
    assert (np.asarray(images.overlay(photo, np.zeros_like(mask))) == 40).all()
    with pytest.raises(InputError, match=r"mask is of \(4, 5\) .* image of \(5, 5\)"):
        images.overlay(photo, mask[1:])


def test_there_is_no_other_conversion():
    library = Path(images.__file__).parent
    sources = {path: path.read_text() for path in library.rglob("*.py")}
    converts = [path.name for path, text in sources.items() if re.search(r"convert\(.RGB.\)", text)]
    assert converts == ["images.py"]
