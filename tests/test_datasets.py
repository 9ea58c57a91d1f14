"""The registry of data sets and the example that they all give."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from ground_probe import RefExample, load_split
from ground_probe.datasets import DATASETS, GENERATED, check_data
from ground_probe.datasets.listed import as_split
from ground_probe.errors import InputError, UnknownNameError

GREY, RGB = Image.new("L", (4, 3)), Image.new("RGB", (4, 3))
MASK = np.ones((3, 4), bool)


def example(image=RGB, mask=MASK, **rest):
    return RefExample("k", image, "the ring", mask, "1", **rest)


def test_an_example_fits_together_or_says_why_not():
    assert example(distractors=(~MASK,), others=("the square",)).distractors[0].sum() == 0
    with pytest.raises(InputError, match="k: the image is L, expected RGB"):
        example(image=GREY)
    with pytest.raises(InputError, match=r"k: the mask is bool of \(4, 3\) .* image's \(3, 4\)"):
        example(mask=MASK.T)
    with pytest.raises(InputError, match="k: the distractor is float64"):
        example(distractors=(MASK.astype(float),))


@pytest.mark.parametrize("dataset", GENERATED)
def test_every_generated_split_can_be_read_cheaply_and_sent_to_a_worker(dataset):
    assert DATASETS[dataset] == ("train", "val", "test")
    split = load_split(dataset, "val", limit=5, seed=3)
    assert (split.dataset, split.split) == (dataset, "val") and split.revision
    assert len(split) == len(set(split.keys)) == len(split.image_ids) == 5
    there = pickle.loads(pickle.dumps(split))
    for index, (key, text) in enumerate(zip(split.keys, split.expressions, strict=True)):
        first, second = split[index], there[index]
        assert first.key == second.key == key and first.expression == second.expression == text
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.mask, second.mask)
    assert check_data(dataset, "val").ok


def test_names_that_do_not_exist_are_refused_everywhere():
    for look in (load_split, check_data):
        with pytest.raises(UnknownNameError, match=r"unknown dataset 'scene'.*did you mean"):
            look("scene", "val")
        with pytest.raises(UnknownNameError, match=r"unknown split of refcocog_umd 'testA'"):
            look("refcocog_umd", "testA")


@pytest.mark.parametrize("dataset", ["scenes", "cartoons"])
def test_a_slice_is_a_split_and_a_split_shows_itself_in_few_lines(dataset):
    split = load_split(dataset, "test", limit=6)
    part = split[1:6:2]
    assert part.keys == (split.keys[1], split.keys[3], split.keys[5])
    assert part.image_ids == part.keys and part.expressions == split.expressions[1::2]
    assert (part.dataset, part.split, part.revision) == (dataset, "test", split.revision)
    assert part[-1].key == split[5].key == split[-1].key
    assert [example.key for example in split[:2]] == list(split.keys[:2])
    assert part[:1][0].key == split.keys[1] and len(split[9:]) == 0
    assert pickle.loads(pickle.dumps(part)).keys == part.keys
    for index in (6, -7):
        with pytest.raises(IndexError):
            split[index]
    shown = repr(split)
    assert len(shown.splitlines()) <= 3 and f"{dataset} test: 6 expressions of 6 images" in shown


def test_a_list_of_examples_is_a_split():
    examples = list(load_split("scenes", "test", limit=3))
    split = as_split(examples)
    assert split.keys == tuple(example.key for example in examples) and split[1] is examples[1]
    assert as_split(split) is split
    assert len(split[:2]) == 2 and split[:2].expressions == split.expressions[:2]
    with pytest.raises(InputError, match="item 1 of the list is a str: give what `load_split`"):
        as_split([examples[0], "the ring"])
