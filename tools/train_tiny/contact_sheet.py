"""A contact sheet: what the embedded editor does to the first test scenes, none selected.

python -m tools.train_tiny.contact_sheet contact_sheet.png
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import numpy as np
from diffusers import FluxKontextPipeline
from matplotlib.figure import Figure

from tools.train_tiny.edits import edit
from tools.train_tiny.follow import STEPS, run_edits
from tools.train_tiny.score import WEIGHTS
from tools.train_tiny.worlds import STYLES, world_of

A_STYLE = 5
_ROWS = 2
_COLUMNS = ("reference", f"edit, {STEPS} steps", "step 0 predicts", "object meant")
_GRID = {"left": 0.02, "right": 0.98, "bottom": 0.03, "top": 0.92, "wspace": 0.04, "hspace": 0.2}


def contact_sheet(pipeline: FluxKontextPipeline) -> Figure:
    """The first test examples of every style: reference, edit, one-step prediction and mask."""
    rng = np.random.default_rng(0)
    columns = len(STYLES) // _ROWS
    figure = Figure(figsize=(5.2 * columns, 1.62 * A_STYLE * _ROWS), dpi=100)
    for style, panel in zip(STYLES, figure.subfigures(_ROWS, columns).flat, strict=True):
        panel.suptitle(style, fontsize=13, fontweight="bold")
        split = world_of(style).load(style, "test", limit=A_STYLE)
        drawn = [split.scene(i) for i in range(A_STYLE)]
        asked = [edit(rng, d.scene, d.target, d.expression) for d in drawn]
        instructions = [a.instruction for a in asked]
        done = run_edits(pipeline, list(zip(drawn, instructions, strict=True)), True, seed=0)
        axes = panel.subplots(A_STYLE, len(_COLUMNS), gridspec_kw=_GRID)
        for row, d, instruction, outcome in zip(axes, drawn, instructions, done, strict=True):
            pictures = (d.scene.render(), outcome.image, outcome.predicted, d.scene.mask(d.target))
            for axis, picture in zip(row, pictures, strict=True):
                axis.imshow(picture, cmap="gray")
                axis.axis("off")
            row[0].set_title(
                textwrap.shorten(instruction, 68), loc="left", fontsize=9, color="#333333"
            )
        for axis, name in zip(axes[-1], _COLUMNS, strict=True):
            axis.text(0.5, -0.08, name, transform=axis.transAxes, ha="center", va="top", fontsize=8)
    return figure


def main() -> None:
    """Draw the sheet into a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="PNG or SVG")
    parser.add_argument("--model", default=WEIGHTS, help="pipeline folder (default: embedded)")
    arguments = parser.parse_args()
    pipeline = FluxKontextPipeline.from_pretrained(arguments.model)
    pipeline.set_progress_bar_config(disable=True)
    contact_sheet(pipeline).savefig(arguments.out)


if __name__ == "__main__":
    main()
