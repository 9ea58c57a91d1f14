"""Words of every script, found in one way; lists that agree."""

from __future__ import annotations

import gzip
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ground_probe import words
from ground_probe.words import word_spans, words_of

TSV = Path(__file__).resolve().parents[2] / "shared/data/refer-sample"
TSV = TSV / "refcoco_unc_expressions.tsv.gz"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cup, top-left", ["the", "cup", "top", "left"]),
        ("the man's 'red' hat\u2019s", ["the", "man's", "red", "hat\u2019s"]),
        ("красный круг слева", ["красный", "круг", "слева"]),
        ("الدائرة الحمراء", ["الدائرة", "الحمراء"]),
        ("बाईं ओर का आदमी", ["बाईं", "ओर", "का", "आदमी"]),
        ("cafe\u0301 noir", ["cafe\u0301", "noir"]),
        ("左の人", ["左", "の", "人"]),
        ("왼쪽 남자", ["왼쪽", "남자"]),
        ("ผู้ชาย", ["ผู้", "ช", "า", "ย"]),
        ("red圆 circle", ["red", "圆", "circle"]),
        ("🦊", ["🦊"]),
        ("?!", ["?!"]),
        ("", []),
        (" \n", []),
    ],
)
def test_words_of_every_script(text, expected):
    assert words_of(text) == expected


@given(st.text())
def test_only_a_blank_text_has_no_words_and_spans_are_the_words(text):
    assert bool(words_of(text)) == bool(text.strip())
    spans = word_spans(text)
    assert all(start < stop for start, stop in spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    covered = {at for start, stop in spans for at in range(start, stop)}
    assert {at for at, character in enumerate(text) if character.isalnum()} <= covered | {
        at for at, character in enumerate(text) if not re.match(r"\w", character)
    }


@pytest.mark.skipif(not TSV.is_file(), reason=f"{TSV} is not there")
def test_real_sentences_have_the_words_that_they_had():
    with gzip.open(TSV, "rt", encoding="utf-8") as file:
        texts = [line.rstrip("\n").split("\t")[4] for line in file]
    # in the breakdown's old way, which kept apostrophes at the ends too
    old = [[w.strip("'") for w in re.findall(r"[a-z0-9']+", text.lower())] for text in texts]
    differ = [text for text, was in zip(texts, old, strict=True) if words_of(text) != was]
    assert len(differ) < 0.001 * len(texts), differ[:10]


def test_a_word_is_on_one_list():
    lists = (
        words.FUNCTION_WORDS,
        words.PLACE_WORDS,
        words.RELATION_WORDS,
        words.ACTION_WORDS,
        words.ATTRIBUTES,
        frozenset(words.ORDINALS),
    )
    for number, one in enumerate(lists):
        for other in lists[number + 1 :]:
            assert not one & other
