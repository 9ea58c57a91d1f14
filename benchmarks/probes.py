"""The fast linear probe against a loop over scikit-learn's LogisticRegression.

Both choose the penalty of each fold on the same inner folds and standardise within each fit: 105
fits a cell for scikit-learn. A grid of 57 x 8 cells would take it hours, so a subset of cells is
timed, the same ones for both; the ratio is a cell's, and totals are scaled from it. Three kinds of
cells: white features (on which scikit-learn is at its quickest), correlated ones as hidden states
are, and correlated ones in which the object is all but linearly separable.

    python benchmarks/probes.py --repeats 3
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from ground_probe.probes import held_out_scores, per_image
from ground_probe.probes.linear import PENALTIES

CELLS = 57 * 8
IMAGES, TOKENS, WIDTH = 100, 200, 256
GROUPS = np.arange(IMAGES * TOKENS) // TOKENS
KINDS = {  # exponent of the spectrum, distance of the classes
    "white": (0.0, 1.0),
    "correlated": (1.0, 0.3),
    "correlated, separable": (1.0, 3.0),
}


def cell(rng: np.random.Generator, labels: np.ndarray, decay: float, signal: float) -> np.ndarray:
    spectrum = np.arange(1, WIDTH + 1.0) ** -decay
    rotation = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    offset = 0.5 * rng.normal(size=(IMAGES, WIDTH))[GROUPS]
    noise = (rng.normal(size=(len(GROUPS), WIDTH)) + offset) * np.sqrt(spectrum) @ rotation
    direction = rng.normal(size=WIDTH) / np.sqrt(WIDTH)
    return (noise / noise.std(axis=0) + signal * np.outer(labels, direction)).astype(np.float32)


def timed(run: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    values = run()
    return values, time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rng = np.random.default_rng(0)
    labels = rng.random(len(GROUPS)) < 0.2

    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        {"logisticregression__C": PENALTIES},
        cv=LeaveOneGroupOut(),
        scoring="neg_log_loss",
    )

    def slow(features: np.ndarray) -> np.ndarray:
        return per_image(held_out_scores(features, labels, GROUPS, search), labels, GROUPS)

    def fast(features: np.ndarray) -> np.ndarray:
        return per_image(held_out_scores(features, labels, GROUPS), labels, GROUPS)

    fast(cell(rng, labels, 0, 1))  # the first call of a library is slower
    rows = f"{len(GROUPS):,} x {WIDTH}"
    print(f"{rows} a cell, {arguments.repeats} cells a kind, {arguments.threads} thread(s)")
    with threadpool_limits(arguments.threads):
        for kind, how in KINDS.items():
            walls, ratios, processor_ratios, gaps = [], [], [], []
            for _ in range(arguments.repeats):
                features = cell(rng, labels, *how)
                ours, wall, processor = timed(lambda: fast(features))  # noqa: B023 called at once
                theirs, wall_loop, processor_loop = timed(lambda: slow(features))  # noqa: B023
                walls.append((wall, wall_loop))
                ratios.append(wall_loop / wall)
                processor_ratios.append(processor_loop / processor)
                gaps.append(abs(ours.mean() - theirs.mean()))
            ours, theirs = np.median(walls, axis=0)
            print(
                f"{kind}: {theirs:.1f} s -> {ours:.2f} s a cell; ratio {spread(ratios)} of wall, "
                f"{spread(processor_ratios)} of processor time; |AUC difference| at most "
                f"{max(gaps):.5f}; {CELLS} cells would take {CELLS * theirs / 3600:.1f} h -> "
                f"{CELLS * ours / 60:.0f} min",
                flush=True,
            )


def spread(values: list[float]) -> str:
    return f"{np.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


if __name__ == "__main__":
    main()
