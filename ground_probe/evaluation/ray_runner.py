"""Ray Core actors as an engine: one a device, fed from one queue, written down by the driver."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ground_probe.errors import GroundProbeError, InputError
from ground_probe.evaluation.store import error_row
from ground_probe.evaluation.work import Chunk, Job, Rows, chunks

CHUNK_SENTENCES = 4
FAILURES = 2


@dataclass(frozen=True, slots=True)
class Ray:
    """An engine for `evaluate`: `engine=Ray(workers=2)`.

    Args:
        workers: actors; by default one a GPU of the cluster, or 1.
        address: of a running cluster ("auto", "host:6379"); by default one is started here and
            ends with the run.

    Raises:
        InputError: ray is not installed.
    """

    workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise InputError(f"{self.workers} Ray workers can do nothing: give at least 1")
        _ray()

    def __call__(self, job: Job) -> RayWorkers:
        """The workers of one run, started and stopped by its `with`."""
        return RayWorkers(job, self.workers, self.address)


class RayWorkers:
    """Actors that each hold an editor; see `Ray`."""

    def __init__(self, job: Job, workers: int | None, address: str | None) -> None:
        self._job, self._workers, self._address = job, workers, address

    def __enter__(self) -> RayWorkers:
        ray = _ray()
        with ExitStack() as stack:
            local = {} if self._address else _local_cluster(self._workers, stack)
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            stack.callback(ray.shutdown)
            try:
                ray.init(address=self._address, log_to_driver=False, logging_level="error", **local)
            except Exception as error:  # Ray raises bare exceptions
                raise InputError(
                    f"Ray cannot start or be reached ({error}): check the address; a busy machine "
                    "misses the 30 s that Ray waits for itself, so try again or run in process"
                ) from error
            gpus = int(ray.cluster_resources().get("GPU", 0))
            count = self._workers or gpus or 1
            options = {"num_cpus": 1, "num_gpus": min(1, gpus / count)}
            # `run` starts anew what died: a call to an actor that Ray is restarting fails at
            # once, and would be taken for a death of the next chunk.
            self._actor = ray.remote(max_restarts=0, max_task_retries=0, **options)(_Actor)
            self._actors = [self._actor.remote(self._job) for _ in range(count)]
            described = ray.get([actor.describe.remote() for actor in self._actors])
            self.facts = described[0][0]
            if any(facts != self.facts for facts, _ in described):
                raise GroundProbeError(f"the workers loaded different editors: {described}")
            self.where = {"engine": "ray", "workers": [where for _, where in described]}
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def run(self, work: Iterable[Chunk]) -> Iterator[tuple[Chunk, Rows]]:
        """Yield chunks as they are done, whatever dies on the way.

        A chunk whose worker died twice is divided; a sentence whose worker died twice is an error.
        An actor has one chunk at a time, so what it died of is certain.

        Raises:
            ray.exceptions.RayError: a worker cannot be started again.
        """
        ray = _ray()
        sentences = [item for chunk in work for item in chunk]
        waiting = deque(_Pending(chunk) for chunk in chunks(sentences, CHUNK_SENTENCES))
        idle, running = list(self._actors), {}
        while waiting or running:
            while waiting and idle:
                actor, pending = idle.pop(), waiting.popleft()
                running[actor.run.remote(pending.chunk)] = actor, pending
            (done,), _ = ray.wait(list(running))
            actor, pending = running.pop(done)
            try:
                rows = ray.get(done)
            except ray.exceptions.RayError as death:
                ray.kill(actor)  # where the device failed, the process is still there
                actor = self._actor.remote(self._job)
                ray.get(actor.describe.remote())
                rows = pending.after(death, waiting)
            idle.append(actor)
            if rows:
                yield pending.chunk, rows


@dataclass(slots=True)
class _Pending:
    """A chunk still to run, and how often its worker died of it."""

    chunk: Chunk
    failures: int = field(default=0)

    def after(self, death: BaseException, waiting: deque[_Pending]) -> Rows:
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
            return [error_row(key, message) for key in item.keys.values()]
        return []


class _Actor:
    """One editor on one device, in a process of its own."""

    def __init__(self, job: Job) -> None:
        self._job, self._editor = job, job.load()

    def describe(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._job.describe(self._editor), self._job.where(self._editor)

    def run(self, chunk: Chunk) -> Rows:
        return [row for rows in self._job.run(self._editor, chunk) for row in rows]


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError("Ray is not installed: pip install 'ground-probe[ray]'") from None
    return ray


def _local_cluster(workers: int | None, stack: ExitStack) -> dict[str, Any]:
    # Workers are all of the work: behind every other process, as Ray has them, they would starve.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Ray's socket paths must stay below 107 bytes, so the folder's own path is short.
    folder = tempfile.TemporaryDirectory(prefix="ground-probe-ray-", ignore_cleanup_errors=True)
    return {
        "num_cpus": workers or os.cpu_count(),
        "include_dashboard": False,
        "object_store_memory": 200 * 2**20,
        "_temp_dir": stack.enter_context(folder),
    }
