"""Write a page that shows what an editor sees of an expression, by block and step."""

from __future__ import annotations

import argparse

from ground_probe.cli import options
from ground_probe.cli.answer import Answer

EXAMPLE = 'photo.jpg "left man" --model path/to/FLUX.1-Kontext-dev --steps 0 9 -o seen.html'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_subject(parser)
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        default=[0, 3, 9],
        metavar="STEP",
        help="denoising steps from 0, all up to the last are run; default: 0 3 9",
    )
    parser.add_argument(
        "-o", "--out", default="explorer.html", metavar="FILE", help="default: explorer.html"
    )


def run(arguments: argparse.Namespace) -> Answer:
    """Write the page."""
    import ground_probe as gp

    recipe = options.recipe(arguments)
    editor, image = options.editor_and_image(arguments)
    explorer = gp.study.explore(
        editor,
        image,
        arguments.expression,
        recipe=recipe,
        steps=arguments.steps,
        out=arguments.out,
        seed=arguments.seed,
    )
    size = len(explorer.html.encode())
    return Answer(f"{arguments.out}: {size / 1e6:.1f} MB", {"file": arguments.out, "bytes": size})
