"""Fitted probes: scikit-learn as oracle, noise as null, the known traps shown avoided."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, silhouette_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from ground_probe.errors import InputError, UnknownNameError
from ground_probe.probes import (
    compare,
    control_labels,
    fisher_ratio,
    held_out_scores,
    linear_probe_auc,
    mdl_compression,
    neighbours_auc,
    per_image,
    permuted_labels,
    position_features,
    probe_grid,
    prototype_auc,
    selectivity,
    silhouette,
)

IMAGES, TOKENS, WIDTH = 48, 40, 12
GROUPS = np.arange(IMAGES * TOKENS) // TOKENS


def task(signal, seed=0, width=WIDTH):
    """Tokens of noise that differ between images, with one direction that tells the object."""
    rng = np.random.default_rng(seed)
    labels = rng.random(len(GROUPS)) < 0.3
    features = rng.normal(size=(len(GROUPS), width)) + rng.normal(size=(IMAGES, width))[GROUPS]
    features[:, 0] += signal * labels
    return features.astype(np.float32), labels


@pytest.mark.parametrize("probe", [linear_probe_auc, prototype_auc, neighbours_auc])
def test_probes_find_a_planted_direction_and_nothing_in_noise(probe):
    assert probe(*task(2.5), GROUPS).low > 0.65
    noise = probe(*task(0), GROUPS)
    assert noise.low < 0.5 < noise.high
    assert noise.n == IMAGES


def test_image_folds_avoid_the_leak_of_token_folds():
    # Every image has its own share of object tokens and its own features: nothing to find within.
    rng = np.random.default_rng(0)
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
    scores = probe_grid([features], labels, GROUPS, test_groups=range(10)).scores[0]
    assert np.isnan(scores[~test]).all()
    mean, std = features[~test].mean(0), features[~test].std(0)
    plain = LogisticRegression(C=1e-2).fit((features[~test] - mean) / std, labels[~test])
    expected = plain.decision_function((features[test] - mean) / std)
    assert np.corrcoef(scores[test], expected)[0, 1] > 0.999


@pytest.mark.parametrize("probe", ["linear", "discriminant", "prototype", "neighbours"])
def test_labels_of_test_images_cannot_reach_their_scores(probe):
    features, labels = task(1)
    how = {"probe": probe, "test_groups": range(10)}
    scores = held_out_scores(features, labels, GROUPS, **how)
    labels[GROUPS < 10] ^= True
    np.testing.assert_array_equal(scores, held_out_scores(features, labels, GROUPS, **how))


def test_labels_of_test_images_cannot_reach_the_scores_of_the_fast_path():
    features, labels = task(1)
    scores = probe_grid([features], labels, GROUPS, test_groups=range(10)).scores
    labels[GROUPS < 10] ^= True
    again = probe_grid([features], labels, GROUPS, test_groups=range(10)).scores
    np.testing.assert_array_equal(scores, again)


def test_neighbours_and_prototypes_agree_with_a_direct_computation():
    features, labels = task(1)
    test = GROUPS < 8
    train = features[~test]
    x = (features - train.mean(0)) / train.std(0)
    nearest = KNeighborsClassifier(20, weights="distance").fit(x[~test], labels[~test])
    found = held_out_scores(features, labels, GROUPS, probe="neighbours", test_groups=range(8))
    np.testing.assert_allclose(found[test], nearest.predict_proba(x[test])[:, 1], atol=1e-3)
    mean = [x[~test & (labels == side)].mean(0) for side in (True, False)]
    unit = [m / np.linalg.norm(m) for m in mean]
    expected = x[test] @ (unit[0] - unit[1]) / np.linalg.norm(x[test], axis=1)
    found = held_out_scores(features, labels, GROUPS, probe="prototype", test_groups=range(8))
    np.testing.assert_allclose(found[test], expected, atol=1e-4)


@pytest.mark.parametrize("form", ["direction", "trace"])
def test_fisher_ratio_by_hand(form):
    # One feature, every image alike: object 4, 6 and rest 1, 3; (5 - 2)^2 / (2 + 2).
    features = np.tile([[4.0], [6.0], [1.0], [3.0]], (6, 1))
    labels, groups = np.tile([1, 1, 0, 0], 6), np.arange(24) // 4
    found = fisher_ratio(features, labels, groups, form=form)
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
        for form in ("direction", "trace"):
            found = fisher_ratio(features, labels, GROUPS, form=form)
            assert found.low < 0 < found.high
            assert abs(found.value) < 0.05
    assert trap[1] > 10 * trap[0]
    assert trap[1] > 0.3


def test_fisher_ratio_recovers_what_was_planted():
    # (2 / 1)^2 over two unit variances, in one of twelve directions.
    features, labels = task(2)
    assert fisher_ratio(features, labels, GROUPS).value == pytest.approx(2, rel=0.2)


def test_silhouette_is_scikit_learns_in_each_image():
    features, labels = task(3)
    x = (features - features.mean(0)) / features.std(0)
    images = np.split(np.arange(len(GROUPS)), IMAGES)
    expected = [silhouette_score(x[rows], labels[rows]) for rows in images]
    assert silhouette(features, labels, GROUPS).value == pytest.approx(np.mean(expected), abs=1e-5)


def test_description_length():
    assert mdl_compression(*task(4), GROUPS).low > 2
    assert mdl_compression(*task(0), GROUPS).high < 1.02
    with pytest.raises(InputError, match="47 images: the online code needs 48"):
        features, labels = task(0)
        mdl_compression(features[TOKENS:], labels[TOKENS:], GROUPS[TOKENS:])


@pytest.mark.parametrize("test_groups", [None, range(12)])
@pytest.mark.parametrize(("signal", "width"), [(0, 12), (1, 12), (6, 12), (1, 300)])
def test_the_fast_path_agrees_with_scikit_learn(signal, width, test_groups):
    features, labels = task(signal, width=width)
    features[:, 1] = features[:, 2] * 1000 + 50  # collinear, and far from standardised
    features[:, 3] = 7  # constant
    how = {"test_groups": test_groups, "seed": 1}
    fast = probe_grid([features], labels, GROUPS, **how)
    scores = held_out_scores(features, labels, GROUPS, probe="linear", **how)
    slow = per_image(scores, labels, GROUPS)
    np.testing.assert_array_equal(np.isnan(fast.scores[0]), np.isnan(scores))
    np.testing.assert_allclose(fast.per_image[0], slow, atol=0.05)
    assert fast.estimates[0].value == pytest.approx(slow.mean(), abs=0.002)


@pytest.mark.parametrize("probe", ["linear", "prototype"])
def test_both_sides_at_once_are_each_side_alone(probe):
    features, labels = task(1)

    def scores(rows, **how):
        if probe == "linear":
            return probe_grid([features[rows]], labels[rows], GROUPS[rows], **how).scores[0]
        return held_out_scores(features[rows], labels[rows], GROUPS[rows], probe=probe, **how)

    everything, test = np.ones(len(GROUPS), bool), GROUPS < 10
    both = scores(everything, test_groups=range(10), inside=True)
    alone = scores(everything, test_groups=range(10))
    assert np.isnan(alone[~test]).all() and not np.isnan(both).any()
    np.testing.assert_allclose(both[test], alone[test], atol=1e-2)
    np.testing.assert_allclose(both[~test], scores(~test), atol=1e-2)


def test_a_grid_keeps_its_cells_apart_and_takes_tensors_and_generators():
    cells = [task(signal)[0] for signal in (0, 1, 3)]
    labels = task(0)[1]
    grid = probe_grid((torch.from_numpy(cell) for cell in cells), labels, GROUPS)
    values = [found.value for found in grid.estimates]
    assert values == sorted(values)
    assert compare(grid.per_image[2], grid.per_image[0]).p < 0.001
    alone = probe_grid(cells[1][None], labels, GROUPS)
    np.testing.assert_allclose(alone.per_image[0], grid.per_image[1], atol=1e-3)
    np.testing.assert_array_equal(grid.images, np.arange(IMAGES))


def test_fast_path_is_blind_to_scale_and_place():
    features, labels = task(1)
    moved = features * np.geomspace(1e-3, 1e3, WIDTH, dtype=np.float32) + 5
    grid = probe_grid([features, moved], labels, GROUPS)
    np.testing.assert_allclose(*grid.per_image, atol=0.01)


def test_position_alone_finds_centred_objects_and_not_scattered_ones():
    position = np.tile(position_features((5, 8)), (IMAGES, 1))
    assert position.shape == (len(GROUPS), 9)
    rng = np.random.default_rng(0)
    centred = np.hypot(*position[:, :2].T) + 0.3 * rng.normal(size=len(GROUPS)) < 0.5
    assert linear_probe_auc(position, centred, GROUPS).low > 0.8
    scattered = linear_probe_auc(position, task(0)[1], GROUPS)
    assert scattered.low < 0.5 < scattered.high


def test_control_labels():
    features, labels = task(2)
    permuted = permuted_labels(labels, GROUPS)
    assert (permuted != labels).any()
    np.testing.assert_array_equal(np.bincount(GROUPS, permuted), np.bincount(GROUPS, labels))
    places = np.tile(np.arange(TOKENS), IMAGES)
    by_heart = control_labels(places, share=0.25)
    assert by_heart.reshape(IMAGES, TOKENS).std(axis=0).max() == 0
    assert by_heart.mean() == 0.25
    # A probe that knows the place can learn the control task, and then is not selective.
    one_hot = np.eye(TOKENS, dtype=np.float32)[places]
    assert linear_probe_auc(one_hot, by_heart, GROUPS).value == 1
    assert selectivity(features, labels, GROUPS, by_heart).low > 0.3
    assert selectivity(one_hot, labels, GROUPS, by_heart).high < -0.3
    with pytest.raises(InputError, match="single class"):
        control_labels(places, share=0.0)


def test_errors_say_what_was_expected():
    features, labels = task(1)
    with pytest.raises(InputError, match="without groups refuses to run"):
        linear_probe_auc(features, labels, None)
    with pytest.raises(TypeError):
        linear_probe_auc(features, labels)
    with pytest.raises(InputError, match=r"give \(1920, d\)"):
        fisher_ratio(features[:-1], labels, GROUPS)
    with pytest.raises(InputError, match="not finite"):
        probe_grid([features * np.inf], labels, GROUPS)
    with pytest.raises(InputError, match="not finite"):
        probe_grid([torch.from_numpy(features) * np.nan], labels, GROUPS)
    with pytest.raises(InputError, match="hold no cell"):
        probe_grid([], labels, GROUPS)
    with pytest.raises(UnknownNameError, match="linear, discriminant"):
        held_out_scores(features, labels, GROUPS, probe="svm")
    with pytest.raises(UnknownNameError, match="direction, trace"):
        fisher_ratio(features, labels, GROUPS, form="ratio")
