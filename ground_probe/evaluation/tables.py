"""Scores from counted pixels: the summary, its breakdowns, and the published rows beside ours.

Where an expression may refer to nothing (`grefcoco`, `ref-zom`, `reasonseg`, or any row without a
target), miou, oiou and p@x are of the expressions that refer to something, as Ref-ZOM's evaluator
has them, and `GENERALIZED` are of all, where a mask without a pixel says that there is no target:
giou is the mean IoU, 1 for a row without a target that is predicted to have none and 0 for one that
is not; ciou the sum of the intersections over that of the unions; n_acc the share of rows without a
target that are predicted so, t_acc that of the others that are not (Liu et al. 2023, arXiv
2306.00968, and the evaluator of its authors, github.com/henghuiding/ReLA). box@0.5 is the accuracy
of the boxes around the masks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from ground_probe import metrics
from ground_probe.datasets import refcoco
from ground_probe.evaluation.rows import BOXES
from ground_probe.stats import bootstrap
from ground_probe.words import LOCATION_WORDS, words_of

PRECISIONS = (0.5, 0.6, 0.7, 0.8, 0.9)
METRICS = ("miou", "oiou", *(f"p@{x}" for x in PRECISIONS), "box@0.5")
GENERALIZED = ("giou", "ciou", "n_acc", "t_acc")
CHIEF = ("miou", "oiou", "p@0.5", "p@0.9", "box@0.5", *GENERALIZED)
"""What a table for people shows, in its order."""
ABOUT = ("model", "revision", "recipe", "text", "overlap")
_SCORES = ("metric", "value", "low", "high")
_COUNTED = ("n_expected", "n_ok", "n_error", "of", "whole")
SUMMARY_COLUMNS = ("dataset", "split", *ABOUT, "method", *_SCORES, *_COUNTED)
BREAKDOWN_COLUMNS = ("dataset", "split", *ABOUT, "method", "by", "level", *_SCORES, "n_ok")
GROUPS = ("object size", "location words", "expression length")
_KEYS = ["dataset", "split", "method"]


def summarize(
    results: pd.DataFrame, waive: Collection[str] = (), about: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """One row a (dataset, split, method, metric): value and 95 % interval, as fractions.

    `of` is the number of sentences that the published split has, where it is known, and `whole`
    says that these are all of them: nothing else belongs beside a published number.

    A method with a missing or failed sentence has no values, unless each failed one is waived; a
    waived sentence is left out of the values and stays in `n_error`.

    Args:
        results: the table of `Store.results`.
        waive: `example` names of failed sentences that may be left out.
        about: of `Store.about`: the columns `ABOUT`.
    """
    scored = dict(list(_settled(results, waive).groupby(_KEYS)))
    summary = []
    for names, rows in results.groupby(_KEYS, sort=False):
        status = rows["status"].value_counts()
        counts = {f"n_{name}": int(status.get(name, 0)) for name in ("ok", "error")}
        of = metrics_of(rows)
        table = scores(scored[names], of) if names in scored else pd.DataFrame({"metric": of})
        dataset, split, _ = names
        columns = dict(zip(_KEYS, names, strict=True)) | dict(about or {}) | counts
        columns |= {
            "n_expected": len(rows),
            "of": published_sentences(dataset, split),
            "whole": _whole(dataset, split, rows[rows["status"].eq("ok")]),
        }
        summary.append(table.assign(**columns))
    table = pd.concat(summary, ignore_index=True).reindex(columns=list(SUMMARY_COLUMNS))
    return table.astype({"of": "Int64"})


def by_metric(table: pd.DataFrame, index: str | Sequence[str]) -> pd.DataFrame:
    """The values of `summarize`, a row for each `index` and a column for each metric of `CHIEF`."""
    wide = table.pivot(index=index, columns="metric", values="value")
    return wide[[name for name in CHIEF if name in wide]]


def metrics_of(rows: pd.DataFrame) -> tuple[str, ...]:
    """The metrics of some results of one split; no boxes where those of a result are unknown."""
    collection = refcoco.COLLECTIONS.get(rows["dataset"].iloc[0])
    any_number = collection is not None and collection.any_number
    if any_number or rows["gold_px"].eq(0).any():
        return (*METRICS[:-1], *GENERALIZED)
    ok = rows[rows["status"].eq("ok")]
    return METRICS if _boxes(ok).notna().all(axis=None) else METRICS[:-1]


def published_sentences(dataset: str, split: str) -> int | None:
    """How many sentences a published split has, where that is known."""
    expected = _published(dataset, split)
    return expected and expected.sentences


def _published(dataset: str, split: str) -> Any:
    collection = refcoco.COLLECTIONS.get(dataset)
    return collection and collection.splits.get(split)


def _whole(dataset: str, split: str, ok: pd.DataFrame) -> bool:
    """Whether these are all sentences of a published split; of all images, where only those are
    known for sure."""
    expected = _published(dataset, split)
    if expected is None or ok["image_id"].nunique() != expected.images:
        return False
    return expected.sentences in (None, len(ok)) or not expected.confirmed


def failed(results: pd.DataFrame, waive: Collection[str]) -> pd.Series:
    """Whether each row failed and is not waived."""
    return results["status"].eq("error") & ~results["example"].isin(list(waive))


def _settled(results: pd.DataFrame, waive: Collection[str]) -> pd.DataFrame:
    """The `ok` rows of the methods that may have scores."""
    settled = results["status"].ne("missing") & ~failed(results, waive)
    whole = settled.groupby([results[name] for name in _KEYS]).transform("all")
    return results[whole & results["status"].eq("ok")]


def scores(ok: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Some metrics of some results: `metric, value, low, high`; images are resampled whole."""
    value, low, high = bootstrap(*ratios(ok, names), ok["image_id"].to_numpy(str))
    return pd.DataFrame({"metric": names, "value": value, "low": low, "high": high})


def ratios(
    ok: pd.DataFrame, names: Sequence[str]
) -> tuple[Float[np.ndarray, "rows metrics"], Float[np.ndarray, "rows metrics"]]:
    """What each metric is the ratio of, row by row; NaN above where a row has no part in it."""
    inter_px, union_px = ok["inter_px"].to_numpy(float), ok["union_px"].to_numpy(float)
    target, predicted = (ok[name].to_numpy(float) > 0 for name in ("gold_px", "pred_px"))
    ious, nothing = metrics.iou(inter_px, union_px), ~target & ~predicted
    over = {
        "miou": np.where(target, ious, np.nan),
        "oiou": np.where(target, inter_px, np.nan),
        **{f"p@{x}": np.where(target, ious > x, np.nan) for x in PRECISIONS},
        "box@0.5": metrics.iou(*_boxes(ok).to_numpy(float).T) > 0.5,
        "giou": np.where(nothing, 1.0, ious),
        "ciou": inter_px,
        "n_acc": np.where(target, np.nan, nothing),
        "t_acc": np.where(target, predicted, np.nan),
    }
    under = {"oiou": union_px, "ciou": union_px}
    ones = np.ones(len(ok))
    above = np.stack([ones * over[name] for name in names], axis=1)
    return above, np.stack([ones * under.get(name, 1.0) for name in names], axis=1)


def _boxes(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.reindex(columns=list(BOXES)).astype("Float64")


def breakdown(
    results: pd.DataFrame, waive: Collection[str] = (), about: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """Scores by object size, location words and expression length: `summarize` in parts.

    Methods without a value in the summary have none here. Sizes are COCO's (small < 32², medium
    < 96² px, at the original image's size), none where an expression refers to nothing. Every
    result is in one level of each: an expression of no word counts as short.
    """
    ok = groups(_settled(results, waive))
    tables = []
    for by in GROUPS:
        for names, rows in ok.groupby([*_KEYS, by], sort=False, observed=True):
            columns = dict(zip([*_KEYS, "level"], names, strict=True)) | dict(about or {})
            of = metrics_of(ok[ok["dataset"] == names[0]])
            tables.append(scores(rows, of).assign(by=by, n_ok=len(rows), **columns))
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return table.reindex(columns=list(BREAKDOWN_COLUMNS))


def groups(results: pd.DataFrame) -> pd.DataFrame:
    """The results with the columns `GROUPS`, by which they are broken down."""
    words = results["expression"].map(words_of)
    located = [
        "other script" if not re.search("[a-z]", text, re.I)
        else "no" if LOCATION_WORDS.isdisjoint(found) else "yes"
        for text, found in zip(results["expression"], words, strict=True)
    ]  # fmt: skip
    return results.assign(**{
        "object size": pd.cut(
            results["gold_px"].astype(int), [-1, 0, 32**2 - 1, 96**2 - 1, np.inf],
            labels=["none", "small", "medium", "large"],
        ),
        "location words": located,
        "expression length": pd.cut(
            words.map(len), [-1, 2, 5, 10, np.inf], labels=["1-2", "3-5", "6-10", "11+"]
        ),
    })  # fmt: skip


def published() -> pd.DataFrame:
    """Published zero-shot numbers: `method, dataset, split, metric, value, source, status, uses`.

    `dataset` carries its owner, as ours do; `value` is a fraction. Rows whose status is
    `unverified` are from memory and must be shown so. `uses` says what a system is made of besides
    its own method: one with SAM or a multimodal language model is of another class than ours.
    """
    with (files("ground_probe.evaluation") / "published.csv").open(encoding="utf-8") as file:
        rows = pd.read_csv(file)
    rows["dataset"] += "_" + rows.pop("owner")
    return rows.assign(value=rows["value"] / 100, uses=rows["uses"].fillna("not said"))


def beside_published(summary: pd.DataFrame) -> pd.DataFrame:
    """Our rows beside the published ones of the same dataset, split and metric, best first.

    Only whole splits: a mean over some of the sentences is another number.
    """
    same = ["dataset", "split", "metric"]
    ours = summary[summary["whole"].astype(bool)].assign(
        source="this run", status="measured", uses="editor only"
    )
    theirs = published().merge(ours[same].drop_duplicates(), on=same)
    both = pd.concat([ours, theirs], ignore_index=True).rename(columns={"n_ok": "n"})
    columns = [*same, "method", *ABOUT, *_SCORES[1:], "n", "of", "uses", "source", "status"]
    both = both[both["metric"].isin(["miou", "oiou"])].reindex(columns=columns)
    both = both.astype({"n": "Int64", "of": "Int64"})
    order = [True, True, True, False]
    return both.sort_values([*same, "value"], ascending=order, ignore_index=True)
