"""The tidy table: a row for each cell, probe, label set, control, split and seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ground_probe.probes.table import COLUMNS, intervals
from ground_probe.study.samples import INPUTS

_SET = ["split", "labels", "control", "seed"]
_CELL = ["probe", "stream", "block", "step", "sigma"]


def summarize(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over images with cluster intervals, of one row an image from `score` and the like."""
    parts = []
    for names, of in scores.groupby(_SET, sort=False):
        cells = of.groupby(_CELL, sort=False, dropna=False)
        rows = of[_CELL].iloc[np.unique(cells.ngroup(), return_index=True)[1]]
        images = pd.factorize(of["image_id"])
        values = np.full((len(rows), len(images[1])), np.nan)
        values[cells.ngroup(), images[0]] = of["value"]
        expressions = np.zeros(len(images[1]), dtype=int)
        expressions[images[0]] = of["n_expressions"]
        rows = rows.assign(**dict(zip(_SET, names, strict=True)))
        parts.append(rows.assign(**intervals(values, expressions)))
    table = pd.concat(parts, ignore_index=True)[list(COLUMNS)]
    return table.astype({"step": "Int64"})


def read_table(path: Path | str) -> pd.DataFrame:
    """`emergence.csv` with its integers."""
    return pd.read_csv(path, dtype={"step": "Int64"})


def with_interval(row: Any, value: str = "value", form: str = ".2f") -> str:
    """A row's value with its interval.

    >>> with_interval(pd.Series({"value": 0.5, "low": 0.4, "high": 0.6}))
    '0.50 [0.40, 0.60]'
    """
    return f"{getattr(row, value):{form}} [{row.low:{form}}, {row.high:{form}}]"


def best_blocks(
    table: pd.DataFrame, labels: str, probe: str = "linear", control: str = "none"
) -> pd.DataFrame:
    """The block of each stream and step that is best on val, and what it scores on test.

    Returns:
        test rows of a table from `summarize`, ordered by stream and step.
    """
    rows = table[(table.labels == labels) & (table.probe == probe) & (table.control == control)]
    rows = rows[rows.seed == rows.seed.min()]
    val = rows[(rows.split == "val") & rows.value.notna()]
    chosen = val.loc[val.groupby(["stream", "step"])["value"].idxmax(), ["stream", "step", "block"]]
    return chosen.merge(rows[rows.split == "test"], on=["stream", "step", "block"])


def beside_controls(table: pd.DataFrame, labels: str) -> pd.DataFrame:
    """What the linear probe has on test, where it is best on val, with every control there.

    The block of each stream and step is the best on val. Random weights are given their own best
    one; the inputs, which know no step, are repeated at every step.
    """
    chosen = best_blocks(table, labels)
    test = table[(table.split == "test") & (table.labels == labels) & (table.probe == "linear")]
    here = test[~test.control.isin(["none", "random_weights", *INPUTS])]
    at = ["stream", "step", "sigma"]
    return pd.concat(
        [
            chosen,
            here.merge(chosen[["block", "stream", "step"]]),
            best_blocks(table, labels, control="random_weights"),
            test[test.control.isin(INPUTS)].drop(columns=at).merge(chosen[at], how="cross"),
        ],
        ignore_index=True,
    )[list(COLUMNS)]
