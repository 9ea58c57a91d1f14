"""Workers that each hold an editor, fed from one queue; whatever dies on the way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ground_probe.errors import GroundProbeError, InputError
from ground_probe.evaluation.job import Chunk, Item, Rows, chunks
from ground_probe.evaluation.rows import error_row

CHUNK_SENTENCES = 4
FAILURES = 2


class WorkerDiedError(GroundProbeError):
    """A worker ended before it answered."""


class Worker(Protocol):
    """A process with an editor; it has one chunk at a time, so what it dies of is certain."""

    def begin(self, chunk: Chunk) -> None:
        """Hand it a chunk."""

    def result(self) -> list[Rows]:
        """The rows of each item of that chunk; WorkerDiedError if there will be none."""


class Pool(ABC):
    """Workers, all alike; `facts` and `where` are what they say of their editors."""

    facts: dict[str, Any]
    where: dict[str, Any]

    def __init__(self) -> None:
        self._workers: list[Any] = []

    @abstractmethod
    def _wait(self, busy: Sequence[Any]) -> Any:
        """The next worker that has an answer or died."""

    @abstractmethod
    def _renewed(self, worker: Any) -> Any:
        """Another worker in a dead one's place, ready to begin."""

    def _describe(self, engine: str, described: Sequence[tuple[dict, dict]]) -> None:
        self.facts = described[0][0]
        if any(facts != self.facts for facts, _ in described):
            raise GroundProbeError(f"the workers loaded different editors: {described}")
        self.where = {"engine": engine, "workers": [where for _, where in described]}

    def run(
        self, items: Iterable[Item], started: Callable[[Iterable[str]], None]
    ) -> Iterator[tuple[Item, Rows]]:
        """Yield items as they are done; the driver itself cannot die of one.

        A chunk whose worker died twice is divided; a sentence whose worker died twice is an error.

        Raises:
            GroundProbeError: a worker cannot be started again.
        """
        waiting = deque(_Pending(chunk) for chunk in chunks(list(items), CHUNK_SENTENCES))
        idle = list(self._workers)
        busy: dict[Any, _Pending] = {}
        while waiting or busy:
            while waiting and idle:
                worker, pending = idle.pop(), waiting.popleft()
                worker.begin(pending.chunk)
                busy[worker] = pending
            worker = self._wait(list(busy))
            pending = busy.pop(worker)
            try:
                results = worker.result()
            except WorkerDiedError as death:
                self._workers.remove(worker)
                worker = self._renewed(worker)
                self._workers.append(worker)
                results = pending.after(death, waiting)
            idle.append(worker)
            yield from zip(pending.chunk, results, strict=False)


@dataclass(slots=True)
class _Pending:
    """A chunk still to run, and how often its worker died of it."""

    chunk: Chunk
    failures: int = field(default=0)

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


def positive(workers: int | None, kind: str) -> None:
    """Raise InputError for a number of workers that can do nothing."""
    if workers is not None and workers < 1:
        raise InputError(f"{workers} {kind} can do nothing: give at least 1")
