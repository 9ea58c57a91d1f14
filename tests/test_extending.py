"""The lines that `docs/extending.md` shows are those of the library, and few."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST = 14
SECTIONS = dict(
    section.split("\n", 1)
    for section in re.split(r"^## ", (ROOT / "docs/extending.md").read_text(), flags=re.M)[1:]
)


def added(section: str) -> list[tuple[Path, str]]:
    """Each file of a section's diff, and the lines that it gains."""
    (diff,) = re.findall(r"^```diff\n(.*?)^```", section, flags=re.M | re.S)
    files = re.split(r"^--- a/.*\n\+\+\+ b/(.*)\n", diff, flags=re.M)[1:]
    return [
        (ROOT / name, re.sub(r"^\+", "", lines, flags=re.M))
        for name, lines in zip(files[::2], files[1::2], strict=True)
    ]


def source_of(path: Path) -> str:
    if path.suffix != ".ipynb":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(cell["source"]) + "\n" for cell in cells)


def test_the_page_shows_each_kind():
    assert list(SECTIONS) == ["A family of editors", "A probe", "A data set", "A figure"]


@pytest.mark.parametrize("name", SECTIONS)
def test_what_is_shown_is_in_the_library(name):
    for path, lines in added(SECTIONS[name]):
        assert lines.strip() and lines in source_of(path), f"{path} has no longer\n{lines}"


@pytest.mark.parametrize("name", SECTIONS)
def test_it_is_under_15_lines(name):
    assert sum(lines.count("\n") for _, lines in added(SECTIONS[name])) <= MOST
