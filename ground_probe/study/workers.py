"""Images in several processes of one thread each: threads pay for large models only.

Processes are forked, as those of torch's own loader of data are: nothing is imported or loaded
twice. The results do not depend on how many there are, for each computes with one thread.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import torch
from tqdm import tqdm

from ground_probe.editors import Editor
from ground_probe.errors import GroundProbeError

SMALL_PARAMETERS = 100_000_000
"""Of a denoiser: below, one thread an image is faster than all threads on one image."""

_work: Callable[[int], Any]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each_image(
    editor: Editor, work: Callable[[int], Any], positions: Sequence[int], workers: int = 0
) -> Iterator[Any]:
    """`work(position)` for each position, in their order; it returns what can be pickled.

    0 workers are as many as there are cores; a large editor, or one on an accelerator, has one.
    """
    parameters = sum(each.numel() for each in editor.denoiser.parameters())
    small = editor.device.type == "cpu" and parameters < SMALL_PARAMETERS
    workers = min(workers or cores(), len(positions)) if small else 1
    if workers < 2 or "fork" not in multiprocessing.get_all_start_methods():
        with _threads(1 if small else torch.get_num_threads()):
            yield from map(work, positions)
        return
    executor = ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("fork"),
        initializer=_begin,
        initargs=(work, os.getpid()),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
            results = executor.map(_of_position, positions)
        yield from results
    except BrokenProcessPool as error:
        raise GroundProbeError(
            "a process that collected images died, killed or out of memory: repeat it, what is "
            "there is not done again, with fewer workers"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _begin(work: Callable[[int], Any], parent: int) -> None:
    global _work
    _work = work
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # the parent's is shared: who is killed may hold it
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent: int) -> None:
    """A parent that was killed cannot say that it is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _of_position(position: int) -> Any:
    return _work(position)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
