"""Options that several commands share, and the types of their arguments."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ground_probe.cli import loading
from ground_probe.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from ground_probe.editors import Editor


def add_model(parser: argparse.ArgumentParser) -> None:
    """`--model`."""
    help_ = "tiny (embedded), a folder or a hub id; default: tiny"
    parser.add_argument("--model", default="tiny", metavar="DIR_OR_ID", help=help_)


def add_subject(parser: argparse.ArgumentParser) -> None:
    """An image, an expression, and the editor that looks: what `editor_and_image` reads."""
    parser.add_argument("image", metavar="IMAGE", help="any image; EXIF orientation is applied")
    parser.add_argument("expression", metavar="EXPRESSION", help='what refers, as "left man"')
    add_model(parser)
    loading.add_loading(parser)
    add_seed(parser)


def editor_and_image(arguments: argparse.Namespace) -> tuple[Editor, Image]:
    """Read the image and load the editor, in the order in which mistakes cost least.

    Args:
        arguments: with those of `add_subject`.

    Raises:
        InputError: no image, no expression, or a device that is too small.
        MissingWeightsError: the editor's weights are not here.
    """
    import ground_probe as gp
    from ground_probe.images import read_image

    image = read_image(arguments.image)
    if not arguments.expression.strip():
        raise InputError('the expression is empty: say what refers, such as "left man"')
    _warn_of_photos(arguments.model, image.size)
    loading.check_weights(arguments, dataset="refcoco_unc", split="val")
    return gp.load_editor(arguments.model, **loading.loading(arguments)), image


def add_limit(parser: argparse.ArgumentParser) -> None:
    """`--limit`."""
    parser.add_argument("--limit", type=positive, metavar="N", help="about N examples a split")


def add_seed(parser: argparse.ArgumentParser) -> None:
    """`--seed`."""
    parser.add_argument("--seed", type=int, default=0, help="default: 0")


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _warn_of_photos(model: str, size_px: tuple[int, int]) -> None:
    from ground_probe.datasets.scenes.draw import SIZE_PX

    if model == "tiny" and size_px != (SIZE_PX, SIZE_PX):
        print(
            "ground-probe: the embedded editor only knows generated scenes "
            f"({SIZE_PX} x {SIZE_PX} px); for a photo give --model a FLUX.1-Kontext folder or id",
            file=sys.stderr,
        )
