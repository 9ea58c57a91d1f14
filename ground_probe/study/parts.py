"""Notebooks of a study, one after the other or several at a time, under one line of progress."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, TextIO, cast

from tqdm import tqdm

from ground_probe.errors import GroundProbeError

_SIGTERM = 128 + signal.SIGTERM
_EVERY_SECONDS = 0.5


class Part(NamedTuple):
    """A notebook to run: its name, its source, the folder of results and its parameters."""

    name: str
    source: Path
    folder: Path
    parameters: dict[str, Any]


def run_parts(parts: Sequence[Part], workers: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run notebooks that are independent of one another; yield the record of each as it ends.

    So many are run at a time, each in a process of its own; one alone is run here. If one fails,
    those beside it are interrupted.
    """
    if workers == 1 or len(parts) == 1:
        yield from _one_by_one(parts)
    elif parts:
        yield from _beside_one_another(parts, workers)


def say(line: str) -> None:
    """A line of progress, where progress is wanted."""
    if not os.environ.get("TQDM_DISABLE"):
        print(line, file=sys.stderr, flush=True)


def _one_by_one(parts: Sequence[Part]) -> Iterator[tuple[str, dict[str, Any]]]:
    from ground_probe.study.run import run_notebook

    for at, part in enumerate(parts, 1):
        say(f"{part.name} ({at} of {len(parts)}) ...")
        begun = time.monotonic()
        yield part.name, run_notebook(part.source, part.folder, part.parameters)
        say(f"{part.name} done in {time.monotonic() - begun:.0f} s")


def _beside_one_another(
    parts: Sequence[Part], workers: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    context = multiprocessing.get_context("spawn")
    waiting, last = list(parts), dict[str, str]()
    running: dict[Connection, Any] = {}
    bar = tqdm(total=len(parts), unit="notebook", bar_format="{desc} [{elapsed}]")
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                part, (ours, theirs) = waiting.pop(0), context.Pipe(duplex=False)
                process = context.Process(target=_run, args=(part, theirs), name=part.name)
                process.start()
                theirs.close()
                running[ours] = process
            for pipe in cast(list[Connection], wait(list(running))):
                name = running[pipe].name
                try:
                    kind, value = pipe.recv()
                except EOFError:
                    kind, value = "error", f"{name} failed: its process died"
                if kind == "progress":
                    last[name] = value
                else:
                    running.pop(pipe).join()
                    last.pop(name, None)
                    if kind == "error":
                        raise GroundProbeError(value)
                    bar.update()
                    yield name, value
                now = [f"{each.name}{last.get(each.name, '')}" for each in running.values()]
                bar.set_description_str(f"{bar.n} of {len(parts)} notebooks · {' · '.join(now)}")
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()
        bar.close()


def _run(part: Part, pipe: Connection) -> None:
    """In a process of its own: run a notebook, report its progress and its end."""
    from ground_probe.study.run import run_notebook

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its children itself
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_SIGTERM))
    try:
        bars = cast(TextIO, _LastLine(pipe))
        pipe.send(("record", run_notebook(part.source, part.folder, part.parameters, bars)))
    except GroundProbeError as error:
        pipe.send(("error", str(error)))


class _LastLine:
    """A file that hands on the last bar that was written to it, now and then."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._sent = pipe, 0.0

    def write(self, text: str) -> int:
        """Take what a kernel writes to its standard error."""
        line = re.split(r"[\r\n]", text.strip())[-1].strip()
        if "%|" in line and time.monotonic() - self._sent > _EVERY_SECONDS:
            self._sent = time.monotonic()
            title, _, rest = line.partition("%|")
            count = re.search(r"\d+/\d+ \[[^,\]]*", rest)
            self._pipe.send(("progress", f" ({title}%{f', {count[0]}]' if count else ''})"))
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""
