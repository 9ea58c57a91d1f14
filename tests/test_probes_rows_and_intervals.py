"""Rows, folds, per-image values and intervals: scikit-learn, scipy and hand-worked masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap, permutation_test
from sklearn.metrics import average_precision_score, roc_auc_score

from ground_probe.errors import InputError, UnknownNameError
from ground_probe.probes import (
    attention_auc,
    compare,
    estimate,
    hard_labels,
    max_t,
    per_image,
    pointing_game,
    score_estimate,
)
from ground_probe.probes.rows import HELD_OUT, fold_of

MASK = np.array([[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
ATTENTION = np.array([[1, 9, 3, 1], [2, 4, 5, 1], [0, 0, 0, 0]])
ONE_IMAGE = np.zeros(12)


def rows(images=30, tokens=20, share=0.3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random(images * tokens) < share, np.arange(images * tokens) // tokens, rng


def test_hand_worked_attention():
    # Object tokens hold 9, 3, 4; of the nine others only 5 beats any: it beats 3 and 4.
    found = attention_auc(ATTENTION.ravel(), MASK.ravel(), ONE_IMAGE)
    assert found.value == pytest.approx(25 / 27)
    assert (found.n, found.n_left_out) == (1, 0)
    assert found.pooled == found.value
    assert np.isnan([found.low, found.high]).all()  # one image has no interval


def test_hand_worked_pointing_game_and_its_ties():
    assert pointing_game(ATTENTION.ravel(), MASK.ravel(), ONE_IMAGE).value == 1
    assert pointing_game(np.ones(12), MASK.ravel(), ONE_IMAGE).value == 0.25
    missed = pointing_game(-ATTENTION.ravel(), MASK.ravel(), ONE_IMAGE)
    assert missed.value == 0
    assert np.isnan(missed.pooled)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 5), st.booleans()), min_size=2, max_size=60
    ).filter(lambda tokens: len({label for _, _, label in tokens}) == 2)
)
def test_per_image_metrics_agree_with_scikit_learn_also_with_ties(tokens):
    image, score, label = (np.array(column) for column in zip(*tokens, strict=True))
    for metric, oracle in (("auc", roc_auc_score), ("average_precision", average_precision_score)):
        expected = [
            oracle(label[image == i], score[image == i])
            if len(set(label[image == i])) == 2
            else np.nan
            for i in np.unique(image)
        ]
        found = per_image(score.astype(float), label, image, metric=metric)
        np.testing.assert_allclose(found, expected)


@given(seed=st.integers(0, 999))
def test_auc_knows_only_the_order(seed):
    labels, images, rng = rows(4, 30, seed=seed)
    scores = rng.normal(size=len(labels))
    found = per_image(scores, labels, images)
    np.testing.assert_allclose(per_image(np.exp(scores), labels, images), found)
    np.testing.assert_allclose(per_image(-scores, labels, images), 1 - found)


def test_images_without_both_classes_are_left_out_and_counted():
    labels, images, rng = rows(10)
    labels[images < 3] = False
    found = score_estimate(rng.normal(size=len(labels)), labels, images)
    assert (found.n, found.n_left_out) == (7, 3)


def test_several_expressions_of_an_image_count_as_one_image():
    labels = np.array([1, 0, 1, 0, 1, 0])
    scores = np.array([2.0, 1.0, 1.0, 2.0, 2.0, 1.0])
    images = np.array(["a", "a", "a", "a", "b", "b"])
    examples = np.array(["a-1", "a-1", "a-2", "a-2", "b-1", "b-1"])
    np.testing.assert_array_equal(per_image(scores, labels, images, examples=examples), [0.5, 1.0])
    with pytest.raises(InputError, match="reaches over two images"):
        per_image(scores, labels, images, examples=np.zeros(6))


def test_rows_that_were_not_scored_are_ignored():
    scores = np.array([1.0, 0.0, np.nan, np.nan])
    np.testing.assert_array_equal(per_image(scores, [1, 0, 1, 0], [0, 0, 1, 1]), [1.0])


def test_hard_labels_leave_a_band_out():
    labels, keep = hard_labels(np.array([0, 0.05, 0.2, 0.4999999, 1]), lower=0.1, upper=0.5)
    assert labels.tolist() == [False, False, False, True, True]
    assert keep.tolist() == [True, True, False, True, True]
    with pytest.raises(InputError, match="lower < upper"):
        hard_labels([0.1], 0.5, 0.5)


@given(seed=st.integers(0, 99), folds=st.integers(3, 6), held=st.integers(0, 5))
def test_folds_hold_whole_images(seed, folds, held):
    labels, images, _ = rows(20)
    test_groups = range(held) if held else None
    fold = fold_of(images, labels, folds=folds, seed=seed, test_groups=test_groups)
    for image in range(20):
        (index,) = np.unique(fold[images == image])
        assert (index == HELD_OUT) == (image < held)
    assert set(fold) - {HELD_OUT} == set(range(folds))


def test_estimate_agrees_with_scipy():
    values = np.random.default_rng(0).beta(5, 2, size=90)
    found = estimate([*values, np.nan])
    scipy = bootstrap((values,), np.mean, method="percentile", rng=1).confidence_interval
    np.testing.assert_allclose((found.low, found.high), scipy, atol=0.005)
    assert found.value == pytest.approx(values.mean())


def test_intervals_over_images_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    found = [estimate(rng.normal(size=40), resamples=400, seed=i) for i in range(400)]
    covered = np.mean([each.low < 0 < each.high for each in found])
    assert 0.90 < covered < 0.98


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


def test_errors_say_what_was_expected():
    labels, images, rng = rows(10)
    scores = rng.normal(size=len(labels))
    with pytest.raises(InputError, match="without groups refuses to run"):
        per_image(scores, labels, None)
    with pytest.raises(InputError, match="hard_labels"):
        per_image(scores, scores, images)
    with pytest.raises(InputError, match="single class"):
        per_image(scores, np.ones(len(scores)), images)
    with pytest.raises(InputError, match="one a row"):
        per_image(scores, labels, images[:-1])
    with pytest.raises(InputError, match="one a row"):
        per_image(scores[:-1], labels, images)
    with pytest.raises(UnknownNameError, match="average_precision"):
        per_image(scores, labels, images, metric="aucc")
    with pytest.raises(InputError, match="no image has both classes"):
        attention_auc(scores, images % 2, images)
    with pytest.raises(InputError, match="3 <= folds <= images"):
        fold_of(images, labels, folds=11)
    with pytest.raises(InputError, match="none of test_groups"):
        fold_of(images, labels, test_groups=["a"])
    with pytest.raises(InputError, match=r"fold \d of 5 holds a single class"):
        fold_of(images, images == 0)
    with pytest.raises(InputError, match="same images"):
        compare(np.zeros(3), np.zeros(4))
    with pytest.raises(InputError, match="needs 2"):
        max_t(np.full((3, 4), np.nan))


def test_tensors_are_welcome():
    labels, images, rng = rows(5)
    scores = rng.normal(size=len(labels)).astype(np.float32)
    found = per_image(
        torch.from_numpy(scores).bfloat16(), torch.from_numpy(labels), torch.from_numpy(images)
    )
    np.testing.assert_allclose(found, per_image(scores, labels, images), atol=0.05)
