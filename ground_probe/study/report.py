"""Every evaluation found under a folder, and the paper's table with ours beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ground_probe.datasets import GENERATED, refcoco
from ground_probe.errors import InputError
from ground_probe.evaluation import tables
from ground_probe.evaluation.store import Store
from ground_probe.io import digest

PAPER = "He et al. 2026"


@dataclass(frozen=True)
class Report:
    """What is there, evaluation by evaluation.

    Args:
        state: a row for each evaluation: `folder, model, recipe, dataset, split, sentences, of,
            expected, ok, error, waived, missing`. `of` is the published number of sentences; none
            where it is unknown or the data are generated.
        summary: the rows of `summarise` with `folder` and `model`; no values where any is missing.
        breakdown: the rows of `breakdown` with the same two.
    """

    state: pd.DataFrame
    summary: pd.DataFrame
    breakdown: pd.DataFrame


def collect_report(folder: str | Path) -> Report:
    """Read every evaluation in a folder, at any depth; unfinished ones are shown as such.

    Raises:
        InputError: there is none.
    """
    root = Path(folder).expanduser()
    found = sorted(path.parent for path in root.rglob("manifest.parquet"))
    if not found:
        raise InputError(f"{root} holds no evaluation: run `ground-probe evaluate --out {root}/…`")
    states, summaries, breakdowns = [], [], []
    for each in found:
        store, record = Store(each), _record(each)
        rows, counts = store.results()
        waived = record.get("waived", [])
        spec, name = store.spec(), each.relative_to(root).as_posix()
        model = _model(record) or str(spec["model"])
        about = {"folder": name, "model": model}
        states.append(
            about
            | {
                "recipe": digest(spec["recipe"]) if isinstance(spec["recipe"], dict) else None,
                "dataset": spec["dataset"],
                "split": spec["split"],
                "sentences": rows["example"].nunique(),
                "of": published_sentences(spec["dataset"], spec["split"]),
                "expected": counts.expected,
                "ok": counts.ok,
                "error": counts.error,
                "waived": len(waived),
                "missing": counts.missing,
            }
        )
        summaries.append(tables.summarise(rows, waived).assign(**about))
        breakdowns.append(tables.breakdown(rows, waived).assign(**about))
    state = pd.DataFrame(states).astype({"of": "Int64"})
    return Report(state, *(pd.concat(each, ignore_index=True) for each in (summaries, breakdowns)))


def paper_table(report: Report, method: str = "full", paper: str = PAPER) -> pd.DataFrame:
    """The paper's rows, each with ours beside it; without one where a split was not evaluated.

    Args:
        report: from `collect`.
        method: of ours.
        paper: a method of `published`.

    Returns:
        `dataset, split, metric`, the paper's value and source, then `model, folder, value, low,
        high, n, of`: a value over fewer sentences than `of` is not the paper's split.

    Raises:
        InputError: no such published method.
    """
    known = tables.published()
    theirs = known[known["method"] == paper].drop(columns="method")
    if theirs.empty:
        raise InputError(f"no published rows of {paper!r}: {', '.join(known['method'].unique())}")
    same = ["dataset", "split", "metric"]
    ours = report.summary[report.summary["method"] == method]
    ours = ours.merge(report.state[["folder", "of"]], on="folder").rename(columns={"n_ok": "n"})
    columns = [*same, "model", "folder", "value", "low", "high", "n"]
    both = theirs.rename(columns={"value": paper}).merge(ours[columns], on=same, how="left")
    of = [published_sentences(*names) for names in zip(both["dataset"], both["split"], strict=True)]
    return both.assign(of=pd.array(of, dtype="Int64")).astype({"n": "Int64"})


def published_sentences(dataset: str, split: str) -> int | None:
    """How many sentences a published split has, where that is known."""
    if dataset in GENERATED or dataset not in refcoco.COLLECTIONS:
        return None
    expected = refcoco.COLLECTIONS[dataset].splits.get(split)
    return expected and expected.sentences


def _record(folder: Path) -> dict[str, Any]:
    """The last record of a run in the folder; a shard's where the whole has none yet."""
    records = sorted(folder.glob("run*.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(records[-1].read_text()) if records else {}


def _model(record: dict[str, Any]) -> str | None:
    where = record.get("workers") or {}
    first = next(iter(where.get("workers", [where])), {})
    return first.get("name")
