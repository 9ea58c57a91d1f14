"""Workers that each hold an editor, fed from one queue; whatever dies on the way."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import attrgetter
from typing import Any, Protocol

from ground_probe.errors import GroundProbeError, InputError
from ground_probe.evaluation.job import Item, Rows
from ground_probe.evaluation.rows import error_row

DEATHS = 2
Chunk = tuple[Item, ...]


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables of this process, and of those that it starts, until the block is left."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.update(before)
        for name in variables.keys() - before.keys():
            del os.environ[name]


class WorkerDiedError(GroundProbeError):
    """A worker ended before it answered."""


class Worker(Protocol):
    """A process with an editor; it has one chunk at a time, so what it dies of is certain."""

    number: int

    def ready(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Wait until the editor is loaded; what `Job.describe` says of it."""

    def begin(self, chunk: Chunk) -> None:
        """Hand it a chunk."""

    def result(self) -> list[Rows]:
        """The rows of each item of that chunk; WorkerDiedError if there will be none."""

    def end(self) -> None:
        """Let it go; it holds nothing that is not written down."""


class Pool:
    """Workers, all alike; `facts` and `where` are what they say of their editors.

    Args:
        engine: what the record calls them.
        count: how many.
        start: starts a worker, given its number.
        wait: gives the next of some busy workers that has an answer or died.
    """

    def __init__(
        self,
        engine: str,
        count: int,
        start: Callable[[int], Any],
        wait: Callable[[Sequence[Any]], Any],
    ) -> None:
        if count < 1:
            raise InputError(f"{count} workers can do nothing: give at least 1")
        self._start, self._wait = start, wait
        self._idle: list[Worker] = [start(number) for number in range(count)]
        described = [worker.ready() for worker in self._idle]
        self.facts = described[0][0]
        if any(facts != self.facts for facts, _ in described):
            raise GroundProbeError(f"the workers loaded different editors: {described}")
        self.where = {"engine": engine, "workers": [where for _, where in described]}

    def run(
        self, items: Iterable[Item], started: Callable[[Iterable[str]], None]
    ) -> Iterator[Rows]:
        """Yield the rows of items as they are done; the driver itself cannot die of one.

        Sentences of an image go to one worker. If it dies each of them is tried alone; a sentence
        that `DEATHS` workers died of alone is an error.

        Raises:
            GroundProbeError: a worker cannot be started again.
        """
        waiting = deque(tuple(image) for _, image in groupby(items, attrgetter("image_id")))
        busy: dict[Worker, Chunk] = {}
        deaths: Counter[int] = Counter()
        results: list[Rows] = []
        while waiting or busy:
            while waiting and self._idle:
                worker, chunk = self._idle.pop(), waiting.popleft()
                worker.begin(chunk)
                busy[worker] = chunk
            yield from results
            worker = self._wait(list(busy))
            chunk = busy.pop(worker)
            try:
                results = worker.result()
            except WorkerDiedError as death:
                results = []
                worker.end()
                worker = self._start(worker.number)
                worker.ready()
                item, *others = chunk
                deaths[item.index] += not others
                if others:
                    waiting.extend((item,) for item in chunk)
                elif deaths[item.index] < DEATHS:
                    waiting.append(chunk)
                else:
                    message = f"WorkerDied: {DEATHS} workers ended during this sentence ({death})"
                    results = [[error_row(key, message) for key in item.keys.values()]]
            self._idle.append(worker)
        yield from results
