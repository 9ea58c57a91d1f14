"""List the families of editors that can be probed."""

from __future__ import annotations

import argparse

from ground_probe.cli.options import Answer

EXAMPLE = "--json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no options."""


def run(arguments: argparse.Namespace) -> Answer:
    """List them."""
    from ground_probe.editors import models

    rows = models()
    lines = []
    for model in rows:
        (_, name), *facts = model.items()
        lines += [name, *(f"    {key}: {value}" for key, value in facts if value)]
    return Answer("\n".join(lines), rows)
