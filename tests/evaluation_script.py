"""Run one evaluation as a process of its own, so that tests can kill it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

from ground_probe import load_split
from ground_probe.evaluation import InProcess, Processes, evaluate
from ground_probe.evaluation.ray import Ray

METHODS = ("bright", "noisy", "whole_image", "largest_object")


def segment(editor, image, expression, recipe=None, seed=0):
    """Bright pixels, and bright pixels under the example's own noise; ends or raises on demand.

    The recipe may hold `poison` (words whose sentences always end the process), `once` (a file: the
    process ends where it is missing, and makes it), `fault` (words whose sentences raise until the
    file `cured` is there) and `seconds` (of sleep).
    """
    time.sleep(recipe["seconds"])
    if (poison := recipe.get("poison")) and poison in expression:
        os._exit(9)
    if (once := recipe.get("once")) and not Path(once).exists():
        Path(once).touch()
        os._exit(9)
    if (
        (fault := recipe.get("fault"))
        and fault in expression
        and not Path(recipe["cured"]).exists()
    ):
        raise ValueError(f"no idea what\n{expression!r} is")
    grey = np.asarray(image).mean(axis=2)
    noise = np.random.default_rng(seed).normal(size=grey.shape, scale=30)
    return {"bright": grey > grey.mean(), "noisy": grey + noise > grey.mean()}


if __name__ == "__main__":
    out, engine, limit, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    shard = tuple(int(number) for number in engine.split("/")) if "/" in engine else None
    chosen = Ray(workers=int(engine.removeprefix("ray"))) if engine.startswith("ray") else None
    if engine.startswith("processes"):
        chosen = Processes(int(engine.removeprefix("processes")))
    recipe = {"seconds": seconds, **dict(each.split("=") for each in sys.argv[5:])}
    split = load_split("scenes", "test", limit=limit)
    result = evaluate(
        None, split, out, recipe, methods=METHODS, segment=segment, shard=shard,
        engine=chosen or InProcess,
    )  # fmt: skip
    print(result.counts)
