"""The command line: `ground-probe COMMAND`, one module a command.

A command's module has a docstring, whose first line is its help, an `EXAMPLE`, `add_arguments` and
`run`. Heavy imports stand inside `run`, so that --help is instant.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

import shtab

import ground_probe as gp
from ground_probe.cli import (
    calibrate,
    doctor,
    evaluate,
    explore,
    models,
    plan,
    segment,
    study,
)
from ground_probe.errors import GroundProbeError, InputError
from ground_probe.run_record import check_packages

_NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
COMMANDS = (study, segment, explore, evaluate, calibrate, plan, models, doctor)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0, 2 for a user's mistake, 130 when interrupted."""
    for library in ("TRANSFORMERS", "DIFFUSERS"):  # their advice is not for a user of this command
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    arguments = argparse.Namespace()
    try:
        parser().parse_args(argv, arguments)
        if arguments.quiet:
            os.environ["TQDM_DISABLE"] = "1"
        if arguments.run is not doctor.run:  # which says it among all else
            check_packages()
        answer = arguments.run(arguments)
        print(json.dumps(answer.data, indent=1) if arguments.json else answer.text)
        if answer.failure:
            raise GroundProbeError(answer.failure)
    except GroundProbeError as error:
        print(f"ground-probe: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ground-probe: interrupted; repeat the command to go on", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        reason = f"{error.strerror}: {error.filename or 'the disk of the results'}"
        print(f"ground-probe: {reason}; make room there, or choose another place", file=sys.stderr)
        return 2
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog="ground-probe",
        description=_first_line(gp),
        epilog="tab completion:\n  ground-probe --print-completion bash   (or zsh, tcsh)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=gp.__version__)
    shtab.add_argument_to(parser)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        _add(commands, command)
    return parser


def _add(commands: argparse._SubParsersAction, command: ModuleType) -> None:
    name = command.__name__.rpartition(".")[2].replace("_", "-")
    text = _first_line(command)
    sub = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example:\n  ground-probe {name} {command.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(sub)
    sub.add_argument("--json", action="store_true", help="print the answer as JSON")
    sub.add_argument("--quiet", action="store_true", help="no progress bars")
    sub.set_defaults(run=command.run)


def _first_line(module: ModuleType) -> str:
    return (module.__doc__ or "").partition("\n")[0]
