"""Train the embedded editor from scratch on edits of generated scenes."""

from __future__ import annotations

import argparse

from ground_probe.cli import options
from ground_probe.cli.answer import Answer

EXAMPLE = "--minutes 60 --out runs/tiny"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--minutes", type=_minutes, default=60.0, help="of training, default: 60")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--out", default="runs/tiny", metavar="DIR", help="default: runs/tiny")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR")
    options.add_seed(parser)


def run(arguments: argparse.Namespace) -> Answer:
    """Train."""
    from ground_probe.run_record import writable_folder

    out = writable_folder(arguments.out)
    from ground_probe.editors.tiny.train import train

    folder = train(
        minutes=arguments.minutes,
        device=arguments.device,
        out=out,
        resume=arguments.resume,
        seed=arguments.seed,
    )
    return Answer(f"Results: {folder}", {"folder": str(folder)})


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return minutes
