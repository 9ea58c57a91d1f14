"""What commands share: the options of model, data and recipe, what these give, and the answer."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ground_probe.cli import loading
from ground_probe.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

    from ground_probe.datasets import Split
    from ground_probe.editors import Editor
    from ground_probe.segmentation import Recipe


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command says when it is done, for people and for scripts.

    Args:
        text: what is printed.
        data: what `--json` prints instead.
        failure: a last line for people, where the answer is bad news; the exit code is then 2.
    """

    text: str
    data: dict | list
    failure: str = ""


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows as JSON values."""
    return json.loads(table.to_json(orient="records"))


def add_model(parser: argparse.ArgumentParser) -> None:
    """`--model`, how it is loaded, and the `--seed` of its noise."""
    group = parser.add_argument_group("model")
    help_ = "tiny (embedded), a folder or a hub id; default: tiny"
    group.add_argument("--model", default="tiny", metavar="DIR_OR_ID", help=help_)
    group.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1; default: the best")
    loading.add_weights(group)
    group.add_argument("--download", action="store_true", help="fetch what is not here")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise; default: 0")


def add_data(
    parser: argparse.ArgumentParser, *, split: str | None = "test", limit: int | None = None
) -> None:
    """`--dataset`, `--root`, `--limit` and, unless its default is None, `--split`."""
    group = parser.add_argument_group("data")
    help_ = "a name that `doctor` lists; default: cartoons"
    group.add_argument("--dataset", default="cartoons", metavar="NAME", help=help_)
    if split is not None:
        group.add_argument("--split", default=split, metavar="NAME", help=f"default: {split}")
    add_root(group)
    help_ = f"about N examples a split{f'; default: {limit}' if limit else ''}"
    group.add_argument("--limit", type=positive, default=limit, metavar="N", help=help_)


def add_root(parser: argparse._ActionsContainer) -> None:
    """`--root`."""
    parser.add_argument("--root", metavar="DIR", help="of the data; default: the hub's local cache")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """`--recipe`."""
    group = parser.add_argument_group("recipe")
    help_ = "default, paper, change, or a file such as `calibrate` writes; default: default"
    group.add_argument("--recipe", metavar="NAME_OR_FILE", help=help_)


def recipe(arguments: argparse.Namespace) -> Recipe | str:
    """The recipe of a file, or the name of a packaged one."""
    from ground_probe.segmentation.recipes import read_recipe

    return read_recipe(arguments.recipe or "default")


def split(arguments: argparse.Namespace, dataset: str, **more: Any) -> Split:
    """A split, by the options of `add_data` and `add_model`; `more` is for `load_split`."""
    import ground_probe as gp

    return gp.load_split(
        dataset,
        arguments.split,
        root=arguments.root,
        limit=arguments.limit,
        seed=arguments.seed,
        download=arguments.download,
        **more,
    )


def editor_and_image(arguments: argparse.Namespace) -> tuple[Editor, Image]:
    """Read the image and load the editor, in the order in which mistakes cost least."""
    from ground_probe.images import read_image

    image = read_image(arguments.image)
    if not arguments.expression.strip():
        raise InputError('the expression is empty: say what refers, such as "left man"')
    return editor_for(arguments, image.size), image


def editor_for(arguments: argparse.Namespace, size_px: tuple[int, int]) -> Editor:
    """The editor that the options of `add_model` name, for images of about a size."""
    import ground_probe as gp
    from ground_probe.datasets.scenes.draw import SIZE_PX

    if arguments.model == "tiny" and size_px != (SIZE_PX, SIZE_PX) and not arguments.quiet:
        print(
            "ground-probe: the embedded editor only knows generated scenes "
            f"({SIZE_PX} x {SIZE_PX} px); for a photo give --model a FLUX.1-Kontext folder or id",
            file=sys.stderr,
        )
    loading.check_weights(arguments, dataset="refcoco_unc", split="val")
    return gp.load_editor(arguments.model, **loading.loading(arguments))


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
