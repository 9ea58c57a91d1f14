"""Mask metrics: hand-worked, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from ground_probe import metrics
from ground_probe.errors import InputError

PRED = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
GOLD = np.array([[0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0]], dtype=bool)
EMPTY = np.zeros((3, 4), dtype=bool)

areas = st.lists(st.tuples(st.integers(0, 99), st.integers(1, 99)), min_size=1).map(
    lambda rows: np.array([(min(row), max(row)) for row in rows])
)


def test_hand_worked_masks():
    assert metrics.counts(PRED, GOLD) == (2, 8)
    assert metrics.counts(EMPTY, GOLD) == (0, 6)
    assert metrics.counts(EMPTY, EMPTY) == (0, 0)
    assert metrics.counts(torch.from_numpy(PRED), GOLD) == (2, 8)
    np.testing.assert_array_equal(metrics.iou([2, 0, 0], [8, 6, 0]), [0.25, 0, 0])


def test_mean_and_overall_iou_differ_and_empty_predictions_count():
    intersections, unions = np.array([(2, 8), (0, 6), (6, 6)]).T
    assert metrics.miou(intersections, unions) == pytest.approx((0.25 + 0 + 1) / 3)
    assert metrics.oiou(intersections, unions) == pytest.approx(8 / 20)


def test_precision_is_strict():
    ious = [0.5, 0.5000001, 0.7, 0.0]
    assert metrics.precision_at(ious, 0.5) == 0.5
    assert metrics.precision_at(ious, 0.7) == 0.0


@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.95))
def test_iou_agrees_with_scikit_learn_and_is_symmetric(seed, share):
    pred, gold = np.random.default_rng(seed).random((2, 5, 7)) < share
    expected = jaccard_score(gold.ravel(), pred.ravel(), zero_division=0)
    assert metrics.iou(*metrics.counts(pred, gold)) == pytest.approx(expected)
    assert metrics.counts(pred, gold) == metrics.counts(gold, pred)


@given(rows=areas)
def test_overall_iou_is_the_mean_weighted_by_union(rows):
    intersections, unions = rows.T
    ious = metrics.iou(intersections, unions)
    assert metrics.oiou(intersections, unions) == pytest.approx(np.average(ious, weights=unions))
    assert 0 <= metrics.miou(intersections, unions) <= 1


def test_errors_say_what_was_expected():
    with pytest.raises(InputError, match=r"uint8 mask of \(3, 4\).*two bool arrays"):
        metrics.counts(PRED.astype(np.uint8), GOLD)
    with pytest.raises(InputError, match=r"\(4, 3\).*original image's size"):
        metrics.counts(PRED.T, GOLD)
    with pytest.raises(InputError, match="at least one row"):
        metrics.miou([], [])
    with pytest.raises(InputError, match="1 values are not finite"):
        metrics.precision_at([0.1, float("nan")], 0.5)


def test_boxes_of_masks():
    assert metrics.box_counts(PRED, GOLD) == (2, 8)
    hollow = GOLD.copy()
    hollow[1, 1:3] = False
    assert metrics.box_counts(hollow, GOLD) == (6, 6)  # the box does not see what it encloses
    assert metrics.box_counts(EMPTY, GOLD) == (0, 6)
    with pytest.raises(InputError, match="original image's size"):
        metrics.box_counts(PRED.T, GOLD)
