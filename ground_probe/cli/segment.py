"""Segment what an expression refers to in a photo."""

from __future__ import annotations

import argparse

from ground_probe.cli import options
from ground_probe.cli.answer import Answer

EXAMPLE = 'photo.jpg "left man" --model path/to/FLUX.1-Kontext-dev -o mask.png --overlay seen.png'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_subject(parser)
    parser.add_argument("-o", "--out", default="mask.png", metavar="FILE", help="default: mask.png")
    parser.add_argument(
        "--overlay", metavar="FILE", help="also write the photo with the mask on it"
    )


def run(arguments: argparse.Namespace) -> Answer:
    """Write the mask and, if asked for, the overlay."""
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
