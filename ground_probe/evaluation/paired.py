"""Evaluations of the same examples compared example by example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ground_probe.errors import IncompleteError, InputError
from ground_probe.evaluation.store import Store
from ground_probe.evaluation.tables import GROUPS, failed, groups, metrics_of, ratios
from ground_probe.stats import compare_ratios

_COLUMNS = (
    "method", "by", "level", "metric", "a", "b", "difference", "low", "high", "p", "n", "n_images",
)  # fmt: skip


def compare_runs(run_a: str | Path, run_b: str | Path, *more: str | Path) -> pd.DataFrame:
    """How run B, and any more, differ from run A: `compare_runs("runs/a", "runs/b")`.

    ```python
    table = gp.compare_runs("runs/a", "runs/b")
    table[(table["by"] == "all") & (table.metric == "miou")]
    ```

    Args:
        run_a: the folder of an evaluation.
        run_b: another's, of the same examples: another editor, recipe or code.
        more: others, each compared with run A as well.

    Returns:
        A row for each other `run` and each method that all have, all examples and each group of
        `breakdown`, and each metric: its values in `a` and `b`, `difference` (b - a) with a 95 %
        interval over resampled images, and `p`, two-sided, of the difference if which run is which
        were drawn by lot for each image. One p is for one question: over many rows some are small
        by chance. Both are given the recipes and whatever was fitted: they see other images to
        test on, and not that another calibration would have chosen otherwise.

    Raises:
        InputError: the examples differ, a run holds failed results that none waives, or no method
            is in all.
        IncompleteError: a run is not finished.
    """
    a, *others = finished(run_a, run_b, *more)
    methods = [m for m in a["method"].unique() if all(m in set(b["method"]) for b in others)]
    if not methods:
        there = [sorted(set(rows["method"])) for rows in (a, *others)]
        raise InputError(f"no method is in all runs: {' and '.join(map(str, there))}")
    tables = [
        paired(a[a["method"] == name], b[b["method"] == name]).assign(
            run=str(Path(run)), against=str(Path(run_a)), method=name
        )
        for run, b in zip((run_b, *more), others, strict=True)
        for name in methods
    ]
    return pd.concat(tables, ignore_index=True)[["run", "against", *_COLUMNS]]


def paired(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """`ok` rows of the same examples compared, together and in each group of `breakdown`."""
    b = _beside(a, b)
    names = metrics_of(pd.concat([a, b]))
    tables = [
        _compared(a[at], b[at], names).assign(by=by, level=level)
        for by, level, at in _parts(groups(a))
    ]
    return pd.concat(tables, ignore_index=True)


def moved(a: pd.DataFrame, b: pd.DataFrame, metric: str = "miou") -> pd.Series:
    """B less A in one metric, over the examples that both have: a row of `compare_runs`."""
    both = a[a["example"].isin(b["example"])]
    return _compared(both, _beside(both, b), [metric]).iloc[0]


def _beside(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """B's rows of A's examples, in A's order."""
    return b.set_index("example").loc[a["example"]].reset_index()


def _parts(rows: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray]]:
    yield "all", "all", np.ones(len(rows), bool)
    for by in GROUPS:
        for level in pd.unique(rows[by]):
            yield by, str(level), rows[by].eq(level).to_numpy()


def _compared(a: pd.DataFrame, b: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    (over_a, under_a), (over_b, under_b) = ratios(a, names), ratios(b, names)
    images = a["image_id"].to_numpy(str)
    difference, low, high, p = compare_ratios((over_b, under_b), (over_a, under_a), images)
    p = np.where(np.isnan(difference), np.nan, p)
    return pd.DataFrame({
        "metric": names, "a": _value(over_a, under_a), "b": _value(over_b, under_b),
        "difference": difference, "low": low, "high": high, "p": p, "n": len(a),
        "n_images": len(set(images)),
    })  # fmt: skip


def _value(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    known = ~np.isnan(over)
    value = np.nansum(over, 0) / np.maximum((under * known).sum(0), 1)
    return np.where(known.any(0), value, np.nan)


def finished(*runs: str | Path) -> list[pd.DataFrame]:
    """The `ok` rows of each run, without the examples that any of them waives.

    Raises:
        InputError: they are not of the same examples, or hold failed results that none waives.
        IncompleteError: one is not finished.
    """
    first, *others = stores = [Store(Path(run)) for run in runs]
    for other in others:
        _refuse_other_data(first, other)
    waived = {name for store in stores for name in store.record().get("waived", [])}
    tables = []
    for store in stores:
        rows, counts = store.results()
        if counts.missing:
            raise IncompleteError(
                f"{store.folder}: {counts}; run the same command again to finish it"
            )
        if len(lost := rows[failed(rows, waived)]):
            raise InputError(
                f"{store.folder}: {len(lost)} results failed, the first is "
                f"{lost.iloc[0]['example']}: retry them, or waive them"
            )
        tables.append(rows[rows["status"].eq("ok") & ~rows["example"].isin(waived)])
    return tables


def _refuse_other_data(a: Store, b: Store) -> None:
    for name in ("dataset", "split", "data_revision"):
        one, other = (store.spec().get(name) for store in (a, b))
        if one != other:
            raise InputError(
                f"the runs cannot be compared: {name} is {one!r} in {a.folder} and {other!r} in "
                f"{b.folder}"
            )
    one, other = (set(store.manifest()["example"]) for store in (a, b))
    if one != other:
        raise InputError(
            f"the runs cannot be compared, for their examples differ: {len(one - other)} are only "
            f"in {a.folder}, {len(other - one)} only in {b.folder}; evaluate both on the same"
        )
