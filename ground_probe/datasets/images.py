"""Photos as they are stored, in RGB."""

from __future__ import annotations

import io
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ground_probe.errors import InputError


class ImageSource(Hashable, Protocol):
    """Where a photo lies; hashable, so that its sentences decode it once."""

    @property
    def path(self) -> str:
        """The file that holds it."""

    def read(self) -> bytes:
        """The encoded photo."""


@dataclass(frozen=True, slots=True)
class FileImage:
    """A photo in a file of its own."""

    path: str

    def read(self) -> bytes:
        """The encoded photo."""
        try:
            return Path(self.path).read_bytes()
        except OSError as error:
            raise InputError(f"image {self.path} cannot be read: {error.strerror}") from error


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
        except (OSError, pa.ArrowException, KeyError) as error:
            raise InputError(f"{self} cannot be read: {error}") from error
        if encoded is None:
            raise InputError(f"{self} holds no image")
        return encoded


@lru_cache(maxsize=1)
def _row_group(path: str, number: int) -> pa.ChunkedArray:
    with pq.ParquetFile(path) as file:
        return file.read_row_group(number, columns=["image"])["image"]


@lru_cache(maxsize=1)
def decode(source: ImageSource) -> Image.Image:
    """The stored pixels in RGB: grey repeated, CMYK converted, transparency over white.

    An orientation in the EXIF data is *not* applied. COCO's masks, widths and heights are those of
    the stored pixels, and pycocotools and the REFER loaders read them so; turning the photo would
    take it away from its mask.

    Raises:
        InputError: the photo is missing, cut off or no image.
    """
    encoded = source.read()
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return to_rgb(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{source} is no sound image: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB, what is transparent over white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
