"""The how-to pages: short, and their code runs as it is written, but for what needs weights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

# pycocotools under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
PAGES = sorted((Path(__file__).parents[1] / "docs" / "howto").glob("*.md"))


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language and marks, code) of every block of a page."""
    return re.findall(r"^```(.+)\n((?:.*\n)*?)```$", page.read_text(), re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_short_and_its_code_runs(page, tmp_path, monkeypatch):
    assert len(page.read_text().splitlines()) < 40
    monkeypatch.chdir(tmp_path)
    known, code = {"python", "python not-run", "sh not-run"}, blocks(page)
    assert code and {mark for mark, _ in code} <= known
    space: dict = {}
    for mark, text in code:
        compiled = None if mark.startswith("sh") else compile(text, str(page), "exec")
        if mark == "python":
            exec(compiled, space)


def test_a_block_that_fails_is_seen(tmp_path, monkeypatch):
    page = tmp_path / "wrong.md"
    page.write_text("```python\nassert 1 == 2\n```\n")
    with pytest.raises(AssertionError):
        test_a_page_is_short_and_its_code_runs(page, tmp_path, monkeypatch)


def test_every_command_that_is_told_exists(capsys):
    from ground_probe import cli

    commands = {c for p in PAGES for c in re.findall(r"ground-probe (\w+)", p.read_text())}
    assert {"segment", "evaluate", "compare", "plan", "doctor", "models"} <= commands
    for command in commands:
        with pytest.raises(SystemExit) as left:
            cli.main([command, "--help"])
        assert left.value.code == 0
