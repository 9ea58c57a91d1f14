"""Where photos of a data set lie, and their pixels as they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ground_probe import images
from ground_probe.datasets.example import Mask
from ground_probe.errors import InputError
from ground_probe.io import read_file


@dataclass(frozen=True, slots=True)
class FileImage:
    """A photo in a file of its own; `upright` if masks lie on it as its EXIF data turn it."""

    path: str
    upright: bool = False

    def read(self) -> bytes:
        """The encoded photo."""
        return read_file(self.path, images.MAX_BYTES)

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class ParquetImage:
    """A photo in the column `image.bytes` of a Parquet file."""

    path: str
    row_group: int
    row: int

    def read(self) -> bytes:
        """The encoded photo."""
        try:
            encoded = _row_group(self.path, self.row_group)[self.row]["bytes"].as_py()
        except (OSError, pa.ArrowException, KeyError, IndexError, TypeError) as error:
            raise InputError(f"the image of {self} cannot be read: {error}") from error
        if encoded is None:
            raise InputError(f"{self} holds no image")
        return encoded

    def __str__(self) -> str:
        return f"{self.path}, row {self.row} of group {self.row_group}"


ImageSource = FileImage | ParquetImage
"""Where a photo lies; hashable, so that its sentences decode it once."""


@lru_cache(maxsize=1)
def _row_group(path: str, number: int) -> pa.ChunkedArray:
    with pq.ParquetFile(path) as file:
        return file.read_row_group(number, columns=["image"])["image"]


@lru_cache(maxsize=1)
def decode(source: ImageSource) -> Image.Image:
    """The stored pixels in RGB; the last photo is kept.

    An orientation in the EXIF data is *not* applied, unless the source says so. COCO's masks,
    widths and heights are those of the stored pixels, and pycocotools and the REFER loaders read
    them so; turning the photo would take it away from its mask.

    Raises:
        InputError: the photo is missing, cut off or no image.
    """
    upright = isinstance(source, FileImage) and source.upright
    return images.decode(source.read(), f"image {source}", upright)


def header(path: Path) -> tuple[tuple[int, int], int]:
    """(height, width) of a photo as it is stored, and its EXIF orientation, without decoding it.

    Raises:
        InputError: no file, or no image.
    """
    try:
        with Image.open(path) as image:
            return (image.height, image.width), images.orientation(image)
    except Exception as error:  # damaged files raise nearly anything
        raise InputError(f"{path} is no sound image: {error}") from error


def read_mask(source: FileImage, size_px: tuple[int, int]) -> Mask:
    """A mask from an image file: 0 is background, one other value is the referent.

    Args:
        source: its file: grey, of one bit, a palette, or RGB with equal channels.
        size_px: (height, width) that it must have.

    Raises:
        InputError: damaged, of another size, empty, or of more than two values.
    """
    name = f"mask {source}"
    image = images.open_image(source.read(), name)
    values = np.asarray(image)
    if values.ndim == 3:
        if image.mode != "RGB" or (values != values[..., :1]).any():
            raise InputError(f"{name} is of mode {image.mode}: give grey, one bit or a palette")
        values = values[..., 0]
    if values.shape != size_px:
        raise InputError(f"{name} is of {values.shape} (height, width), its image of {size_px}")
    levels = np.unique(values)
    if len(levels) > 2 or (len(levels) == 2 and levels[0]) or levels[-1] == 0:
        shown = ", ".join(map(str, levels[:5].tolist()))
        raise InputError(
            f"{name} has the values {shown}{', ...' * (len(levels) > 5)}: expected 0 for the "
            "background and one other value for what is meant"
        )
    return values > 0
