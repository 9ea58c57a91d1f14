"""Two evaluations of the same examples, or two methods of one, compared example by example."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from ground_probe import metrics
from ground_probe.errors import IncompleteError, InputError, unknown
from ground_probe.evaluation.store import Store
from ground_probe.evaluation.tables import GROUPS, METRICS, PRECISIONS, groups

DRAWS = 4999
_COLUMNS = (
    "method", "by", "level", "metric", "a", "b", "difference", "low", "high", "p", "n", "n_images",
)  # fmt: skip


def compare_runs(run_a: str | Path, run_b: str | Path) -> pd.DataFrame:
    """How run B differs from run A: `compare_runs("runs/a", "runs/b")`.

    Args:
        run_a: the folder of an evaluation.
        run_b: another's, of the same examples: another editor, recipe or code.

    Returns:
        A row for each method that both have, all examples and each group of `breakdown`, and each
        metric: its values in `a` and `b`, `difference` (b - a) with a 95 % interval over resampled
        images, and `p`, two-sided, of the difference if which run is which were drawn by lot for
        each image. One p is for one question: over many rows some are small by chance.

    Raises:
        InputError: the examples differ, a run holds failed results that it does not waive, or no
            method is in both.
        IncompleteError: a run is not finished.
    """
    stores = [Store(Path(run)) for run in (run_a, run_b)]
    _same_data(*stores)
    waived = {name for store in stores for name in store.record().get("waived", [])}
    a, b = (_finished(store, waived) for store in stores)
    methods = [name for name in a["method"].unique() if name in set(b["method"])]
    if not methods:
        raise InputError(
            f"no method is in both runs: {sorted(set(a['method']))} and {sorted(set(b['method']))}"
        )
    pairs = [(a[a["method"] == name], b[b["method"] == name]) for name in methods]
    tables = [paired(*pair).assign(method=name) for name, pair in zip(methods, pairs, strict=True)]
    return pd.concat(tables, ignore_index=True)[list(_COLUMNS)]


def compare_methods(run: str | Path, against: str = "full") -> pd.DataFrame:
    """How each method of a run differs from one of them, in the columns of `compare_runs`.

    Raises:
        InputError: the run does not have that method, or holds failed results.
        IncompleteError: the run is not finished.
    """
    store = Store(Path(run))
    rows = _finished(store, set(store.record().get("waived", [])))
    methods = dict(list(rows.groupby("method", sort=False)))
    if against not in methods:
        raise unknown("method", against, methods)
    tables = [paired(methods[against], other).assign(method=n) for n, other in methods.items()]
    return pd.concat(tables, ignore_index=True)[list(_COLUMNS)]


def moved_most(run_a: str | Path, run_b: str | Path, method: str = "full") -> pd.DataFrame:
    """The examples of both runs, those whose IoU moved most first.

    Returns:
        `example, expression, iou_a, iou_b, difference`.
    """
    stores = [Store(Path(run)) for run in (run_a, run_b)]
    _same_data(*stores)
    a, b = (rows[rows["method"] == method].set_index("example") for rows in map(_ok, stores))
    table = pd.DataFrame({"expression": a["expression"], "iou_a": _iou(a), "iou_b": _iou(b)})
    table["difference"] = table["iou_b"] - table["iou_a"]
    order = table["difference"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].dropna().reset_index()


def paired(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """`ok` rows of the same examples compared, together and in each group of `breakdown`."""
    b = b.set_index("example").loc[a["example"]].reset_index()
    tables = [
        _compared(a[at], b[at]).assign(by=by, level=level) for by, level, at in _parts(groups(a))
    ]
    return pd.concat(tables, ignore_index=True)


def _parts(rows: pd.DataFrame) -> Iterator[tuple[str, str, np.ndarray]]:
    yield "all", "all", np.ones(len(rows), bool)
    for by in GROUPS:
        for level in pd.unique(rows[by]):
            yield by, str(level), rows[by].eq(level).to_numpy()


def _compared(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    images, image = np.unique(a["image_id"].to_numpy(str), return_inverse=True)
    (over_a, under_a), (over_b, under_b) = (_sums(each, image, len(images)) for each in (a, b))
    values_a, values_b = (
        over.sum(0) / np.maximum(under.sum(0), 1)
        for over, under in ((over_a, under_a), (over_b, under_b))
    )
    rng, n = np.random.default_rng(0), len(images)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(float)
    differences = _ratio(drawn @ over_b, drawn @ under_b) - _ratio(drawn @ over_a, drawn @ under_a)
    low, high = np.quantile(differences, (0.025, 0.975), axis=0)
    # By lot, an image's two results change places: what is said of B may then be A's.
    swap = rng.integers(2, size=(DRAWS, n)).astype(float)
    first = _ratio(*(swap @ (y - x) + x.sum(0) for x, y in ((over_a, over_b), (under_a, under_b))))
    second = _ratio(*(swap @ (x - y) + y.sum(0) for x, y in ((over_a, over_b), (under_a, under_b))))
    found = values_b - values_a
    as_large = np.abs(second - first) >= np.abs(found) - 1e-12
    return pd.DataFrame({
        "metric": METRICS, "a": values_a, "b": values_b, "difference": found, "low": low,
        "high": high, "p": (1 + as_large.sum(0)) / (1 + DRAWS), "n": len(a), "n_images": n,
    })  # fmt: skip


def _sums(
    rows: pd.DataFrame, image: np.ndarray, count: int
) -> tuple[Float[np.ndarray, "images metrics"], Float[np.ndarray, "images metrics"]]:
    """What each metric is the ratio of, summed over each image's rows."""
    inter_px, union_px = rows["inter_px"].to_numpy(float), rows["union_px"].to_numpy(float)
    ious = metrics.iou(inter_px, union_px)
    over = np.stack([ious, inter_px, *(ious > x for x in PRECISIONS)], axis=1).astype(float)
    under = np.ones_like(over)
    under[:, METRICS.index("oiou")] = union_px
    sums = np.zeros((2, count, len(METRICS)))
    for total, each in zip(sums, (over, under), strict=True):
        np.add.at(total, image, each)
    return sums[0], sums[1]


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return over / np.maximum(under, 1)


def _same_data(a: Store, b: Store) -> None:
    """Raise InputError where two runs are not of the same examples."""
    specs, rows = [store.spec() for store in (a, b)], [store.manifest() for store in (a, b)]
    for name in ("dataset", "split", "data_revision"):
        one, other = (spec.get(name) for spec in specs)
        if one != other:
            raise InputError(
                f"the runs cannot be compared: {name} is {one!r} in {a.folder} and {other!r} in "
                f"{b.folder}"
            )
    one, other = (set(each["example"]) for each in rows)
    if one != other:
        raise InputError(
            f"the runs cannot be compared, for their examples differ: {len(one - other)} are only "
            f"in {a.folder}, {len(other - one)} only in {b.folder}; evaluate both on the same"
        )


def _ok(store: Store) -> pd.DataFrame:
    rows, counts = store.results()
    if counts.missing:
        raise IncompleteError(f"{store.folder}: {counts}; run the same command again to finish it")
    return rows[rows["status"].eq("ok")]


def _finished(store: Store, waived: set[str]) -> pd.DataFrame:
    """The `ok` rows without the examples that either run waives."""
    rows = store.results()[0]
    failed = rows[rows["status"].eq("error") & ~rows["example"].isin(waived)]
    if len(failed):
        raise InputError(
            f"{store.folder}: {len(failed)} results failed, the first is "
            f"{failed.iloc[0]['example']}: retry them, or waive them"
        )
    rows = _ok(store)
    return rows[~rows["example"].isin(waived)]


def _iou(rows: pd.DataFrame) -> pd.Series:
    return rows["inter_px"].astype(float) / rows["union_px"].astype(float).clip(lower=1)
