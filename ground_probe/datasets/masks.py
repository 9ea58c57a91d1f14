"""COCO segmentations to masks: polygons of many parts, run-length codes, crowds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from pycocotools import mask as coco

from ground_probe.datasets.example import Mask
from ground_probe.errors import InputError, unknown

Overlap = Literal["union", "refer"]


def to_mask(segmentation: Any, size_px: tuple[int, int], overlap: Overlap = "union") -> Mask:
    """Decode the `segmentation` of a COCO annotation.

    Args:
        segmentation: list of polygons (x, y, x, y, ...), or run lengths as COCO writes them, plain
            (`counts` a list; crowds) or compressed (`counts` a string).
        size_px: (height, width) of the annotated image.
        overlap: of a polygon's parts. "union" is the object; "refer" repeats the original REFER
            loaders, which add the parts and keep what is 1, so that overlaps are background.

    Raises:
        InputError: a segmentation that is damaged, empty or of another size, and a polygon that
            leaves the image by more than the image's own size.

    >>> to_mask({"size": [1, 3], "counts": [1, 2]}, (1, 3))
    array([[False,  True,  True]])
    """
    if overlap not in get_args(Overlap):
        raise unknown("overlap", overlap, get_args(Overlap))
    if isinstance(segmentation, dict):
        mask = _from_runs(segmentation, size_px)
    else:
        parts = coco.frPyObjects(_polygons(segmentation, size_px), *size_px)
        if overlap == "refer":
            mask = np.sum(_decode(parts), axis=2) == 1
        else:
            mask = _decode([coco.merge(parts)])[..., 0] > 0
    if not mask.any():
        raise InputError("the segmentation covers no pixel of the image")
    return mask


def _decode(codes: list[Any]) -> np.ndarray:
    with warnings.catch_warnings():  # pycocotools 2.0.11 has no `copy` in its __array__
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco.decode(codes)


def _polygons(segmentation: Any, size_px: tuple[int, int]) -> list[list[float]]:
    """The parts that enclose something."""
    if isinstance(segmentation, Sequence) and segmentation and _is_number(segmentation[0]):
        segmentation = [segmentation]  # one part, not in a list of parts
    try:
        polygons = [[float(value) for value in polygon] for polygon in segmentation]
    except (TypeError, ValueError, OverflowError):
        raise InputError("the segmentation is neither polygons nor run lengths") from None
    # Two points enclose nothing, and pycocotools would read their four numbers as a box.
    polygons = [polygon for polygon in polygons if len(polygon) >= 6]
    if not polygons or any(len(polygon) % 2 for polygon in polygons):
        raise InputError("the segmentation has no polygon of three points (x, y, x, y, ...)")
    sides = np.array(size_px[::-1])
    for polygon in polygons:
        points = np.array(polygon).reshape(-1, 2)
        if not ((-sides <= points) & (points <= 2 * sides)).all():
            far = max(polygon, key=lambda value: abs(value) if np.isfinite(value) else np.inf)
            raise InputError(
                f"a polygon of the segmentation has the coordinate {far:g} in an image of "
                f"{size_px[1]} x {size_px[0]} px: give pixels as x, y, x, y, ..."
            )
    return polygons


def _from_runs(segmentation: dict[str, Any], size_px: tuple[int, int]) -> Mask:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, Sequence) or list(size) != list(size_px):
        raise InputError(
            f"the run lengths are of a {size} mask (height, width), "
            f"expected the image's {list(size_px)}"
        )
    if isinstance(counts, bytes):
        counts = counts.decode("latin1")
    if isinstance(counts, str):
        counts = _uncompressed(counts)
    if not isinstance(counts, Sequence) or not all(map(_is_whole, counts)):
        raise InputError("the run lengths have no counts, a list of whole numbers or a string")
    if min(counts, default=0) < 0 or sum(counts) != size_px[0] * size_px[1]:
        raise InputError(
            f"the run lengths add to {sum(counts)}, expected height x width, "
            f"{size_px[0] * size_px[1]}: cut off or damaged"
        )
    runs = np.array(counts, dtype=np.int64)
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(columns.reshape(size_px[::-1]).T)


def _uncompressed(text: str) -> list[int]:
    """The run lengths in a string: 5 bits and a sign a character, from the third on differences."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 35:
            raise InputError(f"the run lengths cannot be decoded: {character!r} is not of them")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # goes on in the next character
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise InputError("the run lengths cannot be decoded: the last number is cut off")
    return counts


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
