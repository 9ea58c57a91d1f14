"""The last stage: maps whose mask is known, and real photos' masks brought to a token grid."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

import ground_probe as gp
from ground_probe import metrics
from ground_probe.datasets import RefExample
from ground_probe.errors import InputError
from ground_probe.evaluation.baselines import best_cut, ceiling, ceiling_with_edges
from ground_probe.geometry import Geometry
from ground_probe.segmentation.edges import GuidedFilter
from ground_probe.segmentation.mask import clean, enlarge, to_masks
from ground_probe.segmentation.recipes import recipe_for

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "refer-sample"
GRID = 48, 64
PHOTO = Image.new("RGB", (640, 480))


def square(top=10, left=20, side=12, grid=GRID) -> np.ndarray:
    score = np.zeros(grid)
    score[top : top + side, left : left + side] = 1
    return score


def iou(score: np.ndarray, truth: np.ndarray) -> float:
    mask = gp.to_mask(score, PHOTO)
    return float(metrics.iou(*metrics.counts(mask, np.kron(truth, np.ones((10, 10))) > 0.5)))


@pytest.mark.parametrize("scale, shift", [(1, 0), (1e-20, 0), (-1e-3, 5), (1e9, -3e9)])
def test_a_mask_does_not_depend_on_the_scale_of_the_score(scale, shift):
    score = square() if scale > 0 else 1 - square()
    np.testing.assert_array_equal(gp.to_mask(scale * score + shift, PHOTO), square_mask())


def square_mask() -> np.ndarray:
    return gp.to_mask(square(), PHOTO)


def test_an_exact_score_gives_its_square_but_for_rounder_corners():
    assert iou(square(), square()) > 0.985


@pytest.mark.parametrize("at", [(0, 0), (0, 30), (47, 63), (30, 5)])
@pytest.mark.parametrize("height", [2, 30])
@pytest.mark.parametrize("side", [3, 12, 40])
def test_a_sink_changes_nothing(at, height, side):
    """Not even where the object covers it, or most of the image."""
    clean_score = square(side=side, left=8, top=4)
    score = clean_score.copy()
    expected = gp.to_mask(score, PHOTO)
    for value in (height, -height):
        score[at] = value
        changed = gp.to_mask(score, PHOTO) != expected
        assert not changed.any() or (clean_score[at] and changed.sum() < 200)


def test_an_object_may_be_one_token():
    score = np.zeros(GRID)
    score[20, 30] = 1
    mask = gp.to_mask(score, PHOTO)
    ys, xs = np.nonzero(mask)
    assert 50 < mask.sum() < 200
    assert (ys.mean(), xs.mean()) == pytest.approx((204.5, 304.5), abs=1)


def test_a_lower_region_elsewhere_is_left_out_and_a_high_one_is_not():
    lower, high = square() + 0.6 * square(30, 45), square() + 0.9 * square(30, 45)
    np.testing.assert_array_equal(gp.to_mask(lower, PHOTO), square_mask())
    assert gp.to_mask(high, PHOTO).sum() == pytest.approx(2 * square_mask().sum(), rel=0.06)


@pytest.mark.parametrize("sigma", [0.1, 0.2])
def test_noise_is_smoothed_as_far_as_there_is_any(sigma):
    noise = sigma * np.random.default_rng(0).standard_normal(GRID)
    assert iou(square() + noise, square()) > 0.93


def test_a_blurred_small_object_is_not_made_larger():
    small = square(side=3)
    blurred = gaussian_filter(small, 1)
    half = np.asarray(Geometry((480, 640), GRID).to_pixels(blurred)) > blurred.max() / 2
    assert gp.to_mask(blurred, PHOTO).sum() < 0.95 * half.sum()


@given(st.integers(0, 2**16), st.integers(8, 30), st.integers(8, 30))
@settings(max_examples=25)
def test_a_map_of_clean_regions_is_left_as_it_is(seed, rows, cols):
    rng = np.random.default_rng(seed)
    maps = torch.zeros(1, rows, cols)
    top, left = rng.integers(0, rows - 1), rng.integers(0, cols - 1)
    maps[:, top : top + 2, left : left + 2] = 1
    torch.testing.assert_close(clean(maps), maps, atol=1e-5, rtol=0)


def test_pixels_outside_the_grid_neither_count_nor_belong():
    geometry = Geometry((20, 100), (4, 4), mode="crop")
    scores = torch.tensor([[-2.0, -1, -1, -2]]).expand(4, 4)[None]
    (mask,) = to_masks(scores, geometry)
    assert mask[:, 40:60].mean() > 0.4
    assert not mask[:, :40].any() and not mask[:, 60:].any()
    (mask,) = to_masks(scores, geometry, Image.new("RGB", (100, 20)), edges=1.0)
    assert mask[:, 45:55].all() and not mask[:, :40].any() and not mask[:, 60:].any()


def test_where_prototypes_decide_the_cut_is_zero():
    score = torch.as_tensor(square() * 3 - 1)[None]
    zero, half = (
        to_masks(score, Geometry((480, 640), GRID), cut=cut)[0] for cut in ("zero", "half")
    )
    assert half.sum() < zero.sum() < 1.2 * half.sum()
    assert not to_masks(score - 3, Geometry((480, 640), GRID), cut="zero").any()


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3])
def test_a_map_that_is_the_same_everywhere_gives_an_empty_mask(value):
    assert not gp.to_mask(np.full(GRID, value), PHOTO).any()


def test_masks_of_several_maps_are_those_of_each():
    rng = np.random.default_rng(0)
    maps = torch.as_tensor(rng.random((5, *GRID)), dtype=torch.float32)
    geometry = Geometry((480, 640), GRID)
    for edges in (0.0, 1.0):
        together = to_masks(maps, geometry, PHOTO, edges=edges)
        alone = [to_masks(each[None], geometry, PHOTO, edges=edges)[0] for each in maps]
        np.testing.assert_array_equal(together, alone)
        assert 0 < together.mean() < 1
    assert torch.equal(clean(maps), torch.cat([clean(each[None]) for each in maps]))
    photos = [Image.fromarray(rng.integers(0, 256, (480, 640, 3), np.uint8)) for _ in maps]
    together = to_masks(maps, geometry, photos, edges=1.0)
    alone = [
        to_masks(m[None], geometry, p, edges=1.0)[0] for m, p in zip(maps, photos, strict=True)
    ]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("size", [(7, 5), (480, 640), (48, 64), (33, 1)])
def test_interpolation_is_torch_s_bicubic(size):
    maps = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))
    found = torch.cat([strip for _, strip in enlarge(maps, Geometry(size, (6, 9)))], 1)
    expected = F.interpolate(maps[:, None], size, mode="bicubic")[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (np.zeros(64), r"shape \(64,\), expected \(rows, cols\)"),
        (np.zeros((1, 4, 4)), "expected"),
        (np.zeros((0, 4)), "expected"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.array([[np.inf, 0]]), "not finite"),
        (np.ones((2, 2), complex), "not finite"),
    ],
)
def test_what_is_no_map_is_refused(score, message):
    with pytest.raises(InputError, match=message):
        gp.to_mask(score, PHOTO)
    with pytest.raises(InputError, match="expected a PIL image"):
        gp.to_mask(np.zeros(GRID), "photo.jpg")


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float16, torch.bfloat16, torch.int64])
def test_scores_of_any_number_type(kind):
    score = (
        square().astype(kind)
        if not isinstance(kind, torch.dtype)
        else torch.tensor(square()).to(kind)
    )
    np.testing.assert_array_equal(gp.to_mask(score, PHOTO), square_mask())


def test_a_segmentation_s_mask_is_that_of_its_score():
    editor = gp.load_editor("tiny")
    example = gp.load_split("scenes", "train", limit=1)[0]
    for recipe in (recipe_for(editor), gp.Recipe(edges=1.0)):
        found = gp.segment(editor, example.image, example.expression, recipe)
        again = gp.to_mask(found.score, example.image, recipe)
        np.testing.assert_array_equal(again, found.mask)


@pytest.mark.parametrize("edges", [0.0, 1.0])
@pytest.mark.parametrize("size", [(50, 20_000), (20_000, 5), (1, 1), (6000, 4000)])
def test_any_size_within_half_a_gigabyte(size, edges):
    """In a process of its own: the peak of memory is one for all of a process."""
    code = f"""
import resource
import numpy as np
import ground_probe as gp
from PIL import Image
image, score = Image.new("RGB", {size}), np.random.default_rng(0).random((64, 64))
gp.to_mask(score, Image.new("RGB", (64, 64)), gp.Recipe(cut="half", edges={edges}))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
mask = gp.to_mask(score, image, gp.Recipe(cut="half", edges={edges}))
print(*mask.shape, mask.dtype, peak() - before)
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    height, width, kind, megabytes = answer.stdout.split()
    assert (int(width), int(height), kind) == (*size, "bool")
    assert float(megabytes) < 500


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"{SAMPLE} is not there")
@pytest.mark.parametrize(("kind", "floor"), [("exact", 0.95), ("blurred", 0.91), ("sink", 0.95)])
def test_masks_of_real_photos_come_back_from_the_token_grid(kind, floor):
    ious = []
    for each in json.loads((SAMPLE / "samples.json").read_text()):
        truth = np.asarray(Image.open(SAMPLE / each["mask"]).convert("L")) > 127
        geometry = Geometry(truth.shape, (60, 68))
        score = geometry.soft_labels(truth)
        score = gaussian_filter(score, 1) if kind == "blurred" else score
        score[0, 0] = 2 if kind == "sink" else score[0, 0]
        (mask,) = to_masks(torch.as_tensor(score)[None], geometry)
        ious.append(metrics.iou(*metrics.counts(mask, truth)))
    assert np.mean(ious) > floor


@given(st.integers(0, 2**16))
def test_no_cut_is_better_than_the_best(seed):
    rng = np.random.default_rng(seed)
    values, truth = rng.integers(0, 6, (5, 7)) / 5, rng.random((5, 7)) < 0.4
    ious = [metrics.iou(*metrics.counts(values >= cut, truth)) for cut in np.unique(values)]
    assert metrics.iou(*metrics.counts(best_cut(values, truth), truth)) == max(ious)


@pytest.mark.parametrize("mode", ["stretch", "crop"])
def test_no_mask_of_the_exact_map_passes_its_ceiling(mode):
    y, x = np.indices((90, 160))
    truth = ((y - 40) / 23) ** 2 + ((x - 70) / 11) ** 2 < 1
    image = Image.fromarray(
        np.where(truth[..., None], [200, 40, 40], [40, 40, 200]).astype(np.uint8)
    )
    geometry = Geometry((90, 160), (8, 8), mode=mode)
    example = RefExample("key", image, "the disk", truth, "image")
    editor = SimpleNamespace(geometry=lambda image: geometry)
    maps = torch.as_tensor(geometry.soft_labels(truth))[None]

    def score(mask) -> float:
        return metrics.iou(*metrics.counts(mask, truth))

    plain, edged = (score(each(editor, example)) for each in (ceiling, ceiling_with_edges))
    assert score(to_masks(maps, geometry)[0]) <= plain < edged
    assert score(to_masks(maps, geometry, image, edges=2.5)[0]) <= edged
    assert score(np.asarray(geometry.to_pixels(maps[0].numpy())) >= 0.5) < plain + 0.01


def test_the_filter_moves_an_edge_to_the_image_s():
    image = np.full((40, 40, 3), 60, np.uint8)
    image[:, 20:] = 200
    blurred = np.clip((np.arange(40) - 12) / 12, 0, 1) * np.ones((40, 1))  # crosses 0.5 at 18
    sharp = GuidedFilter(image, 8)(torch.as_tensor(blurred)[None].float())[0].numpy()
    assert sharp[:, 16:20].mean() < blurred[:, 16:20].mean() < 0.6
    assert sharp[:, 20:24].mean() > blurred[:, 20:24].mean()


@given(st.integers(0, 2**16))
def test_the_guided_filter_is_the_least_squares_line_of_every_window(seed):
    """At the middle of a 3x3 image a window is the image: a, b by ordinary ridge regression."""
    rng = np.random.default_rng(seed)
    image, score = rng.integers(0, 256, (3, 3, 3), np.uint8), rng.random((3, 3))
    padded = np.pad(image / 255, ((2, 2), (2, 2), (0, 0)), mode="edge")
    target = np.pad(score, 2, mode="edge")
    lines = []
    for y in range(3):
        for x in range(3):
            colors = padded[y + 1 : y + 4, x + 1 : x + 4].reshape(9, 3)
            values = target[y + 1 : y + 4, x + 1 : x + 4].ravel()
            covariance = np.cov(colors.T, bias=True) + 1e-3 * np.eye(3)
            shared = ((colors - colors.mean(0)) * (values - values.mean())[:, None]).mean(0)
            slope = np.linalg.solve(covariance, shared)
            lines.append((*slope, values.mean() - slope @ colors.mean(0)))
    mean = np.mean(lines, axis=0)
    expected = image[1, 1] / 255 @ mean[:3] + mean[3]
    found = GuidedFilter(image, 1)(torch.as_tensor(score)[None].float())
    assert float(found[0, 1, 1]) == pytest.approx(expected, abs=1e-3)


@given(st.integers(0, 2**16))
def test_a_guided_filter_over_a_flat_image_is_two_box_means(seed):
    score = np.random.default_rng(seed).random((12, 10))
    flat = np.full((12, 10, 3), 77, np.uint8)
    padded = np.pad(score, 1, mode="edge")
    once = sum(padded[y : y + 12, x : x + 10] for y in range(3) for x in range(3)) / 9
    padded = np.pad(once, 1, mode="edge")
    twice = sum(padded[y : y + 12, x : x + 10] for y in range(3) for x in range(3)) / 9
    found = GuidedFilter(flat, 1)(torch.as_tensor(score)[None].float())[0]
    np.testing.assert_allclose(found, twice, atol=1e-4)
