"""Ray Core actors as an engine: one a device, on this machine or on a cluster."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from ground_probe.errors import InputError
from ground_probe.evaluation.job import Job, Rows
from ground_probe.evaluation.pool import Chunk, Pool, WorkerDiedError, environment

try:
    import ray
except ImportError:
    raise InputError("Ray is not installed: pip install 'ground-probe[ray]'") from None

_NICENESS = "RAY_worker_niceness"
HEAD_SECONDS = 5
"""How long a cluster's head may take to be reached."""


@dataclass(frozen=True, slots=True)
class Ray:
    """An engine for `evaluate`: `engine=Ray(workers=2)`.

    A cluster that is started here answers to nobody but this process: its token is drawn anew and
    kept in memory. For another cluster set `RAY_AUTH_MODE` and `RAY_AUTH_TOKEN` as it has them.

    Args:
        workers: actors; by default one a GPU of the cluster, or 1.
        address: of a running cluster ("auto", "host:6379"); by default one is started here and
            ends with the run.
    """

    workers: int | None = None
    address: str | None = None

    @contextmanager
    def __call__(self, job: Job) -> Iterator[Pool]:
        """The workers of one run, started and stopped by its `with`."""
        with ExitStack() as stack:
            if self.address:
                _reach(self.address)
                local = {}
            else:
                local = stack.enter_context(_local_cluster(self.workers))
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            stack.callback(ray.shutdown)
            try:
                ray.init(address=self.address, log_to_driver=False, logging_level="error", **local)
            except Exception as error:  # Ray raises bare exceptions
                raise InputError(
                    f"Ray cannot start or be reached ({error}): check the address and its token; a "
                    "busy machine misses the 30 s that Ray waits for itself, so try again or run "
                    "in process"
                ) from error
            gpus = int(ray.cluster_resources().get("GPU", 0))
            count = self.workers or gpus or 1
            # The pool starts anew what died: a call to an actor that Ray is restarting fails at
            # once, and would be taken for a death of the next chunk.
            actor = ray.remote(
                max_restarts=0, max_task_retries=0, num_cpus=1, num_gpus=min(1, gpus / count)
            )(_Actor)
            yield Pool("ray", count, lambda number: _RayWorker(number, actor, job), _first_done)


class _RayWorker:
    """One actor, and the call that it is at."""

    def __init__(self, number: int, actor: Any, job: Job) -> None:
        self.number, self._actor, self.running = number, actor.remote(job), None

    def ready(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._get(self._actor.describe.remote())

    def begin(self, chunk: Chunk) -> None:
        self.running = self._actor.run.remote(chunk)

    def result(self) -> list[Rows]:
        return self._get(self.running)

    def end(self) -> None:
        ray.kill(self._actor)  # where the device failed, the process is still there

    def _get(self, call: Any) -> Any:
        try:
            return ray.get(call)
        except ray.exceptions.RayError as error:
            raise WorkerDiedError(str(error)) from error


def _first_done(busy: Sequence[_RayWorker]) -> _RayWorker:
    (done,), _ = ray.wait([worker.running for worker in busy])
    return next(worker for worker in busy if worker.running == done)


class _Actor:
    """One editor on one device, in a process of its own."""

    def __init__(self, job: Job) -> None:
        self._job, self._editor = job, job.load()

    def describe(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._job.describe(self._editor)

    def run(self, chunk: Chunk) -> list[Rows]:
        with self._job.sharing(self._editor):
            return [self._job.run(self._editor, item) for item in chunk]


def _reach(address: str) -> None:
    """Raise InputError where nobody listens: Ray itself would wait for minutes, without a word."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        return  # "auto" and the like: Ray looks it up
    try:
        socket.create_connection((host.strip("[]"), int(port)), HEAD_SECONDS).close()
    except (OSError, OverflowError, ValueError) as error:
        raise InputError(
            f"no head of a Ray cluster can be reached at {address} ({error}): give host:port, such "
            "as 10.0.0.1:6379, or leave it out to start one here"
        ) from error


@contextmanager
def _local_cluster(workers: int | None) -> Iterator[dict[str, Any]]:
    """The options of a cluster of this process alone, and its end, however the process ends."""
    variables = {
        # Ray's services listen on every interface: who has no token is refused.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Workers are all of the work: behind every other process, as Ray has them, they'd starve.
        _NICENESS: os.environ.get(_NICENESS, "0"),
    }
    # Ray's socket paths must stay below 107 bytes, so the folder's own path is short.
    folder = tempfile.mkdtemp(prefix="ground-probe-ray-")
    sweeper = subprocess.Popen(
        [sys.executable, "-c", _SWEEPER, folder], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        with environment(variables):
            _read_environment()
            yield {
                "num_cpus": workers or os.cpu_count(),
                "include_dashboard": False,
                "object_store_memory": 200 * 2**20,
                "_temp_dir": folder,
            }
    finally:
        sweeper.communicate()  # its input ends
        _read_environment()


def _read_environment() -> None:
    """Let Ray, which has read its environment when it was imported, read it again."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


# Ends what is left of a cluster and removes its folder, once the pipe from the driver closes: a
# driver that is killed while Ray starts would leave services for minutes, the folder for good.
_SWEEPER = """
import contextlib, os, psutil, shutil, sys
folder, us = sys.argv[1], os.getpid()
sys.stdin.read()
while left := [
    process for process in psutil.process_iter(["cmdline"])
    if folder in " ".join(process.info["cmdline"] or ()) and process.pid != us
]:
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=5)
shutil.rmtree(folder, ignore_errors=True)
"""
