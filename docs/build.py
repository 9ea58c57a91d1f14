"""Build the pages, from README, docs and docstrings: `python docs/build.py FOLDER`."""

from __future__ import annotations

import re
import shutil
import sys
from os.path import normpath, relpath
from pathlib import Path

import pdoc

import ground_probe
from ground_probe import cli

ROOT = Path(__file__).parents[1]

# What another study imports: the public names, and the packages behind them.
MODULES = (
    "ground_probe",
    "ground_probe.datasets",
    "ground_probe.editors",
    "ground_probe.evaluation",
    "ground_probe.inside",
    "ground_probe.study.explorer",
    "ground_probe.probes",
    "ground_probe.segmentation",
)

PAGES = {
    "README.md": "index.html",
    "docs/concepts.md": "concepts.html",
    "docs/recipes.md": "recipes.html",
    "docs/reading.md": "reading.html",
    "docs/extending.md": "extending.html",
    "docs/refused.md": "refused.html",
    "ground_probe/editors/tiny/weights/README.md": "embedded-editor.html",
    "results/README.md": "results.html",
    "CONTRIBUTING.md": "contributing.html",
    "CHANGELOG.md": "changelog.html",
    "docs/howto": "howto/index.html",
    **{
        f"docs/howto/{page.name}": f"howto/{page.stem}.html"
        for page in sorted((ROOT / "docs/howto").glob("*.md"))
    },
}
"""Where the page of a file of the repository lies."""

NAVIGATION = {
    "Home": "index.html",
    "Concepts": "concepts.html",
    "How to": "howto/index.html",
    "The study and its figures": "results/study/index.html",
    "Command line": "command-line.html",
    "Library": "ground_probe.html",
    "Embedded editor": "embedded-editor.html",
}

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{title}</title>
<style>body {{max-width: 52rem; margin: 1rem auto; padding: 0 1rem; font: 16px/1.5 sans-serif}}
nav {{border-bottom: 1px solid #ccc; padding-bottom: 0.5rem}} nav a {{margin-right: 1rem}}
pre {{overflow-x: auto; background: #f4f4f4; padding: 0.7rem}} img {{max-width: 100%}}
table {{display: block; overflow-x: auto; border-collapse: collapse; font-size: 0.9em}}
td, th {{border-bottom: 1px solid #ddd; padding: 0.3rem 0.6rem; text-align: left}}
:not(pre) > code {{overflow-wrap: anywhere}}</style>
<body><nav>{navigation}</nav>{said}</body></html>
"""


def build(folder: Path) -> None:
    """Write the home page, concepts, how-to, commands, the study and the library into a folder."""
    pdoc.render.configure(
        docformat="google",
        show_source=False,
        footer_text=f"ground_probe {ground_probe.__version__}",
        template_directory=ROOT / "docs/theme",
    )
    pdoc.pdoc(*MODULES, output_directory=folder)
    for source, page in PAGES.items():
        text = _how_to() if source == "docs/howto" else (ROOT / source).read_text()
        _write(folder, page, _linked(_html(text), source, page, folder))
    _write(folder, "command-line.html", _html(_commands()))


def _html(text: str) -> str:
    """Markdown as HTML; the marks that tell the tests what to run are not shown."""
    return pdoc.render_helpers.to_html(text.replace(" not-run\n", "\n"))


def _write(folder: Path, page: str, said: str) -> None:
    start = Path(page).parent
    links = (f'<a href="{relpath(to, start)}">{name}</a>' for name, to in NAVIGATION.items())
    title = re.sub("<[^>]+>", "", re.search("<h1.*?>(.*?)</h1>", said, re.S)[1])
    (folder / page).parent.mkdir(parents=True, exist_ok=True)
    (folder / page).write_text(_PAGE.format(title=title, navigation="".join(links), said=said))


def _how_to() -> str:
    """The list of the how-to pages, by their own titles."""
    pages = [ROOT / source for source in PAGES if source.startswith("docs/howto/")]
    titles = {page.name: page.read_text().partition("\n")[0].removeprefix("# ") for page in pages}
    return "# How to\n\n" + "\n".join(
        f"- [{title}](howto/{name})" for name, title in titles.items()
    )


def _commands() -> str:
    """What every command says of itself under `--help`."""
    (subparsers,) = (a for a in cli.parser()._actions if isinstance(a.choices, dict))
    helps = (
        f"## ground-probe {name}\n\n```text\n{command.format_help()}```"
        for name, command in subparsers.choices.items()
    )
    return "# Command line\n\n" + "\n\n".join(helps)


def _linked(html: str, source: str, page: str, folder: Path) -> str:
    """A page whose links lead to pages or to copies of files; those to folders are dropped."""

    def led(found: re.Match) -> str:
        before, target, after = found.groups()
        if re.match(r"[a-z]+:|#|$", target):
            return found[0]
        to = _placed(normpath(Path(source).parent / target), folder)
        return f'{before}"{relpath(to, Path(page).parent)}"{after}' if to else f"{before}{after}"

    html = re.sub(r'(<a href=)"([^"]*)"([^>]*>)', led, html)
    html = re.sub(r'(<img src=)"([^"]*)"([^>]*>)', led, html)
    return html.replace("<a href=>", "<a>")


def _placed(path: str, folder: Path) -> str | None:
    """Where a file or folder of the repository stands among the pages, copied where need be."""
    if path in PAGES:
        return PAGES[path]
    if (ROOT / path / "index.html").is_file():
        shutil.copytree(ROOT / path, folder / path, dirs_exist_ok=True)
        return f"{path}/index.html"
    if not (ROOT / path).is_file():
        return None
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / path, folder / path)
    return path


if __name__ == "__main__":
    build(Path(sys.argv[1]))
