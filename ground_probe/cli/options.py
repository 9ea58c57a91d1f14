"""Options that several commands share, and the types of their arguments."""

from __future__ import annotations

import argparse
import sys


def add_model(parser: argparse.ArgumentParser) -> None:
    """`--model`."""
    help_ = "tiny (embedded), a folder or a hub id; default: tiny"
    parser.add_argument("--model", default="tiny", metavar="DIR_OR_ID", help=help_)


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


def warn_of_photos(model: str, size_px: tuple[int, int]) -> None:
    """Say that the embedded editor knows scenes only, where it is given anything else."""
    from ground_probe.datasets.scenes.draw import SIZE_PX

    if model == "tiny" and size_px != (SIZE_PX, SIZE_PX):
        print(
            "ground-probe: the embedded editor only knows generated scenes "
            f"({SIZE_PX} x {SIZE_PX} px); for a photo give --model a FLUX.1-Kontext folder or id",
            file=sys.stderr,
        )
