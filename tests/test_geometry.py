"""Geometry: against scikit-image, torch and hand-worked cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.transform import downscale_local_mean
from torch.nn.functional import interpolate

from ground_probe.errors import InputError, UnknownNameError
from ground_probe.geometry import Geometry

sides = st.tuples(st.integers(1, 40), st.integers(1, 40))
modes = st.sampled_from(["stretch", "crop", "pad"])


def random_mask(size, seed=0):
    return np.random.default_rng(seed).random(size) < 0.4


def test_hand_worked_fractions():
    mask = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1]], dtype=bool)
    soft = Geometry((3, 4), (2, 2)).soft_labels(mask)
    # A token is 1.5 x 2 pixels; the middle row is shared half and half.
    expected = np.array([[2.5, 0.0], [0.5, 2.0]]) / 3
    np.testing.assert_allclose(soft, expected, atol=1e-6)


def test_integer_ratio_agrees_with_skimage():
    mask = random_mask((24, 40))
    soft = Geometry((24, 40), (6, 5)).soft_labels(mask)
    np.testing.assert_allclose(soft, downscale_local_mean(mask, (4, 8)), atol=1e-6)


@given(size=sides, grid=st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_any_ratio_agrees_with_supersampling(size, grid):
    mask = random_mask(size)
    fine = np.kron(mask, np.ones(grid))  # (H * rows, W * cols): tokens are whole blocks of it
    soft = Geometry(size, grid).soft_labels(mask)
    np.testing.assert_allclose(soft, downscale_local_mean(fine, size), atol=1e-5)


@given(size=sides, grid=sides, mode=modes)
def test_fractions_stay_fractions_and_keep_the_area_in_the_box(size, grid, mode):
    geometry = Geometry(size, grid, mode)
    soft = geometry.soft_labels(np.ones(size))
    height, width = geometry.token_size_px
    x0, y0, x1, y1 = geometry.box
    inside = (min(x1, size[1]) - max(x0, 0)) * (min(y1, size[0]) - max(y0, 0))
    assert soft.min() >= 0
    assert soft.max() <= 1 + 1e-9
    assert soft.sum() * height * width == pytest.approx(inside, rel=1e-6)


@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    factor=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_upsampling_agrees_with_torch(grid, factor):
    size = (grid[0] * factor[0] + 1, grid[1] * factor[1] + 2)
    grid_map = np.random.default_rng(0).normal(size=grid)
    expected = interpolate(
        torch.from_numpy(grid_map)[None, None], size, mode="bilinear", align_corners=False
    )[0, 0]
    np.testing.assert_allclose(Geometry(size, grid).to_pixels(grid_map), expected, atol=1e-9)


@given(size=sides, grid=sides, mode=modes, data=st.data())
def test_a_token_contains_its_own_centre(size, grid, mode, data):
    geometry = Geometry(size, grid, mode)
    row = data.draw(st.integers(0, grid[0] - 1))
    col = data.draw(st.integers(0, grid[1] - 1))
    assert geometry.token_of(*geometry.pixel_of(row, col)) == (row, col)


def test_crop_and_pad_boxes_give_square_tokens_about_the_centre():
    crop, pad = (Geometry((60, 100), (8, 8), mode) for mode in ("crop", "pad"))
    assert crop.box == (20, 0, 80, 60)
    assert pad.box == (0, -20, 100, 80)
    assert pad.token_size_px == (12.5, 12.5)


def test_outside_the_box_maps_are_zero_and_points_have_no_token():
    crop = Geometry((4, 8), (2, 2), "crop")
    expected = np.zeros((4, 8))
    expected[:, 2:6] = 1
    np.testing.assert_allclose(crop.to_pixels(np.ones((2, 2))), expected)
    assert crop.token_of(1.9, 1) is None
    assert crop.token_of(2, 0) == (0, 0)
    assert crop.token_of(6, 0) is None


def test_padding_counts_as_not_covered():
    soft = Geometry((2, 4), (2, 2), "pad").soft_labels(np.ones((2, 4)))
    np.testing.assert_allclose(soft, 0.5)


def test_batches_and_tensors():
    geometry = Geometry((6, 9), (2, 3))
    masks = torch.from_numpy(random_mask((5, 6, 9)))
    soft = geometry.soft_labels(masks)
    assert soft.shape == (5, 2, 3)
    np.testing.assert_allclose(soft[3], geometry.soft_labels(masks[3].numpy()))
    assert geometry.to_pixels(torch.from_numpy(soft)).shape == (5, 6, 9)


def test_errors_say_what_was_expected():
    with pytest.raises(InputError, match=r"mask has shape \(9, 6\).*\(6, 9\)"):
        Geometry((6, 9), (2, 3)).soft_labels(np.zeros((9, 6)))
    with pytest.raises(InputError, match=r"grid_map has shape \(6,\)"):
        Geometry((6, 9), (2, 3)).to_pixels(np.zeros(6))
    with pytest.raises(UnknownNameError, match=r"'strech'.*did you mean 'stretch'"):
        Geometry((6, 9), (2, 3), "strech")
    with pytest.raises(InputError, match="at least 1"):
        Geometry((6, 9), (0, 3))
    with pytest.raises(InputError, match="is empty"):
        Geometry((6, 9), (2, 3), "crop", (3, 0, 3, 6))
