"""Segment what an expression refers to in a photo."""

from __future__ import annotations

import argparse

from ground_probe.cli import options
from ground_probe.cli.batch import segment_all
from ground_probe.cli.options import Answer

EXAMPLE = 'photo.jpg "left man" --model path/to/FLUX.1-Kontext-dev -o mask.png --overlay seen.png'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "subject",
        nargs="+",
        metavar="IMAGE EXPRESSION",
        help='an image and what refers, as "left man"; with --expressions any number of images',
    )
    parser.add_argument(
        "--expressions",
        metavar="FILE",
        help="expressions, one a line: each of them in each image, into the folder --out, with an "
        "index.html; what is there already is kept",
    )
    options.add_model(parser)
    options.add_recipe(parser)
    parser.add_argument(
        "-o", "--out", default="", metavar="PATH", help="default: mask.png, or the folder masks"
    )
    parser.add_argument(
        "--overlay", metavar="FILE", help="also write the photo with the mask on it"
    )


def run(arguments: argparse.Namespace) -> Answer:
    """Write the mask and, if asked for, the overlay; or those of many images."""
    from ground_probe.errors import InputError

    if arguments.expressions:
        if arguments.overlay:
            raise InputError("--overlay names one file: with --expressions every mask has its own")
        arguments.out = arguments.out or "masks"
        return segment_all(arguments)
    if len(arguments.subject) != 2:
        raise InputError(
            f"{len(arguments.subject)} words where an image and one expression are expected: quote "
            "the expression, or give several images with --expressions FILE"
        )
    arguments.image, arguments.expression = arguments.subject
    arguments.out = arguments.out or "mask.png"
    from PIL import Image

    import ground_probe as gp
    from ground_probe import images

    targets = [images.check_target(path) for path in (arguments.out, arguments.overlay) if path]
    recipe = options.recipe(arguments)
    editor, photo = options.editor_and_image(arguments)
    mask = gp.segment(editor, photo, arguments.expression, recipe, seed=arguments.seed).mask
    images.write_image(Image.fromarray(mask.astype("uint8") * 255), targets[0])
    if arguments.overlay:
        images.write_image(images.overlay(photo, mask), targets[1])
    files = [str(target) for target in targets]
    share = float(mask.mean())
    return Answer(f"{' '.join(files)}: {share:.1%} of the image", {"files": files, "share": share})
