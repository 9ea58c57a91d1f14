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
    "ground_probe.study.explorer",
    "ground_probe.probes",
    "ground_probe.segmentation",
)


def build(folder: Path) -> None:
    """Write a page for each module, and an index, into a folder."""
    pdoc.render.configure(
        docformat="google",
        show_source=False,
        footer_text=f"ground_probe {ground_probe.__version__}",
        template_directory=Path(__file__).parent / "theme",
    )
    pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
