"""Differences between cells, paired by image; the column `over` says what their intervals see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from ground_probe.permutation import max_t
from ground_probe.probes.table import FITTED, LINEAR
from ground_probe.stats import Difference, compare
from ground_probe.study.refits import BOTH_KINDS, TEST_ONLY, fit_variance
from ground_probe.study.table import best_blocks


def over(refits: pd.DataFrame | None, *probes: str) -> str:
    """What an interval and a p of probes are over."""
    both = refits is not None and all(name in LINEAR or name not in FITTED for name in probes)
    return BOTH_KINDS if both else TEST_ONLY


def selectivity(
    scores: pd.DataFrame,
    table: pd.DataFrame,
    *,
    labels: str = "grounding",
    probe: str = "linear",
    refits: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """By stream and step, the linear probe on true labels less the same on control labels.

    The block is the one that is best on val for the true labels; steps without control labels are
    left out. `scores` has a row an image and `table` is their summary; without `refits`, from
    `refit`, the result is given the fit.

    Source: Hewitt and Liang (2019), Designing and Interpreting Probes with Control Tasks.
    """
    images = _on_test(scores, labels)
    drawn = set(images[images.control == "control_labels"].step)
    rows = []
    for cell in best_blocks(table, labels, probe).itertuples():
        if cell.step not in drawn:
            continue
        control = cell._replace(control="control_labels")
        values, difference = _compared(images, cell, control, labels, refits)
        true, by_place = values.mean(0)
        rows.append(
            {
                "labels": labels,
                "stream": cell.stream,
                "step": cell.step,
                "block": cell.block,
                "true": true,
                "control": by_place,
                "selectivity": difference.value,
                "low": difference.low,
                "high": difference.high,
                "n_images": difference.n,
                "p": difference.p,
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

    Arguments are as for `claim`; rivals share the probe's metric, and what is not fitted, as
    attention, needs no refits.

    Returns:
        a row for each label set, step and rival; p is a sign-flip p of that row alone.
    """
    rows = []
    for labels in table.labels.unique():
        images = _on_test(scores, labels)
        best = {name: best_blocks(table, labels, name) for name in (probe, *rivals)}
        cells = {
            (name, cell.step): cell
            for name, of in best.items()
            for cell in of[of.stream == stream].itertuples()
        }
        for step, rival in product([step for name, step in cells if name == probe], rivals):
            basis = over(refits, probe, rival)
            fitted = refits if basis == BOTH_KINDS else None
            _, difference = _compared(
                images, cells[probe, step], cells[rival, step], labels, fitted
            )
            named = {"labels": labels, "step": step, "probe": probe, "less": rival}
            rows.append({**named, **asdict(difference), "over": basis})
    return pd.DataFrame(rows)


def _on_test(scores: pd.DataFrame, labels: str) -> pd.DataFrame:
    return scores[(scores.labels == labels) & (scores.split == "test")]


def _compared(
    images: pd.DataFrame, first: Any, second: Any, labels: str, refits: pd.DataFrame | None
) -> tuple[Float[np.ndarray, "images 2"], Difference]:
    """The values of two rows of the table on the images that both have, and their difference."""
    pair = pd.concat([of_images(images, row) for row in (first, second)], axis=1).dropna()
    values = pair.to_numpy()
    return values, compare(*values.T, fit_variance=fit_variance(refits, labels, first, second))


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
    """By how much `own`, by image and step, exceeds each rival there; p is adjusted for all.

    `variances` are those of each difference over refits.
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


def later_steps(own: pd.DataFrame, variances: Sequence[float], basis: str) -> pd.DataFrame:
    """The first step of `own` less each later one, paired, p adjusted for the number of steps."""
    columns = ["step", "difference", "low", "high", "n_images", "p", "over"]
    own = own.dropna()
    first, steps = own.iloc[:, 0].to_numpy(), own.columns[1:]
    if not len(steps):
        return pd.DataFrame(columns=columns)
    comparisons = [
        asdict(compare(first, own[step].to_numpy(), fit_variance=moves))
        for step, moves in zip(steps, variances, strict=True)
    ]
    differences = np.stack([first - own[step].to_numpy() for step in steps])
    p = max_t(differences, fit_variance=np.array(variances))
    table = pd.DataFrame(comparisons).assign(p=p, step=steps, over=basis)
    return table.rename(columns={"value": "difference", "n": "n_images"})[columns]
