"""ReasonSeg: a folder a split, a photo and its annotation side by side.

    ReasonSeg/val/1.jpg, ReasonSeg/val/1.json, ...

The JSON has `text`, a list of instructions, and `shapes`, each with a `label` and its `points`
[[x, y], ...] in pixels of the photo as its EXIF data turn it. A label "flag" is void, one with
"ignore" in it is a region that no score counts, any other is the target; larger shapes lie below
smaller ones. The first instruction is the one that is evaluated; in train all of them are kept.
Two annotations of test have no shape and refer to nothing (issue 157 there).

Source: Lai et al. 2023 (arXiv 2308.00692); `utils/data_processing.py` and `utils/dataset.py` of
github.com/dvlab-research/LISA. It draws with OpenCV, Pillow here, which differ by single pixels of
an outline.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ground_probe.datasets.example import Mask
from ground_probe.datasets.referent import Ref, Sentence, Target, shortened
from ground_probe.datasets.sources import FileImage, header
from ground_probe.errors import InputError
from ground_probe.io import read_file

MAX_BYTES = 2**26
_TARGET, _IGNORED = 1, 2


class Drawn(NamedTuple):
    """Shapes as (level, points), and which level of what they draw a call gives: a mask."""

    shapes: tuple[tuple[int, tuple[tuple[float, float], ...]], ...]
    level: int

    def __call__(self, size_px: tuple[int, int]) -> Mask:
        """The mask of an image of (height, width).

        Raises:
            InputError: a shape far outside of it.
        """

        def filled(points: tuple[tuple[float, float], ...]) -> Mask:
            layer = Image.new("1", size_px[::-1])
            corners = [(int(x), int(y)) for x, y in (*points, points[0])]
            ImageDraw.Draw(layer).polygon(corners, fill=1, outline=1)
            return np.asarray(layer)

        sides = np.array(size_px[::-1])
        for _, points in self.shapes:
            if not ((-sides <= np.array(points)) & (np.array(points) <= 2 * sides)).all():
                raise InputError(f"a shape lies outside of the image of {size_px} (height, width)")
        drawn = np.zeros(size_px, np.uint8)
        for level, points in sorted(self.shapes, key=lambda each: -np.sum(filled(each[1]))):
            drawn[filled(points)] = level
        return drawn == self.level


def find(root: Path, split: str) -> Path | None:
    """The folder of a split, in the root or where LISA's users have it."""
    folders = (root / split, root / "ReasonSeg" / split, root / "reason_seg" / "ReasonSeg" / split)
    return next((folder for folder in folders if os.path.isdir(folder)), None)


def read(folder: Path, split: str) -> list[Ref]:
    """The refs of a split, photos and masks not yet decoded.

    Raises:
        InputError: an annotation is missing or damaged.
    """
    return [_ref(photo, split) for photo in sorted(folder.glob("*.jpg"))]


def _ref(photo: Path, split: str) -> Ref:
    path = photo.with_suffix(".json")
    try:
        note = json.loads(_text(read_file(path, MAX_BYTES)))
        texts, shapes = note["text"], tuple(filter(None, map(_shape, note["shapes"])))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no annotation of ReasonSeg: {error!r}") from error
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise InputError(f"{path}, text: {shortened(texts)} is no list of texts")
    levels = {level for level, _ in shapes}
    size_px, turned = header(photo)
    return Ref(
        ref_id=photo.stem,
        targets=(Target(photo.stem, Drawn(shapes, _TARGET)),) if _TARGET in levels else (),
        image_id=photo.stem,
        image_size_px=size_px[::-1] if turned > 4 else size_px,  # as it is seen
        image=FileImage(str(photo), upright=True),
        sentences=tuple(
            Sentence(number, text.strip(), text)
            for number, text in enumerate(texts if split == "train" else texts[:1])
        ),
        ignored=Drawn(shapes, _IGNORED) if _IGNORED in levels else None,
    )


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("cp1252")


def _shape(shape: Any) -> tuple[int, tuple[tuple[float, float], ...]] | None:
    label = shape["label"].lower()
    points = tuple((float(x), float(y)) for x, y in shape["points"])
    if label == "flag" or not points:
        return None
    return (_IGNORED if "ignore" in label else _TARGET), points
