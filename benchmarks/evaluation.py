"""What an evaluation costs beside the forward pass, what workers gain, and how memory grows.

    python benchmarks/evaluation.py                           # all three
    python benchmarks/evaluation.py workers --seconds 0.3

overhead: processor time of `evaluate` on the embedded editor less that inside the segmenter
(target: at most 5 %), of which `once_ms` is spent once a run, on records and tables. workers:
sentences a second of two Ray workers of one thread each over one worker of one thread (target: at
least 1.7), for a segmenter that computes for a given time; the start of the workers is left out.
memory: resident MiB after each thousand of 5,000 sentences (target: flat).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time

import numpy as np
import psutil
import torch

import ground_probe as gp
from ground_probe.evaluation.ray_runner import Ray
from ground_probe.evaluation.work import Item, Job, chunks


def bright(editor, image, expression, recipe=None, seed=0):
    grey = np.asarray(image).mean(axis=2)
    return grey > grey.mean()


def busy(editor, image, expression, recipe=None, seed=0):
    """Single-threaded arithmetic for a number of seconds of this process's own time."""
    end = time.process_time() + recipe["seconds"]
    while time.process_time() < end:
        np.sort(np.random.default_rng(seed).normal(size=10_000))
    return bright(editor, image, expression)


def overhead(arguments: argparse.Namespace) -> dict[str, float]:
    inside, first, last = 0.0, None, 0.0

    def timed(*positional, **named):
        nonlocal inside, first, last
        start = time.process_time()
        first = first or start
        try:
            return gp.segment(*positional, **named)
        finally:
            last = time.process_time()
            inside += last - start

    torch.set_num_threads(1)
    editor, split = gp.load_editor("tiny"), gp.load_split("scenes", "test", limit=arguments.limit)
    gp.segment(editor, split[0].image, split[0].expression)
    with tempfile.TemporaryDirectory() as out:
        start = time.process_time()
        counts = gp.evaluate(editor, split, out, segment=timed).counts
        end = time.process_time()
    assert counts.ok == len(split)
    spent = end - start
    return {
        "sentences": len(split),
        "segmenter_ms": 1000 * inside / len(split),
        "everything_else_ms": 1000 * (spent - inside) / len(split),
        "once_ms": 1000 * (first - start + end - last),
        "everything_else_share": (spent - inside) / spent,
    }


def workers(arguments: argparse.Namespace) -> dict[str, float]:
    split = gp.load_split("scenes", "test", limit=arguments.limit)
    job = Job(lambda: None, split, busy, {"seconds": arguments.seconds}, 0)
    work = [Item(i, key, {"full": key}) for i, key in enumerate(split.keys)]
    seconds = {}
    for count in (1, 2):
        with Ray(workers=count)(job) as engine:
            start = time.perf_counter()
            done = sum(len(rows) for _, rows in engine.run(chunks(work, 1)))
            seconds[count] = time.perf_counter() - start
        assert done == len(split)
    return {
        "seconds_of_arithmetic": arguments.seconds,
        **{f"wall_{count}": each for count, each in seconds.items()},
        "gain": seconds[1] / seconds[2],
    }


def memory(arguments: argparse.Namespace) -> dict[str, list[float]]:
    process, resident = psutil.Process(), []

    def measured(*positional, **named):
        resident.append(process.memory_info().rss / 2**20)
        return bright(*positional, **named)

    split = gp.load_split("scenes", "train", limit=arguments.limit)
    with tempfile.TemporaryDirectory() as out:
        gp.evaluate(None, split, out, segment=measured)
    step = max(len(split) // 5, 1)
    return {"resident_mib": [round(each, 1) for each in resident[step - 1 :: step]]}


SENTENCES = {overhead: 200, workers: 64, memory: 5000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    runs = {run.__name__: run for run in SENTENCES}
    parser.add_argument("what", nargs="?", choices=runs, help="default: all")
    parser.add_argument("--limit", type=int, help="sentences")
    parser.add_argument("--seconds", type=float, default=0.3, help="of arithmetic a sentence")
    arguments = parser.parse_args()
    limit = arguments.limit
    for name in [arguments.what] if arguments.what else runs:
        arguments.limit = limit or SENTENCES[runs[name]]
        print(json.dumps({name: runs[name](arguments)}, indent=2), flush=True)


if __name__ == "__main__":
    main()
