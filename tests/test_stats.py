"""The only bootstrap, paired comparison, max-T and Holm: scipy as oracle, simulated errors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import permutation_test
from scipy.stats import t as student

from ground_probe.errors import InputError, UnknownNameError
from ground_probe.metrics import oiou
from ground_probe.permutation import holm, max_t
from ground_probe.stats import (
    bootstrap,
    cluster_interval,
    compare,
    compare_ratios,
    estimate,
)


def test_estimate_agrees_with_scipy():
    values = np.random.default_rng(0).beta(5, 2, size=90)
    found = estimate([*values, np.nan])
    scipy = scipy_bootstrap((values,), np.mean, method="percentile", rng=1).confidence_interval
    np.testing.assert_allclose((found.low, found.high), scipy, atol=0.005)
    assert found.value == pytest.approx(values.mean())
    assert (found.n, found.n_left_out) == (90, 1)


def test_few_images_are_given_students_interval():
    values = np.random.default_rng(0).normal(size=10)
    found = estimate(values, resamples=20_000)
    half = student.ppf(0.975, 9) * values.std(ddof=1) / np.sqrt(10)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.05)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    for images in (10, 40):
        _, low, high = bootstrap(rng.normal(size=(images, 1000)), resamples=1000)
        assert 0.93 <= np.mean((low < 0) & (high > 0)) <= 0.97


def test_interval_of_rows_that_repeat_in_a_cluster_is_wider_than_over_rows():
    values = np.repeat(np.random.default_rng(0).normal(size=40), 9)
    clusters = cluster_interval(values, np.repeat(np.arange(40), 9))
    rows = cluster_interval(values, np.arange(360))
    assert np.ptp(clusters) == pytest.approx(3 * np.ptp(rows), rel=0.15)


def test_a_ratio_of_sums_is_the_overall_iou():
    rng = np.random.default_rng(0)
    inter, union = rng.integers(0, 50, 60), rng.integers(50, 99, 60)
    value, low, high = bootstrap(inter[:, None], union[:, None], np.arange(60) // 3)
    assert value[0] == pytest.approx(oiou(inter, union)) and low[0] < value[0] < high[0]


@given(seed=st.integers(0, 99), kind=st.sampled_from([np.float32, list, pd.Series, "Float64"]))
def test_cells_are_estimated_as_if_alone_in_any_container(seed, kind):
    rng = np.random.default_rng(seed)
    values = rng.random((12, 5))
    values[rng.random(values.shape) < 0.2] = np.nan
    value, low, high = bootstrap(values, resamples=50)
    for cell, column in enumerate(values.T):
        if np.isnan(column).all():
            continue
        held = pd.Series(column).dropna().astype(kind) if kind == "Float64" else column
        alone = estimate(held if kind == "Float64" else kind(held), resamples=50)
        assert [alone.value, alone.low, alone.high] == pytest.approx(
            [value[cell], low[cell], high[cell]], nan_ok=True, rel=1e-5
        )


def test_comparison_agrees_with_scipy():
    rng = np.random.default_rng(0)
    first = rng.normal(size=25)
    second = first + rng.normal(0.3, 1, size=25)
    found = compare(first, second)
    oracle = permutation_test(
        (first, second),
        lambda a, b: np.mean(a - b),
        permutation_type="samples",
        n_resamples=9999,
        rng=0,
    )
    assert found.p == pytest.approx(oracle.pvalue, abs=0.02)
    assert found.value == pytest.approx(np.mean(first - second))
    assert found.low < found.value < found.high


def test_a_comparison_told_how_the_fit_moves_is_wider_and_less_sure():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.5, 1, 40), rng.normal(size=40)
    given = compare(first, second)
    none, some, much = (compare(first, second, fit_variance=v) for v in (0.0, 0.01, 0.1))
    assert (none.low, none.high, none.p) == pytest.approx((given.low, given.high, given.p))
    assert given.p < some.p < much.p and given.value == some.value == much.value
    normal = rng.normal(size=400)
    normal -= normal.mean()
    wide = compare(normal / 1000, np.zeros(400), fit_variance=0.04)
    assert (wide.low, wide.high) == pytest.approx((-0.393, 0.393), abs=0.01)
    both = max_t(np.stack([first, first]), fit_variance=np.array([0.0, 0.1]))
    assert both[0] < both[1]


def test_p_sees_both_kinds_of_images_where_the_fit_moves_what_is_compared():
    rng, given, both = np.random.default_rng(0), [], []
    for _ in range(300):
        values = rng.normal(rng.normal(0, 0.2), 1, 40)  # the fit moves all test images alike
        given.append(max_t(values[None], permutations=199)[0])
        both.append(max_t(values[None], fit_variance=0.04, permutations=199)[0])
    assert np.mean(np.less_equal(given, 0.05)) > 0.15
    assert np.mean(np.less_equal(both, 0.05)) < 0.09


def test_a_difference_of_two_ratios_by_hand_and_by_resampling_rows():
    over, under = np.array([[1.0], [3.0], [2.0], [4.0]]), np.array([[4.0], [4.0], [8.0], [8.0]])
    images = np.array(["a", "a", "b", "c"])
    value, low, high, p = compare_ratios((over, under), (over[::-1], under[::-1]), images)
    assert value == [0] and low < 0 < high and p == [1]
    same = compare_ratios((over, under), (over, under), images)
    assert [float(each[0]) for each in same] == [0, 0, 0, 1]
    rng = np.random.default_rng(0)
    under = rng.integers(20, 90, (60, 1)).astype(float)
    first, second = under * rng.random((60, 1)), under * rng.random((60, 1))
    found = compare_ratios((first, under), (second, under), np.arange(60))
    whole = bootstrap(first - second, under)  # one denominator: the difference is a ratio itself
    assert [float(each[0]) for each in found[:3]] == pytest.approx(
        [float(each[0]) for each in whole]
    )


def test_max_t_pays_for_the_number_of_cells():
    rng = np.random.default_rng(0)
    null = rng.normal(size=(40, 200, 30))
    smallest = np.array(
        [max_t(cells, permutations=199, seed=i).min() for i, cells in enumerate(null)]
    )
    alone = np.array([max_t(cell[None], permutations=199) for cell in null[0]])
    assert (alone <= 0.05).sum() >= 3  # what looking at 200 cells finds without a correction
    assert (smallest <= 0.05).mean() <= 0.15


def test_max_t_finds_the_cell_that_differs_and_its_side():
    cells = np.random.default_rng(0).normal(size=(50, 60))
    cells[7] += 1
    cells[8] -= 1
    assert np.flatnonzero(max_t(cells) < 0.05).tolist() == [7, 8]
    assert np.flatnonzero(max_t(cells, alternative="greater") < 0.05).tolist() == [7]


def test_a_cell_of_few_images_does_not_hide_the_others():
    rng = np.random.default_rng(0)
    full = rng.normal(0.45, 1, size=40)
    alone = max_t(full[None])[0]
    few = np.full(40, np.nan)
    few[:2] = 0.3, 0.31
    both = max_t(np.stack([full, few]))
    assert alone < 0.05 and both[0] == pytest.approx(alone, abs=0.01)
    assert both[1] > 0.4  # two signs say next to nothing


def test_max_t_of_incomplete_cells_keeps_its_error():
    rng = np.random.default_rng(0)
    smallest = []
    for i in range(200):
        cells = rng.normal(size=(8, 30))
        cells[rng.random(cells.shape) < np.linspace(0, 0.8, 8)[:, None]] = np.nan
        cells = cells[(~np.isnan(cells)).sum(axis=1) > 1]
        smallest.append(max_t(cells, permutations=199, seed=i).min())
    assert np.mean(np.array(smallest) <= 0.05) <= 0.09


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    with pytest.raises(InputError, match="between 0 and 1"):
        holm([0.1, float("nan")])


def test_errors_say_what_was_expected():
    with pytest.raises(InputError, match="same images"):
        compare(np.zeros(3), np.zeros(4))
    with pytest.raises(InputError, match="infinities"):
        compare([np.inf, 1.0, 2.0], [0.0, 1.0, 0.0])
    with pytest.raises(InputError, match="needs 2"):
        max_t(np.full((3, 4), np.nan))
    with pytest.raises(UnknownNameError, match="two-sided, greater"):
        max_t(np.zeros((1, 4)), alternative="less")
    with pytest.raises(InputError, match="one value an image"):
        estimate(np.zeros((3, 2)))
    with pytest.raises(InputError, match="not all numbers"):
        estimate(pd.Series([0.1, None], dtype=object).astype("string"))
    with pytest.raises(InputError, match="one id a row"):
        cluster_interval([0.1, 0.2], ["a"])
    with pytest.raises(InputError, match="1 values are not finite"):
        cluster_interval([0.1, np.nan], ["a", "b"])
