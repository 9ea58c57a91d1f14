"""Build the API pages from the docstrings of the public names: `python docs/build.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import pdoc

import ground_probe

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

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{title}</title>
<style>body {{max-width: 44rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 sans-serif}}
pre {{overflow-x: auto; background: #f4f4f4; padding: 0.7rem}}
:not(pre) > code {{overflow-wrap: anywhere}}</style>
<body><nav>{up}</nav>{said}</body></html>
"""


def build(folder: Path) -> None:
    """Write a page for each module, and an index, into a folder."""
    pdoc.render.configure(
        docformat="google",
        show_source=False,
        footer_text=f"ground_probe {ground_probe.__version__}",
        template_directory=Path(__file__).parent / "theme",
    )
    pdoc.pdoc(*MODULES, output_directory=folder)
    (folder / "howto").mkdir(exist_ok=True)
    pages = sorted((Path(__file__).parent / "howto").glob("*.md"))
    titles = {page.stem: page.read_text().partition("\n")[0].removeprefix("# ") for page in pages}
    index = "\n".join(f"- [{title}]({name}.html)" for name, title in titles.items())
    for name, text in [*((page.stem, page.read_text()) for page in pages), ("index", index)]:
        title = titles.get(name, "How to")
        said = _html(text if name in titles else f"# {title}\n\n{text}")
        up = f'<a href="{"index" if name in titles else "../ground_probe"}.html">up</a>'
        (folder / "howto" / f"{name}.html").write_text(_PAGE.format(title=title, up=up, said=said))


def _html(text: str) -> str:
    """A page's Markdown as HTML; the marks that tell the tests what to run are not shown."""
    return pdoc.render_helpers.to_html(text.replace(" not-run\n", "\n"))


if __name__ == "__main__":
    build(Path(sys.argv[1]))
