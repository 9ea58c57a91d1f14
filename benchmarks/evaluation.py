"""What an evaluation costs beside the forward pass, what workers gain, and how memory grows.

    python benchmarks/evaluation.py overhead
    python benchmarks/evaluation.py workers --seconds 0.3
    python benchmarks/evaluation.py memory

overhead: wall time of `evaluate` on the embedded editor less the time inside the segmenter (target:
at most 5 %). workers: sentences a second of two Ray workers of one thread each over one worker of
one thread (target: at least 1.7), for a segmenter that computes for a given time; the start of the
workers is left out. memory: resident MiB after each thousand of 5,000 sentences (target: flat).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time

import numpy as np
import psutil

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
    inside = 0.0

    def timed(*positional, **named):
        nonlocal inside
        start = time.perf_counter()
        try:
            return gp.segment(*positional, **named)
        finally:
            inside += time.perf_counter() - start

    editor, split = gp.load_editor("tiny"), gp.load_split("scenes", "test", limit=arguments.limit)
    gp.segment(editor, split[0].image, split[0].expression)
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        counts = gp.evaluate(editor, split, out, segment=timed).counts
        wall = time.perf_counter() - start
    assert counts.ok == len(split)
    return {
        "sentences": len(split),
        "forward_ms": 1000 * inside / len(split),
        "everything_else_ms": 1000 * (wall - inside) / len(split),
        "everything_else_share": (wall - inside) / wall,
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    subparsers = parser.add_subparsers(required=True)
    for run, limit in ((overhead, 200), (workers, 64), (memory, 5000)):
        sub = subparsers.add_parser(run.__name__)
        sub.set_defaults(run=run)
        sub.add_argument("--limit", type=int, default=limit, help="sentences")
        sub.add_argument("--seconds", type=float, default=0.3, help="of arithmetic a sentence")
    arguments = parser.parse_args()
    print(json.dumps(arguments.run(arguments), indent=2))


if __name__ == "__main__":
    main()
