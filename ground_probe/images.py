"""Any image to the RGB that an editor reads; masks and overlays back to files."""

from __future__ import annotations

import base64
import html
import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageOps

from ground_probe.errors import InputError
from ground_probe.io import read_file, whole_file

WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
MAX_BYTES = 2**28
"""Of an encoded image."""

_ORIENTATION = 0x0112


def to_rgb(image: Any) -> Image.Image:
    """Any image as RGB, without metadata: the only conversion in the package.

    What is transparent lies on white, gray of 16 bits is scaled to 8, CMYK and palettes are
    converted. Pixels stay where they are: an orientation in the EXIF data is not applied, for the
    masks that come back are of this image's size; `read_image` applies it.

    Raises:
        InputError: no PIL image, or one whose values have no agreed range (32-bit floats).

    >>> to_rgb(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0))
    (255, 255, 255)
    >>> to_rgb(Image.new("I;16", (1, 1), 65535)).getpixel((0, 0))
    (255, 255, 255)
    """
    if not isinstance(image, Image.Image):
        raise InputError(f"the image is a {type(image).__name__}: give a PIL image")
    if image.mode == "RGB" and not image.info:
        return image
    turned = orientation(image)
    if turned != 1:
        warnings.warn(
            f"the image's EXIF orientation {turned} is not applied: its pixels are used as they "
            "are stored; ground_probe.images.read_image(path) turns a photo upright",
            stacklevel=2,
        )
    return _pixels(image)


def read_image(path: Path | str) -> Image.Image:
    """Read a photo upright, as RGB: `to_rgb` after its EXIF orientation was applied.

    Raises:
        InputError: no regular file, too large, or no image that Pillow can read.
    """
    return decode(read_file(path, MAX_BYTES), str(path))


def decode(encoded: bytes, name: str, upright: bool = True) -> Image.Image:
    """The RGB image in the bytes of a PNG, JPEG or whatever else Pillow reads.

    Args:
        encoded: the file's contents.
        name: what a message calls it.
        upright: apply an orientation in the EXIF data. Not where masks belong to the stored pixels.

    Raises:
        InputError: cut off, no image, or of more pixels than Pillow decodes.
    """
    image = open_image(encoded, name)
    try:
        return _pixels(ImageOps.exif_transpose(image) if upright else image)
    except Exception as error:  # damaged files raise nearly anything
        raise InputError(f"{name} is no sound image: {error}") from error


def open_image(encoded: bytes, name: str) -> Image.Image:
    """The image in a file's bytes as it is stored, in its own mode; see `decode`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(encoded))
            image.load()
            return image
    except Image.UnidentifiedImageError as error:
        reason = "none of the formats that Pillow reads"
        raise InputError(f"{name} is no sound image: {reason}") from error
    except Exception as error:  # damaged files raise nearly anything
        raise InputError(f"{name} is no sound image: {error}") from error


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image; 1 is upright."""
    return image.getexif().get(_ORIENTATION, 1)


def _pixels(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise InputError("the image has no pixels")
    if image.mode.startswith("I"):  # gray of 16 bits, whatever its byte order; convert() clips it
        gray = np.array(image, dtype=np.int64)
        if gray.min() < 0 or gray.max() > 65535:
            raise InputError("the image's gray is not of 16 bits: scale it to 0..65535")
        gray[gray == image.info.get("transparency")] = 65535
        image = Image.fromarray((gray / 65535 * 255).round().astype(np.uint8))
    elif image.mode == "F":
        raise InputError("the image is of floats, of no agreed range: give 8 or 16 bits")
    elif image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    try:
        rgb = image.convert("RGB")
    except ValueError as error:
        raise InputError(f"an image of mode {image.mode} cannot be used: convert it") from error
    return Image.frombytes("RGB", rgb.size, rgb.tobytes())


def overlay(image: Image.Image, mask: Bool[np.ndarray, "height width"]) -> Image.Image:
    """The photo, dimmed outside the mask, which a white line surrounds.

    Args:
        image: of any mode.
        mask: of the image's size.

    Raises:
        InputError: the mask is of another size.
    """
    if mask.shape != (image.height, image.width):
        raise InputError(
            f"the mask is of {mask.shape} (height, width), the image of "
            f"{(image.height, image.width)}"
        )
    from scipy.ndimage import binary_erosion

    line_px = max(1, min(mask.shape) // 250)
    pixels = np.array(to_rgb(image))
    pixels[~mask] = pixels[~mask] * 0.4
    pixels[mask & ~binary_erosion(mask, iterations=line_px)] = 255
    return Image.fromarray(pixels)


def png(image: Image.Image) -> bytes:
    """An image as the bytes of a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def shown_as_html(text: str, image: Image.Image | None, caption: str) -> str:
    """What a notebook shows of an object: its words, and its picture where it has one."""
    words = f"<pre>{html.escape(text)}</pre>"
    if image is None:
        return words
    source = base64.b64encode(png(image)).decode()
    caption = html.escape(caption, quote=True)
    return (
        f'{words}<img src="data:image/png;base64,{source}" alt="{caption}" '
        f'style="max-width:100%"><p><small>{caption}</small></p>'
    )


def check_target(path: Path | str) -> Path:
    """A path that an image can be written to, checked before the work is done.

    Raises:
        InputError: the folder is absent, or the name does not end as an image's does.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITABLE:
        raise InputError(f"cannot write {path}: the name must end in {', '.join(WRITABLE)}")
    if not os.path.isdir(path.absolute().parent):
        raise InputError(f"cannot write {path}: there is no folder {path.absolute().parent}")
    if os.path.isdir(path):
        raise InputError(f"cannot write {path}: it is a folder")
    return path


def write_image(image: Image.Image, path: Path | str) -> None:
    """Write an image, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    path = check_target(path)
    with whole_file(path) as part:
        image.save(part, Image.registered_extensions()[path.suffix.lower()])
