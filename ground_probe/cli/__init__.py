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
from typing import Any, NoReturn

import shtab

import ground_probe as gp
from ground_probe.cli import (
    calibrate,
    compare,
    doctor,
    evaluate,
    explore,
    models,
    plan,
    segment,
    study,
)
from ground_probe.errors import GroundProbeError, InputError, unknown
from ground_probe.run_record import TERMINATED, check_packages, sigterm_as_exit

_NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
_SIGPIPE = 128 + 13  # what a shell reports of a program whose reader went away
COMMANDS = (study, segment, explore, evaluate, compare, calibrate, plan, models, doctor)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code.

    0, or 2 for a user's mistake, 130 when interrupted, 143 when terminated, 141 when nobody reads
    the answer any more.
    """
    for library in ("TRANSFORMERS", "DIFFUSERS"):  # their advice is not for a user of this command
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    arguments = argparse.Namespace()
    try:
        with sigterm_as_exit():
            parser().parse_args(argv, arguments)
            if arguments.quiet:
                os.environ["TQDM_DISABLE"] = "1"
            if arguments.run is not doctor.run:  # which says it among all else
                check_packages()
            answer = arguments.run(arguments)
            printed = _printed(
                json.dumps(answer.data, indent=1) if arguments.json else readable(answer.text)
            )
            if answer.failure:
                raise GroundProbeError(answer.failure)
            return printed
    except GroundProbeError as error:
        return _ended(2, " ".join(str(error).split()))
    except KeyboardInterrupt:
        return _ended(130, "interrupted; repeat the command to go on")
    except SystemExit as error:
        if error.code != TERMINATED:
            raise
        return _ended(TERMINATED, "terminated; repeat the command to go on")
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        reason = f"{error.strerror}: {error.filename or 'the disk of the results'}"
        return _ended(2, f"{reason}; make room there, or choose another place")


def readable(text: str) -> str:
    r"""Text for a terminal: what is no character, such as an escape in a file name, is spelled out.

    >>> readable("no\x1b[31m.png")
    'no\\x1b[31m.png'
    """
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )


def _printed(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # what is left in the buffer would fail once more when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _SIGPIPE
    return 0


def _ended(code: int, message: str) -> int:
    print(f"ground-probe: {readable(message)}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            name = "command" if action.metavar == "COMMAND" else "/".join(action.option_strings)
            raise unknown(name, value, action.choices)


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
    name = command.__name__.rpartition(".")[2]
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
    sub.add_argument("--quiet", action="store_true", help="no progress and no advice")
    sub.set_defaults(run=command.run)


def _first_line(module: ModuleType) -> str:
    return (module.__doc__ or "").partition("\n")[0]
