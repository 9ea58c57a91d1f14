"""The linear probe against a loop over scikit-learn's LogisticRegression.

Both choose the penalty of each fold on the same inner folds and standardize within each fit: 105
fits a cell for scikit-learn. A grid of 57 x 8 cells would take it hours, so a subset of cells is
timed, the same ones for both; the ratio is a cell's, and totals are scaled from it. The cells are
white features (on which scikit-learn is at its quickest), correlated ones as hidden states are,
correlated ones in which the object is all but linearly separable, and the embedded editor's states.

    python benchmarks/probes.py --repeats 3
    python benchmarks/probes.py --wide          # 6,000 x 3,072, and 50 refits; ours alone
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import ground_probe as gp
from ground_probe.probes import held_out_scores, per_image, refit_scores
from ground_probe.probes.table import token_labels

CELLS = 57 * 8
IMAGES, TOKENS, WIDTH = 100, 200, 256
WIDE = 100, 60, 3072
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
KINDS = {  # exponent of the spectrum, distance of the classes
    "white": (0.0, 1.0),
    "correlated": (1.0, 0.3),
    "correlated, separable": (1.0, 3.0),
}
Cell = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Features, labels, and the image of each row."""


def cell(
    rng: np.random.Generator, decay: float, signal: float,
    images: int = IMAGES, tokens: int = TOKENS, width: int = WIDTH,
) -> Cell:  # fmt: skip
    groups = np.arange(images * tokens) // tokens
    labels = rng.random(len(groups)) < 0.2
    spectrum = np.arange(1, width + 1.0) ** -decay
    rotation = np.linalg.qr(rng.normal(size=(width, width)))[0]
    offset = 0.5 * rng.normal(size=(images, width))[groups]
    noise = (rng.normal(size=(len(groups), width)) + offset) * np.sqrt(spectrum) @ rotation
    direction = rng.normal(size=width) / np.sqrt(width)
    features = noise / noise.std(axis=0) + signal * np.outer(labels, direction)
    return features.astype(np.float32), labels, groups


def states(count: int, images: int = 60) -> Iterator[Cell]:
    """The embedded editor's reference tokens after a block, of `count` blocks."""
    editor = gp.load_editor("tiny", device="cpu")
    split = gp.load_split("cartoons", "val", limit=images)
    traces = [gp.trace(editor, each.image, f"remove {each.expression}") for each in split]
    parts = [token_labels(traces[0].grid("noise"), each.mask, ()) for each in split]
    target, _, rest = map(np.concatenate, zip(*parts, strict=True))
    asked, groups = target | rest, np.repeat(np.arange(images), len(parts[0][0]))
    for block in traces[0].blocks[:count]:
        features = np.concatenate([each.hidden[block, 0, "reference"].numpy() for each in traces])
        yield features[asked], target[asked], groups[asked]


def timed(run: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    values = run()
    return values, time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wide", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rng, repeats = np.random.default_rng(0), arguments.repeats
    with threadpool_limits(arguments.threads):
        held_out_scores(*cell(rng, 0, 1, width=8))  # the first call of a library is slower
        if arguments.wide:
            wide(rng, repeats)
            return
        for kind, how in KINDS.items():
            compare(kind, (cell(rng, *how) for _ in range(repeats)))
        compare("the embedded editor's states", states(repeats))


def compare(kind: str, cells: Iterator[Cell]) -> None:
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        {"logisticregression__C": STRENGTHS},
        cv=LeaveOneGroupOut(),
        scoring="neg_log_loss",
    )
    walls, ratios, aucs = [], [], []
    for features, labels, groups in cells:
        row = []
        for probe in ("linear", search):
            scores, wall, processor = timed(
                lambda probe=probe: held_out_scores(features, labels, groups, probe)  # noqa: B023
            )
            row.append((wall, processor, np.nanmean(per_image(scores, labels, groups))))
        wall, processor, auc = zip(*row, strict=True)
        walls.append(wall)
        ratios.append(processor[1] / processor[0])
        aucs.append(auc)
    (ours, theirs), (auc, auc_loop) = np.median(walls, axis=0), np.mean(aucs, axis=0)
    print(
        f"{kind}, {features.shape[0]:,} x {features.shape[1]}: {theirs:.1f} s -> {ours:.2f} s a "
        f"cell; ratio {np.median(ratios):.0f} ({min(ratios):.0f} to {max(ratios):.0f}) of "
        f"processor time; AUC {auc_loop:.4f} -> {auc:.4f}; {CELLS} cells would take "
        f"{CELLS * theirs / 3600:.1f} h -> {CELLS * ours / 60:.0f} min",
        flush=True,
    )


def wide(rng: np.random.Generator, repeats: int) -> None:
    for signal in (0.3, 1.0):
        of = features, labels, groups = cell(rng, 1.0, signal, *WIDE)
        for name, run in (
            ("folds", lambda of=of: held_out_scores(*of)),
            ("50 refits", lambda of=of: refit_scores(*of, range(WIDE[0] // 2, WIDE[0]))),
        ):
            runs = [timed(run) for _ in range(repeats)]
            seconds = min(processor for _, _, processor in runs)
            print(f"{features.shape}, signal {signal}, {name}: {seconds:.1f} s of processor time")
        scores = held_out_scores(features, labels, groups)
        print(f"AUC {np.nanmean(per_image(scores, labels, groups)):.4f}", flush=True)


if __name__ == "__main__":
    main()
