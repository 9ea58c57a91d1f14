"""Masks of real COCO annotations against pycocotools, and every kind of damaged one."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco
from refcoco_files import COCO, needs_coco

from ground_probe.datasets.masks import to_mask
from ground_probe.errors import InputError


@needs_coco
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_every_real_mask_equals_pycocotools(instances):
    from pycocotools.coco import COCO as Reference

    with contextlib.redirect_stdout(io.StringIO()):
        reference = Reference(COCO / "instances.json")
    sizes = {image["id"]: (image["height"], image["width"]) for image in instances["images"]}
    overlapping = 0
    for annotation in instances["annotations"]:
        size = sizes[annotation["image_id"]]
        mask = to_mask(annotation["segmentation"], size)
        np.testing.assert_array_equal(mask, reference.annToMask(annotation).astype(bool))
        refer = to_mask(annotation["segmentation"], size, overlap="refer")
        assert (refer <= mask).all()
        overlapping += bool((refer != mask).any())
    assert overlapping >= 1


def test_overlapping_parts_by_hand():
    left, right = [0, 0, 2, 0, 2, 3, 0, 3], [1, 0, 4, 0, 4, 3, 1, 3]
    assert to_mask([left, right], (3, 4)).all()
    np.testing.assert_array_equal(
        to_mask([left, right], (3, 4), overlap="refer"), [[True, False, True, True]] * 3
    )


masks = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(
    lambda size: arrays(bool, size).filter(np.any)
)


def plain_runs(mask):
    flat = np.concatenate([[False], mask.T.ravel(), [True]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], edges]))
    return {"size": [*mask.shape], "counts": [*runs.tolist(), mask.size - int(runs.sum())]}


def compressed_runs(mask, form=str):
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = code["counts"]
    return {"size": [*mask.shape], "counts": counts if form is bytes else counts.decode()}


@given(masks)
def test_run_lengths_of_every_form_survive(mask):
    for code in (plain_runs(mask), compressed_runs(mask), compressed_runs(mask, bytes)):
        decoded = to_mask(code, mask.shape)
        assert decoded.dtype == bool
        np.testing.assert_array_equal(decoded, mask)


@given(masks, st.data())
def test_run_lengths_cut_short_anywhere_are_refused(mask, data):
    for code in (plain_runs(mask), compressed_runs(mask)):
        counts = code["counts"]
        cut = counts[: data.draw(st.integers(0, len(counts) - 1))]
        if not isinstance(counts, str) and sum(cut) == mask.size:
            continue  # nothing but an empty run was cut off
        with pytest.raises(InputError, match="run lengths"):
            to_mask(code | {"counts": cut}, mask.shape)


@given(masks, st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12))
def test_a_damaged_string_is_refused_or_whole_and_the_same_each_time(mask, text):
    code = {"size": [*mask.shape], "counts": text}
    try:
        first = to_mask(code, mask.shape)
    except InputError:
        return
    np.testing.assert_array_equal(first, to_mask(code, mask.shape))
    np.testing.assert_array_equal(first, coco.decode(code).astype(bool))


@given(masks, st.data())
def test_polygons_of_boxes_survive(mask, data):
    height, width = mask.shape
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    box = np.zeros(mask.shape, bool)
    box[y0:y1, x0:x1] = True
    outline = [x0, y0, x1, y0, x1, y1, x0, y1]
    for polygons in (outline, [outline], [tuple(outline), [x0, y0, x1, y1]]):
        np.testing.assert_array_equal(to_mask(polygons, mask.shape), box)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [4, 3], "counts": [0, 12]}, r"expected the image's \[3, 4\]"),
        ({"size": 12, "counts": [0, 12]}, r"expected the image's \[3, 4\]"),
        ({"size": [3, 4], "counts": [0, 999999]}, "expected height x width"),
        ({"size": [3, 4], "counts": [13, -1]}, "expected height x width"),
        ({"size": [3, 4], "counts": []}, "add to 0, expected height x width, 12"),
        ({"size": [3, 4], "counts": ""}, "add to 0, expected height x width, 12"),
        ({"size": [3, 4], "counts": b""}, "add to 0, expected height x width, 12"),
        ({"size": [3, 4], "counts": "5"}, "add to 5, expected height x width, 12"),
        ({"size": [3, 4], "counts": "garbage"}, "cannot be decoded|expected height x width"),
        ({"size": [3, 4], "counts": "caf\xe9"}, "cannot be decoded"),
        ({"size": [3, 4], "counts": "o" * 99}, "cannot be decoded"),
        ({"size": [3, 4], "counts": [0.0, 12.0]}, "no counts, a list of whole numbers"),
        ({"size": [3, 4]}, "no counts"),
        ([[0, 0, 1, 1]], "three points"),
        ([[0, 0, 1, 0, float("nan"), 1]], "coordinate nan in an image of 4 x 3 px"),
        ([[0, 0, 1, 0, 1, 10**400]], "neither polygons nor run lengths"),
        ([], "three points"),
        (None, "neither polygons nor run lengths"),
        ("polygon", "neither polygons nor run lengths"),
        ([[7, 5, 8, 5, 8, 6]], "no pixel of the image"),
        ([[50, 50, 60, 50, 60, 60]], "coordinate 60 in an image of 4 x 3 px"),
        *(([[0, 0, far, 0, 1, 1]], "has the coordinate") for far in (1e7, -1e8, 1e300, 1e308)),
    ],
)
def test_damaged_segmentations_are_refused(segmentation, message):
    with pytest.raises(InputError, match=message):
        to_mask(segmentation, (3, 4))
