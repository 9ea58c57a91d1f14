"""Type hints, as someone's type checker sees them from outside."""

from __future__ import annotations

import inspect
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import pytest

import ground_probe as gp

pytest.importorskip("mypy")
REPO = Path(__file__).parents[1]
CONFIGURED = "mypy" in tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]

USE = """
from typing import Any, assert_type

import numpy as np
from PIL import Image

import ground_probe as gp
from ground_probe.study.explorer import Explorer, explore

image = Image.new("RGB", (128, 128))
rows, labels = np.zeros((8, 3)), np.zeros(8)

editor = gp.load_editor("tiny")
assert_type(editor, gp.Editor)
assert_type(editor.edit(image, "make it red"), Image.Image)
assert_type(editor.geometry(image), gp.Geometry)
assert_type(editor.geometry(image).box, tuple[float, float, float, float])
assert_type(editor.geometry(image).token_of(1.5, 2), tuple[int, int] | None)

trace = gp.trace(editor, image, "make it red", "it", steps=(0, 9), reduce=gp.keep_tokens(256))
assert_type(trace, gp.Trace)
assert_type(trace.steps, tuple[int, ...])
assert_type(trace.grid("noise"), gp.Geometry)
assert_type(trace.mass("block", 0), dict[str, float])

split = gp.load_split("scenes", "test", limit=4)
assert_type(split[0], gp.RefExample)
assert_type(split.keys, tuple[str, ...])
assert_type([example.expression for example in split], list[str])

found = gp.segment(editor, image, "the red circle", recipe=gp.Recipe(step=2))
assert_type(found, gp.Segmentation)
assert_type(gp.metrics.counts(found.mask, split[0].mask), tuple[int, int])
assert_type(gp.Recipe.from_json("recipe.json").digest, str)

assert_type(gp.linear_probe_auc(rows, labels, labels, folds=5), gp.Estimate)
assert_type(gp.fisher_ratio(rows, labels, labels).value, float)

assert_type(explore(editor, image, "the red circle", steps=(0,)), Explorer)
"""
MISUSE = {
    'gp.segment(editor, "photo.png", "it")': "arg-type",
    "gp.trace(editor, image)": "call-arg",
    "trace.hiden": "attr-defined",
    'gp.Recipe(classifier="svm")': "arg-type",
    "split.keyz": "attr-defined",
    "gp.load_spilt": "attr-defined",
}


def checked(*arguments: str) -> list[str]:
    """What mypy says, a line each."""
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *arguments]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert result.stderr == ""
    return result.stdout.splitlines()


configured = pytest.mark.skipif(not CONFIGURED, reason="pyproject.toml has no [tool.mypy]")


@configured
def test_the_package_passes():
    assert checked() == []


@configured
def test_types_are_seen_from_outside_and_mistakes_are_caught(tmp_path):
    used, misused = tmp_path / "used.py", tmp_path / "misused.py"
    used.write_text(USE)
    misused.write_text(USE + "\n".join(MISUSE))
    assert checked(str(used)) == []
    errors = checked(str(misused))
    first = USE.count("\n") + 1
    codes = {int(line.split(":")[1]): line for line in errors if ": error: " in line}
    for at, code in enumerate(MISUSE.values(), first):
        assert f"[{code}]" in codes.pop(at, "nothing")
    assert codes == {}


def untyped(name: str, thing: object) -> list[str]:
    """The public functions and methods in something whose hints are incomplete."""
    if isinstance(thing, ModuleType) or not callable(thing):
        return []
    if inspect.isclass(thing):
        fields = getattr(thing, "__dataclass_fields__", {})  # annotated, whatever their defaults
        own = {
            key: value
            for key, value in vars(thing).items()
            if not key.startswith("_") and key not in fields
        }
        parts = [untyped(f"{name}.{key}", _function(value)) for key, value in own.items()]
        return [line for part in parts for line in part]
    signature = inspect.signature(thing)
    given = [each for each in signature.parameters.values() if each.name not in ("self", "cls")]
    hints = [signature.return_annotation, *(each.annotation for each in given)]
    return [name] if inspect.Signature.empty in hints else []


def _function(member: object) -> object:
    for part in ("fget", "func", "__func__"):  # of a property, a cached one, a class method
        member = getattr(member, part, member)
    return member


def test_every_public_name_is_wholly_annotated():
    assert [line for name in gp.__all__ for line in untyped(name, getattr(gp, name))] == []


def test_a_missing_hint_is_found():
    class Half:
        def whole(self, number: int) -> int: ...
        def half(self, number) -> int: ...
        @property
        def none(self): ...

    assert untyped("Half", Half) == ["Half.half", "Half.none"]


def test_checkers_are_told_to_look_and_the_page_is_shipped():
    package = files("ground_probe")
    assert (package / "py.typed").is_file()
    assert (package / "study" / "explorer" / "template.html").is_file()


@pytest.mark.long
def test_shapes_and_types_hold_at_run_time(tmp_path):
    """Not over all tests: many hand on what the annotations forbid, to see it refused."""
    pytest.importorskip("beartype")
    command = [sys.executable, str(Path(__file__).with_name("shapes.py")), str(tmp_path)]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
