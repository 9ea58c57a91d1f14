"""Processes of this machine as an engine: each one thread and one editor, no package needed.

On Linux without an accelerator they are forked, once the editor is loaded: nothing is imported,
loaded or held in memory twice. A fork is safe there, for no file of results is open yet and a
worker computes in one thread, which asks nothing of threads that a fork leaves behind. The driver
of an accelerator survives no fork, and a worker that takes a dead one's place comes when files are
open: both are new processes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

import cloudpickle
from tqdm import tqdm

from ground_probe.errors import GroundProbeError, InputError
from ground_probe.evaluation.job import Chunk, Job, Rows
from ground_probe.evaluation.pool import Pool, WorkerDiedError, positive

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_CODE = "from ground_probe.evaluation import processes; processes.work({})"


@dataclass(frozen=True, slots=True)
class Processes:
    """An engine for `evaluate`: `engine=Processes(2)`.

    The rows are those of one process, to the bit. On a machine with several GPUs each worker sees
    one of them.

    Args:
        workers: how many.
    """

    workers: int

    def __post_init__(self) -> None:
        positive(self.workers, "processes")
        if os.name != "posix":
            raise InputError("processes need a POSIX system: use one worker, or Ray")

    def __call__(self, job: Job) -> ProcessPool:
        """The processes of one run, started and ended by its `with`."""
        return ProcessPool(job, self.workers)


class ProcessPool(Pool):
    """Processes that each hold an editor; see `Processes`."""

    def __init__(self, job: Job, workers: int) -> None:
        super().__init__()
        self._count, self._job = workers, job
        try:
            self._pickled = cloudpickle.dumps(job)
        except Exception as error:  # whatever the objects of others raise
            raise InputError(
                f"the editor or the segmenter cannot be sent to another process ({error}): give "
                "`evaluate` a function that loads it, or use one worker"
            ) from error

    def __enter__(self) -> ProcessPool:
        try:
            fork = partial(self._fork, self._job.load()) if _may_fork() else None
            for number in range(self._count):
                self._workers.append(_Process(self._pickled, number, fork))
            self._describe("processes", [worker.ready() for worker in self._workers])
        except BaseException:
            self.__exit__()
            raise
        return self

    def _fork(self, editor: Any, theirs: Connection, ours: Connection) -> Any:
        ends = [*(worker.connection for worker in self._workers), ours]
        process = multiprocessing.get_context("fork").Process(
            target=_serve_from_fork, args=(theirs, ends, self._job, editor)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
            process.start()
        return process

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            worker.end()

    def _wait(self, busy: Sequence[_Process]) -> _Process:
        answered = set(wait([worker.connection for worker in busy]))
        return next(worker for worker in busy if worker.connection in answered)

    def _renewed(self, worker: _Process) -> _Process:
        worker.end()
        fresh = _Process(self._pickled, worker.number)
        fresh.ready()
        return fresh


class _Process:
    """One process and the pipe to it."""

    def __init__(self, job: bytes, number: int, fork: Callable | None = None) -> None:
        self.number = number
        self.connection, theirs = Pipe()
        self._process = _started(theirs, number) if fork is None else fork(theirs, self.connection)
        theirs.close()
        if fork is None:
            with suppress(OSError):  # it died already: `ready` says so
                self.connection.send((sys.path, job))

    def ready(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Wait until the editor is loaded; what it says of it."""
        answer = self._answer()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def begin(self, chunk: Chunk) -> None:
        with suppress(OSError):  # it died while idle: `result` says so
            self.connection.send(chunk)

    def result(self) -> list[Rows]:
        return self._answer()

    def _answer(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, OSError) as error:
            code = self._ended()
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise WorkerDiedError(f"process {self._process.pid}: {how}") from error

    def end(self) -> None:
        """Let it go; it holds nothing that is not written down."""
        self.connection.close()
        self._process.kill()
        self._ended()

    def _ended(self) -> int:
        """Wait for its end; its exit code."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.wait()
        self._process.join()
        return self._process.exitcode


def _may_fork() -> bool:
    import torch  # an editor needs it anyway, and the workers then have it

    there = torch.accelerator.current_accelerator(check_available=True)
    return sys.platform == "linux" and there is None


def _started(connection: Connection, number: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", _CODE.format(connection.fileno())],
        env=os.environ | dict.fromkeys(THREADS, "1") | _device(number),
        pass_fds=[connection.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno() if _has_fileno(sys.stderr) else subprocess.DEVNULL,
    )


def _serve_from_fork(
    connection: Connection, drivers: Sequence[Connection], job: Job, editor: Any
) -> None:
    for end in drivers:  # so that all pipes are closed when the driver is gone
        end.close()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(OSError):
        os.dup2(2, 1)  # standard output is the driver's
    tqdm.set_lock(threading.RLock())  # the driver's is shared: who is killed may hold it
    _serve(connection, job, editor)


def work(handle: int) -> None:
    """What a worker does: load the editor, then answer chunks until the pipe is closed."""
    connection = Connection(handle)
    sys.path[:], pickled = connection.recv()
    try:
        job = cloudpickle.loads(pickled)
        editor = job.load()
    except GroundProbeError as error:
        connection.send(error)
        return
    _serve(connection, job, editor)


def _serve(connection: Connection, job: Job, editor: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    try:
        connection.send((job.describe(editor), job.where(editor)))
    except GroundProbeError as error:
        connection.send(error)
        return
    with suppress(EOFError, ConnectionError), job.sharing(editor):
        while True:
            chunk = connection.recv()
            connection.send([job.run(editor, item) for item in chunk])


def _device(number: int) -> dict[str, str]:
    """Which GPU a worker sees, where there are several."""
    torch = sys.modules.get("torch")
    if torch is None or torch.cuda.device_count() < 2:
        return {}
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[number % count]}


def _has_fileno(stream: Any) -> bool:
    try:
        return stream.fileno() >= 0
    except (OSError, ValueError, AttributeError):
        return False
