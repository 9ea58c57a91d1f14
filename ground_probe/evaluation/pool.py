"""Workers that each hold an editor, fed from one queue; whatever dies on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, Protocol

from ground_probe.errors import GroundProbeError, InputError
from ground_probe.evaluation.job import Item, Rows
from ground_probe.evaluation.rows import error_row

CHUNK_SENTENCES = 4
FAILURES = 2
Chunk = tuple[Item, ...]


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

        A chunk whose worker died twice is divided; a sentence whose worker died twice is an error.

        Raises:
            GroundProbeError: a worker cannot be started again.
        """
        waiting = deque(_Pending(chunk) for chunk in chunks(items, CHUNK_SENTENCES))
        busy: dict[Worker, _Pending] = {}
        while waiting or busy:
            while waiting and self._idle:
                worker, pending = self._idle.pop(), waiting.popleft()
                worker.begin(pending.chunk)
                busy[worker] = pending
            worker = self._wait(list(busy))
            pending = busy.pop(worker)
            try:
                results = worker.result()
            except WorkerDiedError as death:
                worker.end()
                worker = self._start(worker.number)
                worker.ready()
                results = pending.after(death, waiting)
            self._idle.append(worker)
            yield from results


@dataclass(slots=True)
class _Pending:
    """A chunk still to run, and how often its worker died of it."""

    chunk: Chunk
    failures: int = 0

    def after(self, death: BaseException, waiting: deque[_Pending]) -> list[Rows]:
        """Queue the chunk again, or its halves; give up on a single sentence with error rows."""
        self.failures += 1
        if self.failures < FAILURES:
            waiting.append(self)
        elif len(self.chunk) > 1:
            middle = len(self.chunk) // 2
            waiting.extend([_Pending(self.chunk[:middle]), _Pending(self.chunk[middle:])])
        else:
            (item,) = self.chunk
            message = f"WorkerDied: {FAILURES} workers ended during this sentence ({death})"
            return [[error_row(key, message) for key in item.keys.values()]]
        return []


def chunks(items: Iterable[Item], sentences: int) -> Iterator[Chunk]:
    """Group items into chunks of about `sentences`, never dividing an image.

    >>> items = [Item(i, image, {}) for i, image in enumerate("aaabcc")]
    >>> [[item.index for item in chunk] for chunk in chunks(items, 2)]
    [[0, 1, 2], [3, 4, 5]]
    """
    chunk: list[Item] = []
    for _, image in groupby(items, attrgetter("image_id")):
        chunk += image
        if len(chunk) >= sentences:
            yield tuple(chunk)
            chunk = []
    if chunk:
        yield tuple(chunk)
