"""What a function is: equal where it gives equal results, another where anything in it differs."""

from __future__ import annotations

import functools
import random
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from ground_probe import segment as library
from ground_probe.evaluation.identity import identity_of

LEVEL = 3


def above(level, image):
    return image > level


def closure(level):
    return lambda image: image > level


def with_global(image):
    return above(LEVEL, image)


@dataclass(frozen=True)
class Above:
    level: float

    def __call__(self, image):
        return image > self.level

    def called(self, image):
        return self(image)


class Slotted:
    __slots__ = ("level",)

    def __init__(self, level):
        self.level = level

    def __call__(self, image):
        return image > self.level


MAKERS = {
    "closure": closure,
    "partial": lambda level: functools.partial(above, level),
    "keyword partial": lambda level: functools.partial(above, level=level),
    "object": Above,
    "slots": Slotted,
    "method": lambda level: Above(level).called,
    "closure of a function": lambda level: lambda image: closure(level)(image),
    "default": lambda level: lambda image, level=level: image > level,
    "array": lambda level: functools.partial(above, np.full((2, 3), level)),
    "tensor": lambda level: functools.partial(above, torch.full((2, 3), float(level))),
    "module": lambda level: functools.partial(above, linear(level)),
    "dictionary": lambda level: functools.partial(above, {"level": [level]}),
}


def linear(level):
    module = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(module.weight, level)
    torch.nn.init.constant_(module.bias, 0)
    return module


@pytest.mark.parametrize("kind", MAKERS)
def test_what_a_function_holds_is_part_of_it(kind):
    make = MAKERS[kind]
    assert identity_of(make(1)) == identity_of(make(1))
    assert identity_of(make(1)) != identity_of(make(2))


def test_a_global_value_is_part_of_a_function(monkeypatch):
    before = identity_of(with_global)
    assert identity_of(with_global) == before
    monkeypatch.setattr(sys.modules[__name__], "LEVEL", 4)
    assert identity_of(with_global) != before
    monkeypatch.undo()
    monkeypatch.setattr(sys.modules[__name__], "above", lambda level, image: image >= level)
    assert identity_of(with_global) != before


@pytest.mark.parametrize(
    "held", [random.Random(0), np.random.default_rng(0), sys.__stdout__, threading.Lock()]
)
def test_what_cannot_be_described_equals_nothing(held):
    function = functools.partial(above, held)
    with pytest.warns(UserWarning, match="above cannot be identified .*neither resumed nor"):
        assert identity_of(function) != identity_of(function)


def test_a_revision_of_its_own_is_taken_at_its_word():
    function = functools.partial(above, threading.Lock())
    function.revision = "2"
    same = functools.partial(above, threading.Lock())
    same.revision = "2"
    assert identity_of(function) == identity_of(same)


def test_another_process_says_the_same():
    said = "[t.identity_of(make(1)) for make in t.MAKERS.values()]"
    code = f"import test_function_identity as t; print({said})"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert result.stdout.strip() == str([identity_of(make(1)) for make in MAKERS.values()])
    assert identity_of(library).startswith("segment-")
