"""Photos as people have them, to the RGB an editor reads; masks and overlays back to files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy.ndimage import binary_erosion

from ground_probe.errors import InputError

WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")


def read_photo(path: Path | str) -> Image.Image:
    """Read a photo upright, as RGB: EXIF orientation applied, transparency laid on white.

    Raises:
        InputError: there is no such file, or it is no image that Pillow can read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file)
            upright.load()
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is no image that can be read: give a PNG or JPEG") from error
    return to_rgb(upright)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as RGB: transparency laid on white, deep grey scaled to 8 bits.

    >>> to_rgb(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    if image.mode.startswith("I"):  # 16-bit grey; convert() would clip it
        grey = np.asarray(image, dtype=np.float64) / 65535 * 255
        return Image.fromarray(grey.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def overlay(image: Image.Image, mask: Bool[np.ndarray, "height width"]) -> Image.Image:
    """The photo, dimmed outside the mask, which a white line surrounds.

    Args:
        image: RGB.
        mask: of the image's size.
    """
    line_px = max(1, min(mask.shape) // 250)
    pixels = np.asarray(image).copy()
    pixels[~mask] = pixels[~mask] * 0.4
    pixels[mask & ~binary_erosion(mask, iterations=line_px)] = 255
    return Image.fromarray(pixels)


def check_target(path: Path | str) -> Path:
    """A path that an image can be written to, checked before the work is done.

    Raises:
        InputError: the folder is absent, or the name does not end as an image's does.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITABLE:
        raise InputError(f"cannot write {path}: the name must end in {', '.join(WRITABLE)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.absolute().parent}")
    return path


def save_image(image: Image.Image, path: Path) -> None:
    """Write an image.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        image.save(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
