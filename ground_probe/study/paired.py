"""Differences between cells, paired by image, given the fitted probes.

An interval and a p see other test images, and not that other images to fit on would have given
other probes: with few of them p <= 0.05 comes far more often than in one of 20
(`benchmarks/coverage.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import product

import numpy as np
import pandas as pd

from ground_probe.stats import compare, max_t
from ground_probe.study.table import best_blocks


def selectivity(
    scores: pd.DataFrame, table: pd.DataFrame, *, labels: str = "grounding", probe: str = "linear"
) -> pd.DataFrame:
    """By stream and step, the probe on true labels less the probe on control labels.

    The block is the one that is best on val for the true labels; steps without control labels are
    left out.

    Args:
        scores: one row an image.
        table: their summary.
        labels: "separability" or "grounding".
        probe: "linear" or "linear_precision".

    Source: Hewitt and Liang (2019), Designing and Interpreting Probes with Control Tasks.
    """
    images = scores[(scores.labels == labels) & (scores.split == "test")]
    drawn = set(images[images.control == "control_labels"].step)
    rows = []
    for cell in best_blocks(table, labels, probe).itertuples():
        if cell.step not in drawn:
            continue
        control = of_images(images, cell._replace(control="control_labels"))
        pair = pd.concat([of_images(images, cell), control], axis=1, keys=["true", "control"])
        pair = pair.dropna()
        found = compare(pair["true"].to_numpy(), pair["control"].to_numpy())
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
            }
        )
    return pd.DataFrame(rows)


def paired_probes(
    scores: pd.DataFrame, table: pd.DataFrame, probe: str, rivals: Sequence[str], *, stream: str
) -> pd.DataFrame:
    """One probe less others on the same images, each at its own block, best on val.

    Args:
        scores: one row an image.
        table: their summary.
        probe: what is compared.
        rivals: what it is compared with; all share a metric.
        stream: of image tokens.

    Returns:
        a row for each label set, step and rival; p is a sign-flip p of that row alone.
    """
    rows = []
    for labels in table.labels.unique():
        images = scores[(scores.labels == labels) & (scores.split == "test")]
        best = {name: best_blocks(table, labels, name) for name in (probe, *rivals)}
        best = {name: of[of.stream == stream].set_index("step") for name, of in best.items()}
        for step, rival in product(best[probe].index, rivals):
            pair = [_at(images, best[name], step) for name in (probe, rival)]
            pair = pd.concat(pair, axis=1).dropna().to_numpy()
            found = asdict(compare(*pair.T))
            rows.append({"labels": labels, "step": step, "probe": probe, "less": rival, **found})
    return pd.DataFrame(rows)


def _at(images: pd.DataFrame, best: pd.DataFrame, step: int) -> pd.Series:
    (row,) = best.loc[[step]].reset_index().itertuples()
    return of_images(images, row)


def of_images(images: pd.DataFrame, row) -> pd.Series:
    """One value an image, behind a row of the table; an input's is the same at every step."""
    at = (images.control == row.control) & (images.probe == row.probe) & (images.seed == row.seed)
    at &= images.block == row.block
    if row.block != "input":
        at &= (images.stream == row.stream) & (images.step == row.step)
    return images[at].set_index("image_id")["value"]


def exceeded(rivals: pd.DataFrame, images: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """By how much every control is exceeded at every step, p adjusted for all of them."""
    rivals = rivals[["step", "control", "block", "probe", "stream", "seed", "value", "low", "high"]]
    differences = [
        own[row.step] - of_images(images, row).reindex(own.index) for row in rivals.itertuples()
    ]
    return rivals.assign(
        difference=[each.mean() for each in differences],
        p=max_t(np.stack(differences), alternative="greater") if differences else np.nan,
    )


def later_steps(own: pd.DataFrame) -> pd.DataFrame:
    """The first step less each later one, paired, p adjusted for the number of steps."""
    own = own.dropna()
    first, steps = own.iloc[:, 0].to_numpy(), own.columns[1:]
    if not len(steps):
        return pd.DataFrame(columns=["step", "difference", "low", "high", "n_images", "p"])
    found = [compare(first, own[step].to_numpy()) for step in steps]
    p = max_t(np.stack([first - own[step].to_numpy() for step in steps]))
    return pd.DataFrame(
        {
            "step": steps,
            "difference": [each.value for each in found],
            "low": [each.low for each in found],
            "high": [each.high for each in found],
            "n_images": [each.n for each in found],
            "p": p,
        }
    )
