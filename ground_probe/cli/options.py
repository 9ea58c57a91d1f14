"""Options that several commands share: the model, the data, the recipe; and what they give."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Literal

from ground_probe.cli import loading
from ground_probe.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from ground_probe.datasets import Split
    from ground_probe.editors import Editor
    from ground_probe.segmentation import Recipe


def add_model(parser: argparse.ArgumentParser) -> None:
    """`--model` and how it is loaded."""
    group = parser.add_argument_group("model")
    help_ = "tiny (embedded), a folder or a hub id; default: tiny"
    group.add_argument("--model", default="tiny", metavar="DIR_OR_ID", help=help_)
    loading.add_loading(group)


def add_data(
    parser: argparse.ArgumentParser, *, split: str | None = "test", limit: int | None = None
) -> None:
    """`--dataset`, `--split`, `--root` and `--limit`.

    Args:
        parser: of a command.
        split: the default; None leaves the option out.
        limit: the default; None for all.
    """
    group = parser.add_argument_group("data")
    help_ = "a name that `doctor` lists; default: cartoons"
    group.add_argument("--dataset", default="cartoons", metavar="NAME", help=help_)
    if split is not None:
        group.add_argument("--split", default=split, metavar="NAME", help=f"default: {split}")
    group.add_argument("--root", metavar="DIR", help="of the data; default: the hub's local cache")
    help_ = f"about N examples a split{f'; default: {limit}' if limit else ''}"
    group.add_argument("--limit", type=positive, default=limit, metavar="N", help=help_)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """`--recipe`."""
    group = parser.add_argument_group("recipe")
    help_ = "default, paper, or a file such as `calibrate` writes; default: default"
    group.add_argument("--recipe", metavar="NAME_OR_FILE", help=help_)


def add_seed(parser: argparse.ArgumentParser) -> None:
    """`--seed`."""
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise; default: 0")


def add_subject(parser: argparse.ArgumentParser) -> None:
    """An image, an expression, and the editor that looks: what `editor_and_image` reads."""
    parser.add_argument("image", metavar="IMAGE", help="any image; EXIF orientation is applied")
    parser.add_argument("expression", metavar="EXPRESSION", help='what refers, as "left man"')
    add_model(parser)
    add_recipe(parser)
    add_seed(parser)


def recipe(arguments: argparse.Namespace) -> Recipe | str:
    """The recipe of a file, or the name of a packaged one.

    Raises:
        InputError: the file is no recipe.
        UnknownNameError: neither a packaged recipe nor a file.
    """
    from ground_probe.segmentation.recipes import read_recipe

    return read_recipe(arguments.recipe or "default")


def split(
    arguments: argparse.Namespace,
    dataset: str | None = None,
    *,
    overlap: Literal["union", "refer"] = "union",
) -> Split:
    """The split that the options of `add_data` and `add_model` name.

    Args:
        arguments: of a command with both.
        dataset: one of several that were named; None for the only one.
        overlap: as `load_split` takes it.
    """
    import ground_probe as gp

    return gp.load_split(
        dataset or arguments.dataset,
        arguments.split,
        root=arguments.root,
        limit=arguments.limit,
        seed=arguments.seed,
        overlap=overlap,
        download=arguments.download,
    )


def editor_and_image(arguments: argparse.Namespace) -> tuple[Editor, Image]:
    """Read the image and load the editor, in the order in which mistakes cost least.

    Args:
        arguments: with those of `add_subject`.

    Raises:
        InputError: no image, no expression, or a device that is too small.
        MissingWeightsError: the editor's weights are not here.
    """
    from ground_probe.images import read_image

    image = read_image(arguments.image)
    if not arguments.expression.strip():
        raise InputError('the expression is empty: say what refers, such as "left man"')
    return editor_for(arguments, image.size), image


def editor_for(arguments: argparse.Namespace, size: tuple[int, int]) -> Editor:
    """The editor that the options of `add_model` name, for images of about a size.

    Raises:
        InputError: a device that is too small.
        MissingWeightsError: the editor's weights are not here.
    """
    import ground_probe as gp

    _warn_of_photos(arguments, size)
    loading.check_weights(arguments, dataset="refcoco_unc", split="val")
    return gp.load_editor(arguments.model, **loading.loading(arguments))


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _warn_of_photos(arguments: argparse.Namespace, size_px: tuple[int, int]) -> None:
    from ground_probe.datasets.scenes.draw import SIZE_PX

    if arguments.model == "tiny" and size_px != (SIZE_PX, SIZE_PX) and not arguments.quiet:
        print(
            "ground-probe: the embedded editor only knows generated scenes "
            f"({SIZE_PX} x {SIZE_PX} px); for a photo give --model a FLUX.1-Kontext folder or id",
            file=sys.stderr,
        )
