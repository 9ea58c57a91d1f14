from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ground_probe.segmentation.words import counted, place_of, place_prior, token_weights

EXPRESSIONS = Path(__file__).parents[2] / "shared/data/refer-sample/refcoco_unc_expressions.tsv.gz"
OTHER_WORDS = st.lists(
    st.sampled_from(["man", "cup", "topping", "upset", "bright", "downtown", "red"])
)


@given(
    before=OTHER_WORDS, after=OTHER_WORDS, side=st.sampled_from(["left", "right", "top", "bottom"])
)
def test_a_side_is_found_as_a_whole_word_wherever_it_stands(before, after, side):
    words = [*before, side, *after]
    assert place_of(" ".join(words)).sides == (side,)
    assert place_of(" ".join(words).upper()) == place_of(" ".join(words))


@given(OTHER_WORDS)
def test_words_that_only_hold_a_side_name_none(words):
    assert place_of(" ".join(words)).sides == ()


@given(st.integers(1, 9), st.integers(1, 9))
def test_opposite_sides_mirror_each_other_and_grow_towards_their_side(rows, cols):
    left, right, top, bottom = (
        place_prior(place_of(side), (rows, cols)) for side in ("left", "right", "top", "bottom")
    )
    np.testing.assert_allclose(left, right[:, ::-1])
    np.testing.assert_allclose(top, bottom[::-1])
    assert (np.diff(right, axis=1) > 0).all() and (np.diff(bottom, axis=0) > 0).all()


@pytest.mark.parametrize(
    ("expression", "sides", "ordinal"),
    [
        ("top left slice", ("top", "left"), None),
        ("the leftmost man", ("left",), None),
        ("man in the center", ("middle",), None),
        ("lower cup", ("bottom",), None),
        ("second from left", ("left",), 2),
        ("3rd person from the right", ("right",), 3),
        ("the first dog", (), None),
        ("the small red star to the left of the blue ring", (), None),
        ("man on left of picture", ("left",), None),
        ("left of the two dogs", ("left",), None),
        ("guy on the left side", ("left",), None),
    ],
)
def test_places_by_hand(expression, sides, ordinal):
    place = place_of(expression)
    assert (place.sides, place.ordinal) == (sides, ordinal)


@pytest.mark.parametrize(
    ("expression", "count"),
    [
        ("the two left dots", 2),
        ("both cups on the right", 2),
        ("three birds at the top", 3),
        ("left of the two dogs", None),
        ("the two dots", None),
        ("the second of two dots from the left", None),
    ],
)
def test_numbers_by_hand(expression, count):
    assert place_of(expression).count == count


def test_middle_peaks_in_the_middle():
    fit = place_prior(place_of("middle one"), (5, 5))
    assert np.unravel_index(fit.argmax(), fit.shape) == (2, 2)
    assert fit[0, 0] == fit[4, 4] == fit.min()


@pytest.mark.skipif(not EXPRESSIONS.exists(), reason=f"{EXPRESSIONS} is not here")
def test_real_expressions_name_sides_as_often_as_was_counted():
    with gzip.open(EXPRESSIONS, "rt") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    found = [place_of(row["text"]).sides for row in rows]
    share = np.mean([bool({"left", "right"} & set(sides)) for sides in found])
    assert 0.42 < share < 0.49  # 47, 40 and 54 % of val, testA and testB, less relations


def test_an_ordinal_keeps_one_region_and_too_few_keep_all():
    mask = np.array([[1, 0, 1, 0, 1], [1, 0, 0, 0, 1]], bool)
    second = counted(mask, place_of("second from the right"))
    assert second.tolist() == [[False, False, True, False, False], [False] * 5]
    assert (counted(mask, place_of("fourth from the left")) == mask).all()
    assert (counted(mask, place_of("second star")) == mask).all()


@pytest.mark.parametrize("mark", ["▁{}", "Ġ{}", "{}</w>", "{}"])
def test_stop_words_and_punctuation_lose_their_weight_in_every_spelling(mark):
    tokens = [mark.format(word) for word in ("The", "red", "circle", ",", "that", "is", "big")]
    weights = token_weights(tokens, stop_words=False)
    np.testing.assert_allclose(weights, np.array([0, 1, 1, 0, 0, 0, 1]) / 3)
    np.testing.assert_allclose(token_weights(tokens, stop_words=True), np.full(7, 1 / 7))


def test_an_expression_of_stop_words_keeps_them():
    np.testing.assert_allclose(token_weights(["▁that", "▁one"], stop_words=False), [0.5, 0.5])
