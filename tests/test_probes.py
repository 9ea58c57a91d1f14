"""Fitted probes: scikit-learn as oracle, noise as null, the known traps shown avoided."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold, LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ground_probe.errors import InputError, UnknownNameError
from ground_probe.probes import (
    control_labels,
    fisher_ratio,
    held_out_scores,
    linear_probe_auc,
    per_image,
    position_features,
    probe_auc,
)
from ground_probe.probes.linear import PENALTIES

IMAGES, TOKENS, WIDTH = 48, 40, 12
GROUPS = np.arange(IMAGES * TOKENS) // TOKENS


def task(signal, seed=0, width=WIDTH):
    """Tokens of noise that differ between images, with one direction that tells the object."""
    rng = np.random.default_rng(seed)
    labels = rng.random(len(GROUPS)) < 0.3
    features = rng.normal(size=(len(GROUPS), width)) + rng.normal(size=(IMAGES, width))[GROUPS]
    features[:, 0] += signal * labels
    return features.astype(np.float32), labels


@pytest.mark.parametrize("probe", ["linear", "prototype", "discriminant"])
def test_probes_find_a_planted_direction_and_nothing_in_noise(probe):
    assert probe_auc(*task(2.5), GROUPS, probe).low > 0.65
    noise = probe_auc(*task(0), GROUPS, probe)
    assert noise.low < 0.5 < noise.high
    assert noise.n == IMAGES


def test_image_folds_avoid_the_leak_of_token_folds():
    # Every image has its own share of object tokens and its own features: nothing to find within.
    rng = np.random.default_rng(1)
    labels = rng.random(len(GROUPS)) < rng.beta(0.4, 0.8, size=IMAGES)[GROUPS]
    features = rng.normal(size=(IMAGES, 64))[GROUPS] + 0.1 * rng.normal(size=(len(GROUPS), 64))
    leaky = cross_val_predict(
        LogisticRegression(max_iter=500),
        features,
        labels,
        cv=KFold(5, shuffle=True, random_state=0),
        method="decision_function",
    )
    assert roc_auc_score(labels, leaky) > 0.8
    honest = linear_probe_auc(features, labels, GROUPS)
    assert honest.low < 0.5 < honest.high
    assert honest.pooled < 0.65


def test_linear_probe_is_the_plain_scikit_learn_probe_on_a_split():
    features, labels = task(1)
    test = GROUPS < 10
    scores = held_out_scores(features, labels, GROUPS, test_groups=range(10))
    assert np.isnan(scores[~test]).all()
    mean, std = features[~test].mean(0), features[~test].std(0)
    plain = RidgeClassifier(0.1 * (~test).sum(), class_weight="balanced")
    plain.fit((features[~test] - mean) / std, labels[~test])
    expected = plain.decision_function((features[test] - mean) / std)
    assert np.corrcoef(scores[test], expected)[0, 1] > 0.999


@pytest.mark.parametrize("probe", ["linear", "discriminant", "prototype"])
def test_labels_of_test_images_cannot_reach_their_scores(probe):
    features, labels = task(1)
    how = {"estimator": probe, "test_groups": range(10)}
    scores = held_out_scores(features, labels, GROUPS, **how)
    labels[GROUPS < 10] ^= True
    np.testing.assert_array_equal(scores, held_out_scores(features, labels, GROUPS, **how))


def test_fisher_ratio_recovers_what_was_planted():
    # (2 / 1)^2 over two unit variances, in one of twelve directions.
    features, labels = task(2)
    assert fisher_ratio(features, labels, GROUPS).value == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize("test_groups", [None, range(12)])
@pytest.mark.parametrize(("signal", "width"), [(0, 12), (1, 12), (6, 12), (1, 300)])
def test_the_linear_probe_agrees_with_scikit_learn(signal, width, test_groups):
    features, labels = task(signal, width=width)
    features[:, 1] = features[:, 2] * 1000 + 50  # collinear, and far from standardized
    features[:, 3] = 7  # constant
    how = {"test_groups": test_groups, "seed": 1}
    ridge = make_pipeline(StandardScaler(), RidgeClassifier(class_weight="balanced"))
    search = GridSearchCV(
        ridge,
        {"ridgeclassifier__alpha": np.array(PENALTIES) * len(labels) * 0.7},
        cv=LeaveOneGroupOut(),
        scoring="roc_auc",
    )
    fast = held_out_scores(features, labels, GROUPS, **how)
    oracle = held_out_scores(features, labels, GROUPS, search, **how)
    np.testing.assert_array_equal(np.isnan(fast), np.isnan(oracle))
    known = ~np.isnan(fast)
    fast, slow = (per_image(s[known], labels[known], GROUPS[known]) for s in (fast, oracle))
    np.testing.assert_allclose(fast, slow, atol=0.05)
    assert fast.mean() == pytest.approx(slow.mean(), abs=0.002)


@pytest.mark.parametrize("probe", ["linear", "prototype"])
def test_both_sides_at_once_are_each_side_alone(probe):
    features, labels = task(1)

    def scores(rows, **how):
        return held_out_scores(features[rows], labels[rows], GROUPS[rows], probe, **how)

    everything, test = np.ones(len(GROUPS), bool), GROUPS < 10
    both = scores(everything, test_groups=range(10), inside=True)
    alone = scores(everything, test_groups=range(10))
    assert np.isnan(alone[~test]).all() and not np.isnan(both).any()
    np.testing.assert_allclose(both[test], alone[test], atol=1e-2)
    np.testing.assert_allclose(both[~test], scores(~test), atol=1e-2)


@pytest.mark.parametrize("probe", ["linear", "discriminant", "prototype"])
@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1e20, 1e38])
def test_probes_are_blind_to_scale(probe, scale):
    features, labels = task(1)
    scaled = (features / np.abs(features).max()).astype(np.float64) * scale
    expected = probe_auc(features, labels, GROUPS, probe)
    for kind in (np.float32, np.float64):
        found = probe_auc(scaled.astype(kind), labels, GROUPS, probe)
        assert found.value == pytest.approx(expected.value, abs=2e-3)
    one = features.astype(np.float64)
    one[:, 0] *= scale  # the informative column alone
    assert probe_auc(one, labels, GROUPS, probe).value == pytest.approx(expected.value, abs=2e-3)


def test_the_linear_probe_is_blind_to_place_and_order():
    features, labels = task(1)
    expected = held_out_scores(features, labels, GROUPS)
    moved = features * np.geomspace(1e-3, 1e3, WIDTH) + 5
    np.testing.assert_allclose(held_out_scores(moved, labels, GROUPS), expected, atol=0.02)
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = held_out_scores(features[order], labels[order], GROUPS[order])
    np.testing.assert_allclose(shuffled, expected[order], atol=0.02)


@pytest.mark.parametrize(
    "container",
    [
        lambda x: x[::-1][::-1].copy()[::-1][::-1],
        lambda x: np.flip(np.flip(x, 0).copy(), 0),
        lambda x: x.astype(">f4"),
        lambda x: x.astype(object),
        lambda x: pd.DataFrame(x),
        lambda x: pd.DataFrame(x).astype("Float64"),
        torch.from_numpy,
        list,
    ],
)
def test_every_container_gives_the_same_numbers(container):
    features, labels = task(1)
    expected = linear_probe_auc(features, labels, GROUPS)
    assert linear_probe_auc(container(features), labels, GROUPS).value == pytest.approx(
        expected.value, abs=1e-4
    )


def test_any_classifier_is_a_probe():
    features, labels = task(2)
    tree = RandomForestClassifier(20, max_depth=4, random_state=0)
    found = probe_auc(features, labels, GROUPS, tree, test_groups=range(12))
    assert found.n == 12 and found.low > 0.7
    with pytest.raises(InputError, match="neither decision_function nor predict_proba"):
        probe_auc(features, labels, GROUPS, KMeans(2))


def test_position_alone_finds_centred_objects_and_not_scattered_ones():
    position = np.tile(position_features((5, 8)), (IMAGES, 1))
    assert position.shape == (len(GROUPS), 9)
    rng = np.random.default_rng(0)
    centered = np.hypot(*position[:, :2].T) + 0.3 * rng.normal(size=len(GROUPS)) < 0.5
    assert linear_probe_auc(position, centered, GROUPS).low > 0.8
    scattered = linear_probe_auc(position, task(0)[1], GROUPS)
    assert scattered.low < 0.5 < scattered.high


def test_errors_say_what_was_expected():
    features, labels = task(1)
    with pytest.raises(InputError, match="without groups refuses to run"):
        linear_probe_auc(features, labels, None)
    with pytest.raises(TypeError):
        linear_probe_auc(features, labels)
    with pytest.raises(InputError, match=r"give \(1920, d\)"):
        fisher_ratio(features[:-1], labels, GROUPS)
    with pytest.raises(InputError, match="not finite"):
        linear_probe_auc(features * np.inf, labels, GROUPS)
    with pytest.raises(InputError, match="not finite"):
        linear_probe_auc(torch.from_numpy(features) * np.nan, labels, GROUPS)
    with pytest.raises(InputError, match="no column"):
        linear_probe_auc(features[:, :0], labels, GROUPS)
    with pytest.raises(InputError, match="features are not all numbers"):
        linear_probe_auc(features.astype(str).astype(object) + "a", labels, GROUPS)
    with pytest.raises(InputError, match="1 rows have no image id"):
        linear_probe_auc(features, labels, [None, *GROUPS[1:].tolist()])
    with pytest.raises(TypeError):
        linear_probe_auc(features, labels, GROUPS, metric="fisher")  # is no AUC
    with pytest.raises(UnknownNameError, match="linear, discriminant"):
        held_out_scores(features, labels, GROUPS, "svm")


@pytest.mark.parametrize(
    ("test_groups", "message"),
    [
        (GROUPS < 10, "is a mask: give image ids, as groups"),
        ("01", "not one string"),
        ([1, 2, 99], "1 of 3 test_groups are not among the groups, such as 99"),
        ([], "holds no image id"),
    ],
)
def test_test_groups_are_ids_that_exist(test_groups, message):
    features, labels = task(1)
    with pytest.raises(InputError, match=message):
        linear_probe_auc(features, labels, GROUPS, test_groups=test_groups)


def test_prototypes_agree_with_a_direct_computation():
    features, labels = task(1)
    test = GROUPS < 8
    train = features[~test]
    x = (features - train.mean(0)) / train.std(0)
    mean = [x[~test & (labels == side)].mean(0) for side in (True, False)]
    unit = [m / np.linalg.norm(m) for m in mean]
    expected = x[test] @ (unit[0] - unit[1]) / np.linalg.norm(x[test], axis=1)
    found = held_out_scores(features, labels, GROUPS, "prototype", test_groups=range(8))
    np.testing.assert_allclose(found[test], expected, atol=1e-4)


def test_fisher_ratio_by_hand():
    # One feature, every image alike: object 4, 6 and rest 1, 3; (5 - 2)^2 / (2 + 2).
    features = np.tile([[4.0], [6.0], [1.0], [3.0]], (6, 1))
    labels, groups = np.tile([1, 1, 0, 0], 6), np.arange(24) // 4
    found = fisher_ratio(features, labels, groups)
    assert found.value == pytest.approx(9 / 4, rel=1e-4)
    assert (found.low, found.high) == pytest.approx((9 / 4, 9 / 4), rel=1e-4)


def test_fisher_ratio_of_noise_stays_at_zero_where_the_in_sample_one_grows():
    trap = []
    for width in (8, 256):
        features, labels = task(0, seed=3, width=width)
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1e-6).fit(features, labels)
        along = lda.decision_function(features)
        within = along[labels].var() + along[~labels].var()
        trap.append((along[labels].mean() - along[~labels].mean()) ** 2 / within)
        found = fisher_ratio(features, labels, GROUPS)
        assert found.low < 0 < found.high
        assert abs(found.value) < 0.05
    assert trap[1] > 10 * trap[0]
    assert trap[1] > 0.3


def test_control_labels():
    places = np.tile(np.arange(TOKENS), IMAGES)
    by_heart = control_labels(places, share=0.25)
    assert by_heart.reshape(IMAGES, TOKENS).std(axis=0).max() == 0
    assert by_heart.mean() == 0.25
    # A probe that knows the place can learn the control task, and then is not selective.
    one_hot = np.eye(TOKENS, dtype=np.float32)[places]
    assert linear_probe_auc(one_hot, by_heart, GROUPS).value == 1
    features, _ = task(2)
    assert linear_probe_auc(features, by_heart, GROUPS).high < 0.6
    with pytest.raises(InputError, match="single class"):
        control_labels(places, share=0.0)
