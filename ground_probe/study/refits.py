"""The chosen cells once more, by probes that are fitted on resampled images of val."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from operator import methodcaller
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from ground_probe.errors import IncompleteError
from ground_probe.probes import control_labels, per_image, refit_scores
from ground_probe.probes.linear import DRAWS
from ground_probe.probes.table import FITTED, LINEAR
from ground_probe.study.samples import INPUTS, Cell, Samples
from ground_probe.study.spec import FOLDS
from ground_probe.study.stack import Stack
from ground_probe.study.table import best_blocks

TEST_ONLY, BOTH_KINDS = "test images, given the fit", "images to fit and to test on"
IN_WORDS = {
    TEST_ONLY: " given the fitted probes",
    BOTH_KINDS: " over other images to fit and to test on",
}
"""What a p and an interval of a difference are over, and how a sentence says it. Given the fit they
do not see that other images to fit on would have given other probes, and with few images to fit on
p <= 0.05 comes far more often than in one of 20 nulls (`benchmarks/coverage.py`)."""


def refit(
    table: pd.DataFrame,
    fit: Samples,
    tests: Sequence[Samples],
    *,
    untrained: Sequence[Samples] = (),
    probes: Sequence[str] = LINEAR,
    seed: int = 0,
    draws: int = DRAWS,
) -> pd.DataFrame:
    """How the cells that are best on val, and their controls, move with the images of val.

    Every cell's linear probe is fitted on the same resamples of val's images and scores test. What
    is not refitted is the choice of cells and of the penalty.

    Args:
        table: from `summarize`; cells are chosen by it.
        fit: of val.
        tests: of test: the editor as it is meant first, then controls that share its probe.
        untrained: of val and of test, by a probe of their own.
        probes: of `LINEAR`.
        seed: of the resamples, and of the control labels.
        draws: refits a cell.

    Returns:
        labels, control, probe, block, stream, step, draw and value, the mean over images of test.
    """
    how: Any = {"seed": seed, "draws": draws}
    early = table[table.control == "control_labels"].step.dropna().unique()
    rows: list[pd.DataFrame] = []
    chosen = _chosen(table, probes, "none")
    for cell, questions in tqdm(chosen.items(), desc="refits", unit="cell", leave=False):
        here = [each for each in tests if cell[2] in each.steps]
        rows += refit_cell(fit, here, cell, questions, **how)
        if cell[2] in early:
            drawn = refit_cell(fit, tests[:1], cell, questions, by_place=True, **how)
            rows += [of.assign(control="control_labels") for of in drawn]
    if untrained:
        for cell, questions in _chosen(table, probes, "random_weights").items():
            rows += refit_cell(untrained[0], untrained[1:], cell, questions, **how)
    stack, asked = Stack.of([fit, tests[0]]), set().union(*chosen.values())
    for name in INPUTS:
        if name == "position" or fit.has(name):
            features = stack.read(methodcaller("inputs", name))
            about = {"control": name, "block": "input", "stream": "reference", "step": pd.NA}
            rows += [of.assign(**about) for of in _refitted(stack, features, asked, **how)]
    return pd.concat(rows, ignore_index=True).astype({"step": "Int64"})


def _chosen(
    table: pd.DataFrame, probes: Sequence[str], control: str
) -> dict[Cell, set[tuple[str, str]]]:
    """The cells that are best on val for any question: label set and probe."""
    cells: dict[Cell, set[tuple[str, str]]] = {}
    for labels, probe in product(table.labels.unique(), probes):
        for row in best_blocks(table, labels, probe, control).itertuples():
            cells.setdefault((row.block, row.stream, int(row.step)), set()).add((labels, probe))
    return cells


def refit_cell(
    fit: Samples,
    tests: Sequence[Samples],
    cell: Cell,
    questions: set[tuple[str, str]],
    *,
    by_place: bool = False,
    seed: int = 0,
    draws: int = DRAWS,
) -> list[pd.DataFrame]:
    """The rows of one cell, for pairs of a label set and a probe.

    With `by_place`, the labels are those of the control task, drawn by place.
    """
    stack, truth = Stack.of([fit, *tests]), None
    if by_place:
        types = control_labels(np.arange(np.prod(fit.grid)), seed=seed)
        truth = types[stack.frame["place"].to_numpy()]
    features = stack.read(lambda samples: samples.hidden(cell))
    at = dict(zip(("block", "stream", "step"), cell, strict=True))
    values = _refitted(stack, features, questions, truth, seed=seed, draws=draws)
    return [of.assign(**at) for of in values]


def fit_variance(refits: pd.DataFrame | None, labels: str, first: Any, second: Any) -> float:
    """The variance over refits of the difference of the mean values of two rows of the table.

    It is 0 without refits: a result is then given the fit. What is not fitted does not move.
    """
    if refits is None:
        return 0.0
    draws = [_draws(refits[refits.labels == labels], row) for row in (first, second)]
    return float(np.var(draws[0] - draws[1], ddof=1))


def _draws(refits: pd.DataFrame, row: Any) -> np.ndarray:
    if row.probe not in FITTED:
        return np.zeros(refits.draw.max() + 1)
    here = (refits.control == row.control) & (refits.probe == row.probe)
    here &= refits.block == row.block
    if row.block != "input":
        here &= (refits.stream == row.stream) & (refits.step == row.step)
    values = refits[here].sort_values("draw")["value"].to_numpy()
    if not len(values):
        raise IncompleteError(
            f"no refits of {row.probe} at {row.block}, step {row.step}, control {row.control}: "
            "give `refit` the same table and collections, or leave refits out"
        )
    return values


def _refitted(
    stack: Stack,
    features: np.ndarray,
    questions: set[tuple[str, str]],
    truth: np.ndarray | None = None,
    **how: Any,
) -> Iterator[pd.DataFrame]:
    """For each question and probe: control, draw and value."""
    beyond = np.unique(stack.group[~stack.fitted])
    for labels in sorted({labels for labels, _ in questions}):
        asked = stack.questions[labels]
        classes = stack.target if truth is None else truth
        scores = refit_scores(
            features[asked].astype(np.float32), classes[asked], stack.group[asked], beyond,
            folds=FOLDS, **how,
        )  # fmt: skip
        rows = asked & ~stack.fitted
        group, example = stack.group[rows], stack.example[rows]
        draw = np.arange(len(scores))[:, None]
        images = np.unique(group)
        for probe in sorted(probe for name, probe in questions if name == labels):
            values = per_image(
                scores.ravel(),
                np.tile(classes[rows], len(scores)),
                (draw * len(stack.images) + group).ravel(),
                metric=FITTED[probe][1],
                examples=(draw * (stack.example.max() + 1) + example).ravel(),
            ).reshape(len(scores), -1)
            controls = stack.images["control"].to_numpy()[images]
            for control in dict.fromkeys(controls):
                mean = np.nanmean(values[:, controls == control], axis=1)
                yield pd.DataFrame({"draw": draw[:, 0], "value": mean}).assign(
                    labels=labels, control=control, probe=probe
                )
