"""Processes of this machine as an engine: each one thread and one editor, no package needed.

On Linux without an accelerator they are forked, once the editor is loaded: nothing is imported,
loaded or held in memory twice. A fork is safe there, for a worker computes in one thread, which
asks nothing of threads that a fork leaves behind. The driver of an accelerator survives no fork:
there each process is a new one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

import cloudpickle
import torch
from tqdm import tqdm

from ground_probe.errors import GroundProbeError
from ground_probe.evaluation.job import Job, Rows
from ground_probe.evaluation.pool import Chunk, Pool, WorkerDiedError, environment

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Processes:
    """An engine for `evaluate`: `engine=Processes(2)`.

    The rows are those of one process, to the bit. On a machine with several GPUs each worker sees
    one of them; a script with a GPU needs its `if __name__ == "__main__":`.

    Args:
        workers: how many.
    """

    workers: int

    @contextmanager
    def __call__(self, job: Job) -> Iterator[Pool]:
        """The processes of one run, started and ended by its `with`."""
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        forked = sys.platform == "linux" and accelerator is None
        if forked:
            editor = job.load()
            job = replace(job, load=lambda: editor)
        given = job if forked else cloudpickle.dumps(job)
        there: dict[int, _Process] = {}
        with ExitStack() as stack:

            def start(number: int) -> _Process:
                others = [process.connection for process in there.values()] if forked else []
                there[number] = process = _Process(number, given, others)
                stack.callback(process.end)
                return process

            yield Pool("processes", self.workers, start, _first_to_answer)


class _Process:
    """One process and the pipe to it."""

    def __init__(self, number: int, given: Job | bytes, others: Sequence[Connection]) -> None:
        self.number = number
        self.connection, theirs = Pipe()
        forked = isinstance(given, Job)
        inherited = [*others, self.connection] if forked else []
        context: Any = multiprocessing.get_context("fork" if forked else "spawn")
        self._process = context.Process(target=_serve, args=(theirs, inherited, given))
        variables = {} if forked else dict.fromkeys(THREADS, "1") | _device(number)
        with environment(variables), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
            self._process.start()
        theirs.close()

    def ready(self) -> tuple[dict[str, Any], dict[str, Any]]:
        answer = self._answer()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def begin(self, chunk: Chunk) -> None:
        with suppress(OSError):  # it died while idle: `result` says so
            self.connection.send(chunk)

    def result(self) -> list[Rows]:
        return self._answer()

    def end(self) -> None:
        self.connection.close()
        self._process.kill()
        self._process.join()

    def _answer(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            code = self._process.exitcode
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise WorkerDiedError(f"process {self._process.pid}: {how}") from error


def _first_to_answer(busy: Sequence[_Process]) -> _Process:
    answered = set(wait([process.connection for process in busy]))
    return next(process for process in busy if process.connection in answered)


def _serve(connection: Connection, inherited: Sequence[Connection], given: Job | bytes) -> None:
    """What a worker does: answer chunks until the pipe is closed."""
    for end in inherited:  # so that all pipes are closed when the driver is gone
        end.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(OSError):
        os.dup2(2, 1)  # standard output is the driver's
    tqdm.set_lock(threading.RLock())  # the driver's is shared: who is killed may hold it
    torch.set_num_threads(1)
    try:
        job = given if isinstance(given, Job) else cloudpickle.loads(given)
        editor = job.load()
        connection.send(job.describe(editor))
    except GroundProbeError as error:
        connection.send(error)
        return
    with suppress(EOFError, ConnectionError), job.sharing(editor):
        while True:
            chunk = connection.recv()
            connection.send([job.run(editor, item) for item in chunk])


def _device(number: int) -> dict[str, str]:
    """Which GPU a worker sees, where there are several."""
    count = torch.cuda.device_count()
    if count < 2:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[number % count]}
