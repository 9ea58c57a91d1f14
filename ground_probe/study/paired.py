"""Differences between cells, paired by image.

With refits, an interval and a p see other images to fit on as well as other images to test on.
Without, they are given the fitted probes and too sure: with few images to fit on, p <= 0.05 comes
far more often than in one of 20 nulls (`benchmarks/coverage.py`). The column `over` says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from ground_probe.permutation import max_t
from ground_probe.probes.table import FITTED, LINEAR
from ground_probe.stats import compare
from ground_probe.study.refits import fit_variance
from ground_probe.study.table import best_blocks

TEST_ONLY, BOTH_KINDS = "test images, given the fit", "images to fit and to test on"


def over(refits: pd.DataFrame | None, *probes: str) -> str:
    """What an interval and a p of probes see."""
    told = refits is not None and all(name in LINEAR or name not in FITTED for name in probes)
    return BOTH_KINDS if told else TEST_ONLY


def selectivity(
    scores: pd.DataFrame,
    table: pd.DataFrame,
    *,
    labels: str = "grounding",
    probe: str = "linear",
    refits: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """By stream and step, the probe on true labels less the probe on control labels.

    The block is the one that is best on val for the true labels; steps without control labels are
    left out.

    Args:
        scores: one row an image.
        table: their summary.
        labels: "separability" or "grounding".
        probe: "linear" or "linear_precision".
        refits: from `refit`; None for what is given the fit.

    Source: Hewitt and Liang (2019), Designing and Interpreting Probes with Control Tasks.
    """
    images = scores[(scores.labels == labels) & (scores.split == "test")]
    drawn = set(images[images.control == "control_labels"].step)
    rows = []
    for cell in best_blocks(table, labels, probe).itertuples():
        if cell.step not in drawn:
            continue
        drawn_cell = cell._replace(control="control_labels")
        pair = [of_images(images, each) for each in (cell, drawn_cell)]
        pair = pd.concat(pair, axis=1, keys=["true", "control"]).dropna()
        moves = fit_variance(refits, labels, cell, drawn_cell)
        found = compare(*pair.to_numpy().T, fit_variance=moves)
        rows.append(
            {
                "labels": labels,
                "stream": cell.stream,
                "step": cell.step,
                "block": cell.block,
                "true": pair["true"].mean(),
                "control": pair["control"].mean(),
                "selectivity": found.value,
                "low": found.low,
                "high": found.high,
                "n_images": found.n,
                "p": found.p,
                "over": over(refits, probe),
            }
        )
    return pd.DataFrame(rows)


def paired_probes(
    scores: pd.DataFrame,
    table: pd.DataFrame,
    probe: str,
    rivals: Sequence[str],
    *,
    stream: str,
    refits: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """One probe less others on the same images, each at its own block, best on val.

    Args:
        scores: one row an image.
        table: their summary.
        probe: what is compared.
        rivals: what it is compared with; all share a metric.
        stream: of image tokens.
        refits: from `refit`; what is not fitted, as attention, needs none.

    Returns:
        a row for each label set, step and rival; p is a sign-flip p of that row alone, and `over`
        says what it sees.
    """
    rows = []
    for labels in table.labels.unique():
        images = scores[(scores.labels == labels) & (scores.split == "test")]
        best = {name: best_blocks(table, labels, name) for name in (probe, *rivals)}
        best = {name: of[of.stream == stream].set_index("step") for name, of in best.items()}
        for step, rival in product(best[probe].index, rivals):
            pair = [_at(best[name], step) for name in (probe, rival)]
            seen = over(refits, probe, rival)
            moves = fit_variance(refits if seen == BOTH_KINDS else None, labels, *pair)
            values = pd.concat([of_images(images, row) for row in pair], axis=1).dropna().to_numpy()
            found = asdict(compare(*values.T, fit_variance=moves))
            named = {"labels": labels, "step": step, "probe": probe, "less": rival}
            rows.append({**named, **found, "over": seen})
    return pd.DataFrame(rows)


def _at(best: pd.DataFrame, step: int) -> Any:
    (row,) = best.loc[[step]].reset_index().itertuples()
    return row


def of_images(images: pd.DataFrame, row: Any) -> pd.Series:
    """One value an image, behind a row of the table; an input's is the same at every step."""
    at = (images.control == row.control) & (images.probe == row.probe) & (images.seed == row.seed)
    at &= images.block == row.block
    if row.block != "input":
        at &= (images.stream == row.stream) & (images.step == row.step)
    return images[at].set_index("image_id")["value"]


def exceeded(
    rivals: pd.DataFrame,
    images: pd.DataFrame,
    own: pd.DataFrame,
    variances: Sequence[float],
) -> pd.DataFrame:
    """By how much every control is exceeded at every step, p adjusted for all of them.

    Args:
        rivals: rows of controls.
        images: one row an image.
        own: what exceeds, by image and step.
        variances: of each difference over refits.
    """
    rivals = rivals[["step", "control", "block", "probe", "stream", "seed", "value", "low", "high"]]
    differences = [
        own[row.step] - of_images(images, row).reindex(own.index) for row in rivals.itertuples()
    ]
    return rivals.assign(
        difference=[each.mean() for each in differences],
        p=max_t(np.stack(differences), fit_variance=np.array(variances), alternative="greater")
        if differences
        else np.nan,
    )


def later_steps(own: pd.DataFrame, variances: Sequence[float], seen: str) -> pd.DataFrame:
    """The first step less each later one, paired, p adjusted for the number of steps.

    Args:
        own: values by image and step.
        variances: of each difference over refits.
        seen: what interval and p see.
    """
    own = own.dropna()
    first, steps = own.iloc[:, 0].to_numpy(), own.columns[1:]
    if not len(steps):
        return pd.DataFrame(columns=["step", "difference", "low", "high", "n_images", "p", "over"])
    found = [
        compare(first, own[step].to_numpy(), fit_variance=moves)
        for step, moves in zip(steps, variances, strict=True)
    ]
    differences = np.stack([first - own[step].to_numpy() for step in steps])
    p = max_t(differences, fit_variance=np.array(variances))
    return pd.DataFrame(
        {
            "step": steps,
            "difference": [each.value for each in found],
            "low": [each.low for each in found],
            "high": [each.high for each in found],
            "n_images": [each.n for each in found],
            "p": p,
            "over": seen,
        }
    )
