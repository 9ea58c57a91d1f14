"""Write a page that shows what an editor sees of an expression, by block and step."""

from __future__ import annotations

import argparse

from ground_probe.cli import loading, options
from ground_probe.cli.answer import Answer
from ground_probe.errors import InputError

EXAMPLE = 'photo.jpg "left man" --model path/to/FLUX.1-Kontext-dev --steps 0 9 -o seen.html'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("image", metavar="IMAGE", help="any image; EXIF orientation is applied")
    parser.add_argument("expression", metavar="EXPRESSION", help="what refers")
    options.add_model(parser)
    loading.add_loading(parser)
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
    options.add_seed(parser)


def run(arguments: argparse.Namespace) -> Answer:
    """Write the page."""
    import ground_probe as gp
    from ground_probe import photos

    image = photos.read_photo(arguments.image)
    if not arguments.expression.strip():
        raise InputError('the expression is empty: say what refers, such as "left man"')
    options.warn_of_photos(arguments.model, image.size)
    loading.check_weights(arguments, dataset="refcoco_unc", split="val")
    explorer = gp.explore(
        gp.load_editor(arguments.model, **loading.loading(arguments)),
        image,
        arguments.expression,
        steps=arguments.steps,
        out=arguments.out,
        seed=arguments.seed,
    )
    size = len(explorer.html.encode())
    return Answer(f"{arguments.out}: {size / 1e6:.1f} MB", {"file": arguments.out, "bytes": size})
