"""Probes on every cell: fitted on val, scored on val in folds and on test in every condition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from tqdm import tqdm

from ground_probe.probes import control_labels
from ground_probe.probes.table import FITTED, LINEAR, fitted_values
from ground_probe.study.samples import INPUTS, Cell, Samples
from ground_probe.study.stack import Scored, Stack
from ground_probe.study.visible import VIEWS


def score(
    fit: Samples,
    tests: Sequence[Samples] = (),
    *,
    cells: Iterable[Cell] | None = None,
    title: str = "probes",
) -> pd.DataFrame:
    """Every probe on every cell, or on some, one row an image.

    Probes are fitted on `fit` alone, of val. Its own images are scored in folds, which is what
    cells are chosen by; those of `tests` are scored in every condition that has the cell's step.

    Returns:
        labels, control, split, seed, block, stream, step, sigma, probe, image_id, n_expressions and
        value: of an image, NaN where it lacks one of the two classes.
    """
    wanted = set(fit.cells if cells is None else cells)
    steps = [step for step in fit.steps if any(cell[2] == step for cell in wanted)]
    tables: list[pd.DataFrame] = []
    for step in tqdm(steps, desc=title, unit="step", leave=False):
        stack = Stack.of([fit, *(each for each in tests if step in each.steps)])
        scored: list[Scored] = []
        for cell in fit.cells:
            if cell[2] != step or cell not in wanted:
                continue
            where = fit.where(cell)
            features = stack.read(partial(Samples.hidden, cell=cell))
            scored += _fitted(stack, features.astype(np.float32), **where)
            for kind in fit.maps:
                maps = stack.read(partial(Samples.attention, kind=kind, cell=cell))
                scored += stack.aucs(maps, probe=kind, **where)
        tables.append(stack.table(scored))
    return pd.concat(tables, ignore_index=True)


def score_inputs(fit: Samples, *tests: Samples) -> pd.DataFrame:
    """The same probes on what the editor was given: colors, latents, position."""
    stack, tables = Stack.of([fit, *tests]), []
    where = {"block": "input", "stream": "reference", "step": pd.NA, "sigma": np.nan}
    for name in INPUTS:
        if name == "position" or fit.has(name):
            features = stack.read(partial(Samples.inputs, name=name))
            parts = stack.table(_fitted(stack, features.astype(np.float32), **where))
            tables.append(parts.assign(control=name))
    return pd.concat(tables, ignore_index=True)


def score_control_labels(
    fit: Samples, *tests: Samples, steps: Iterable[int] | None = None, seed: int = 0
) -> pd.DataFrame:
    """The linear probe on labels drawn by place: what its capacity alone would score.

    Source: Hewitt and Liang (2019), Designing and Interpreting Probes with Control Tasks.
    """
    stack, scored = Stack.of([fit, *tests]), list[Scored]()
    types = control_labels(np.arange(np.prod(fit.grid)), seed=seed)
    drawn = types[stack.frame["place"].to_numpy()]
    asked = set(fit.steps if steps is None else steps)
    for cell in tqdm(fit.cells, desc="control labels", unit="cell", leave=False):
        if cell[2] in asked:
            features = stack.read(partial(Samples.hidden, cell=cell))
            features, where = features.astype(np.float32), fit.where(cell)
            scored += _fitted(stack, features, probes=LINEAR, truth=drawn, **where)
    return stack.table(scored).assign(control="control_labels")


def score_visible(test: Samples) -> pd.DataFrame:
    """How well the visible change itself points to the referent: the same labels, no probe.

    `test` is collected with `visible=True`.
    """
    stack, scored = Stack.of([test]), list[Scored]()
    for step in test.steps:
        where = {"block": "output", "stream": "noise", "step": step, "sigma": test.sigmas[step]}
        for view, name in enumerate(VIEWS):
            change = test.change(view, step)
            scored += stack.aucs(change, probe=f"visible_{name}", **where)
    return stack.table(scored)


def _fitted(
    stack: Stack,
    features: Float[np.ndarray, "n width"],
    *,
    probes: Iterable[str] = FITTED,
    truth: Bool[np.ndarray, " n"] | None = None,
    **where: Any,
) -> Iterator[Scored]:
    beyond = np.unique(stack.group[~stack.fitted]).tolist() or None
    classes = stack.target if truth is None else truth
    for labels, asked in stack.questions.items():
        group = stack.group[asked]
        fitted = fitted_values(
            features[asked],
            classes[asked],
            groups=group,
            examples=stack.example[asked],
            probes=probes,
            test_groups=beyond,
        )
        for probe, values in fitted:
            yield {"labels": labels, "probe": probe, **where}, np.unique(group), values
