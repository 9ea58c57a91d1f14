"""Write a page that shows what an editor sees of an expression, by block and step."""

from __future__ import annotations

import argparse
from typing import Any

from ground_probe.cli import options
from ground_probe.cli.options import Answer

EXAMPLE = (
    'photo.jpg "left man" --beside "right man" --model path/to/FLUX.1-Kontext-dev --steps 0 9 '
    "-o seen.html"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("image", metavar="IMAGE", help="any image; EXIF orientation is applied")
    parser.add_argument("expression", metavar="EXPRESSION", help='what refers, as "left man"')
    options.add_model(parser)
    options.add_recipe(parser)
    parser.add_argument(
        "--beside", metavar="EXPRESSION", help="another expression, to see beside the first"
    )
    parser.add_argument(
        "--truth", metavar="FILE", help="the true mask of the first: an image, white on black"
    )
    parser.add_argument(
        "--edit-steps",
        type=int,
        default=28,
        metavar="N",
        help="of the edit that is shown, 0 for none; default: 28",
    )
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
    truth = _mask(arguments.truth) if arguments.truth else None
    editor, image = options.editor_and_image(arguments)
    beside = [arguments.beside] if arguments.beside else []
    explorer = gp.study.explore(
        editor,
        image,
        [arguments.expression, *beside],
        truth=[truth, *(None for _ in beside)],
        recipe=recipe,
        steps=arguments.steps,
        edit_steps=arguments.edit_steps,
        out=arguments.out,
        seed=arguments.seed,
    )
    size = len(explorer.html.encode())
    return Answer(f"{arguments.out}: {size / 1e6:.1f} MB", {"file": arguments.out, "bytes": size})


def _mask(path: str) -> Any:
    import numpy as np

    from ground_probe.images import read_image

    return np.asarray(read_image(path).convert("L")) > 127
