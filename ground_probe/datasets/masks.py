"""COCO segmentations to masks: polygons of many parts, run-length codes, crowds."""

from __future__ import annotations

import warnings
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
        InputError: a segmentation that is damaged, empty or of another size.
    """
    if overlap not in get_args(Overlap):
        raise unknown("overlap", overlap, get_args(Overlap))
    if isinstance(segmentation, dict):
        parts = [_run_lengths(segmentation, size_px)]
    else:
        parts = coco.frPyObjects(_polygons(segmentation), *size_px)
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


def _polygons(segmentation: Any) -> list[list[float]]:
    try:
        polygons = [[float(value) for value in polygon] for polygon in segmentation]
    except (TypeError, ValueError):
        raise InputError("the segmentation is neither polygons nor run lengths") from None
    # Two points enclose nothing, and pycocotools would read their four numbers as a box.
    polygons = [polygon for polygon in polygons if len(polygon) >= 6]
    if not polygons or any(
        len(polygon) % 2 or not np.isfinite(polygon).all() for polygon in polygons
    ):
        raise InputError("the segmentation has no polygon of three points (x, y, x, y, ...)")
    return polygons


def _run_lengths(segmentation: dict[str, Any], size_px: tuple[int, int]) -> dict[str, Any]:
    if list(segmentation.get("size", ())) != list(size_px):
        raise InputError(
            f"the run lengths are of a {segmentation.get('size')} mask (height, width), "
            f"expected the image's {list(size_px)}"
        )
    counts = segmentation.get("counts")
    if isinstance(counts, list):
        if sum(counts) != size_px[0] * size_px[1] or min(counts) < 0:
            raise InputError(f"the run lengths add to {sum(counts)}, expected height x width")
        return coco.frPyObjects(segmentation, *size_px)
    if not isinstance(counts, str | bytes):
        raise InputError("the run lengths have no counts")
    try:
        _decode([segmentation])
    except ValueError as error:
        raise InputError(f"the run lengths cannot be decoded: {error}") from error
    return segmentation
