"""What a generated world looks like: test examples, none selected, each with its mask's outline.

python -m tools.train_tiny.world_sheet results/cartoons.png
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from skimage.morphology import dilation, disk

from ground_probe.datasets import cartoons

A_STYLE = 20
COLUMNS = 10


def world_sheet() -> Figure:
    """The first test examples of every style, the expression above and the mask outlined."""
    examples = [
        cartoons.load(style, "test", limit=A_STYLE)[i]
        for style in cartoons.STYLES
        for i in range(A_STYLE)
    ]
    rows = -(-len(examples) // COLUMNS)
    figure = Figure(figsize=(1.5 * COLUMNS, 1.78 * rows), dpi=100)
    axes = figure.subplots(rows, COLUMNS)
    figure.subplots_adjust(0.004, 0.004, 0.996, 0.972, 0.03, 0.19)
    for number, (axis, example) in enumerate(zip(axes.flat, examples, strict=False), 1):
        picture = np.asarray(example.image.resize((256, 256), Image.Resampling.BICUBIC)).copy()
        mask = np.kron(example.mask, np.ones((2, 2), bool))
        picture[dilation(mask, disk(3)) & ~dilation(mask, disk(1))] = (255, 0, 200)
        axis.imshow(picture)
        title = textwrap.fill(f"{number} {example.expression}", 30)
        axis.set_title(title, fontsize=6.5, pad=2, loc="left", linespacing=0.95)
    for axis in axes.flat:
        axis.axis("off")
    return figure


def main() -> None:
    """Draw the sheet into a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="PNG")
    arguments = parser.parse_args()
    canvas = FigureCanvasAgg(world_sheet())
    canvas.draw()
    sheet = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    sheet.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
