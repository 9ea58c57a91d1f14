"""Labels, folds and values of an image: scikit-learn as oracle, and hand-worked masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from ground_probe.errors import InputError, UnknownNameError
from ground_probe.probes import (
    hard_labels,
    per_image,
    pointing_hit,
    score_estimate,
)
from ground_probe.probes.labels import HELD_OUT, fold_of

MASK = np.array([[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
ATTENTION = np.array([[1, 9, 3, 1], [2, 4, 5, 1], [0, 0, 0, 0]])
ONE_IMAGE = np.zeros(12)


def rows(images=30, tokens=20, share=0.3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random(images * tokens) < share, np.arange(images * tokens) // tokens, rng


def test_hand_worked_attention():
    # Object tokens hold 9, 3, 4; of the nine others only 5 beats any: it beats 3 and 4.
    found = score_estimate(ATTENTION.ravel(), MASK.ravel(), ONE_IMAGE)
    assert found.value == pytest.approx(25 / 27)
    assert (found.n, found.n_left_out) == (1, 0)
    assert found.pooled == found.value
    assert np.isnan([found.low, found.high]).all()  # one image has no interval


def test_hand_worked_pointing_game_and_its_ties():
    assert pointing_hit(ATTENTION, MASK) == 1
    assert pointing_hit(np.ones((3, 4), np.uint8), MASK) == 0.25
    assert pointing_hit(-ATTENTION, MASK) == 0
    assert np.isnan(pointing_hit(ATTENTION, MASK * 0))


def test_the_pointing_game_takes_whole_grids_alone():
    """On a sample of tokens the highest is the object's far too often."""
    with pytest.raises(InputError, match="the highest of a sample of tokens is not the highest"):
        pointing_hit(ATTENTION.ravel(), MASK.ravel())
    with pytest.raises(UnknownNameError, match="unknown metric 'pointing'"):
        per_image(ATTENTION.ravel(), MASK.ravel(), ONE_IMAGE, metric="pointing")


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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    scores = np.array([1.0, 0.0, bad, bad])
    with pytest.raises(InputError, match="2 of 4 scores are not finite"):
        per_image(scores, [1, 0, 1, 0], [0, 0, 1, 1])


@given(seed=st.integers(0, 99), kind=st.sampled_from(["u1", "u2", "i1", "i8", "?", ">i4", "O"]))
def test_scores_of_any_type_score_the_same(seed, kind):
    labels, images, rng = rows(4, 30, seed=seed)
    whole = rng.integers(0, 2 if kind == "?" else 100, len(labels))
    for metric in ("auc", "average_precision", "fisher"):
        found = per_image(whole.astype(kind), labels, images, metric=metric)
        np.testing.assert_allclose(
            found, per_image(whole.astype(float), labels, images, metric=metric)
        )


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
        score_estimate(scores, images % 2, images)
    with pytest.raises(InputError, match="3 <= folds <= images"):
        fold_of(images, labels, folds=11)
    with pytest.raises(InputError, match=r"fold \d of 5 holds a single class"):
        fold_of(images, images == 0)


def test_tensors_are_welcome():
    labels, images, rng = rows(5)
    scores = rng.normal(size=len(labels)).astype(np.float32)
    found = per_image(
        torch.from_numpy(scores).bfloat16(), torch.from_numpy(labels), torch.from_numpy(images)
    )
    np.testing.assert_allclose(found, per_image(scores, labels, images), atol=0.05)
