"""The API pages, built from the docstrings."""

from __future__ import annotations

import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

import ground_probe as gp
from ground_probe import cli

pytest.importorskip("pdoc")
BUILD = Path(__file__).parents[1] / "docs" / "build.py"


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    command = [sys.executable, str(BUILD), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "Error importing" not in result.stderr
    return folder


def text_of(page: Path, name: str) -> str:
    """What a page says about a name."""
    found = re.search(rf'<section id="{name}">(.*?)</section>', page.read_text(), re.S)
    assert found, f"{name} is not on {page.name}"
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", found[1])).split())


def test_every_public_name_is_on_a_page_with_what_it_does(pages):
    for name in set(gp.__all__) - {"__version__"}:
        thing = getattr(gp, name)
        summary = thing.__doc__.strip().splitlines()[0]
        words = re.findall(r"\w+", summary)[:4]
        module = pages / "ground_probe" / f"{name}.html"
        said = module.read_text() if module.exists() else text_of(pages / "ground_probe.html", name)
        assert all(word in said for word in words), (name, summary)


def test_every_public_name_shows_how_it_is_called():
    told = {name: thing.__doc__ for name in gp.__all__ if callable(thing := getattr(gp, name))}
    assert not [name for name, said in told.items() if ">>>" not in said and "```" not in said]


def test_shapes_errors_and_arguments_are_told(pages):
    segment = text_of(pages / "ground_probe.html", "segment")
    for part in (
        "Arguments: editor: from load_editor .",
        "Raises: PhraseError:",
        "-> Segmentation",
    ):
        assert part.replace(" ", "") in segment.replace(" ", "")
    page = unescape(re.sub(r"<[^>]+>", "", (pages / "ground_probe.html").read_text()))
    assert "mask: jaxtyping.Bool[ndarray, 'height width']" in page


def test_pages_link_each_other_and_nothing_that_is_not_there(pages):
    linked = 0
    for page in pages.rglob("*.html"):
        if "results" in page.parts:  # what a study wrote links what it wrote
            continue
        text = re.sub(r"(?s)<script.*?</script>", "", page.read_text())
        for link in re.findall(r'(?:href|<img src)="([^"#]+)', text):
            if not re.match(r"[a-z]+:", link):
                linked += 1
                assert (page.parent / unescape(link)).resolve().is_file(), (page, link)
    assert linked > 100


def test_home_leads_to_everything_and_shows_its_figures(pages):
    home = (pages / "index.html").read_text()
    navigation = re.search("<nav>(.*?)</nav>", home)[1]
    assert len(re.findall("href", navigation)) == 7
    assert 'src="results/study/figures/steps_grounding.png"' in home
    for page, words in (
        ("concepts", "Grounding"),
        ("embedded-editor", "hit"),
        ("results", "study"),
    ):
        assert words in (pages / f"{page}.html").read_text()


def test_every_command_is_on_the_page_of_commands(pages):
    said = (pages / "command-line.html").read_text()
    for command in cli.COMMANDS:
        assert f"ground-probe {command.__name__.rpartition('.')[2]}" in said


def test_nothing_of_this_machine_is_on_a_page(pages):
    for page in pages.rglob("*.html"):
        said = page.read_text()
        assert str(BUILD.parents[1]) not in said
        assert not re.search(r"object at 0x[0-9a-f]+", said), page.name


def test_how_to_pages_are_built_and_listed(pages):
    written = {path.stem for path in (BUILD.parent / "howto").glob("*.md")}
    index = (pages / "howto" / "index.html").read_text()
    assert written == set(re.findall(r'href="([\w-]+)\.html"', index)) - {"index"}
    said = (pages / "howto" / "own-probe.html").read_text()
    assert "<h1" in said and "probe_auc" in said and "not-run" not in index + said
