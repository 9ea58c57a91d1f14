"""Segment what an expression refers to in a photo."""

from __future__ import annotations

import argparse

from ground_probe.cli import loading, options
from ground_probe.cli.answer import Answer
from ground_probe.errors import InputError

EXAMPLE = 'photo.jpg "left man" --model path/to/FLUX.1-Kontext-dev -o mask.png --overlay seen.png'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("photo", metavar="PHOTO", help="any image; EXIF orientation is applied")
    parser.add_argument("expression", metavar="EXPRESSION", help="what to segment")
    options.add_model(parser)
    loading.add_loading(parser)
    parser.add_argument("-o", "--out", default="mask.png", metavar="FILE", help="default: mask.png")
    parser.add_argument(
        "--overlay", metavar="FILE", help="also write the photo with the mask on it"
    )
    options.add_seed(parser)


def run(arguments: argparse.Namespace) -> Answer:
    """Write the mask and, if asked for, the overlay."""
    from PIL import Image

    import ground_probe as gp
    from ground_probe import photos

    targets = [photos.check_target(path) for path in (arguments.out, arguments.overlay) if path]
    photo = photos.read_photo(arguments.photo)
    if not arguments.expression.strip():
        raise InputError('the expression is empty: say what to segment, such as "left man"')
    options.warn_of_photos(arguments.model, photo.size)
    loading.check_weights(arguments, dataset="refcoco_unc", split="val")
    editor = gp.load_editor(arguments.model, **loading.loading(arguments))
    mask = gp.segment(editor, photo, arguments.expression, seed=arguments.seed).mask
    photos.save_image(Image.fromarray(mask.astype("uint8") * 255), targets[0])
    if arguments.overlay:
        photos.save_image(photos.overlay(photo, mask), targets[1])
    files = [str(target) for target in targets]
    share = float(mask.mean())
    return Answer(f"{' '.join(files)}: {share:.1%} of the image", {"files": files, "share": share})
