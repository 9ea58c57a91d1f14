"""Every evaluation found under a folder, and the paper's table with ours beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ground_probe.errors import InputError
from ground_probe.evaluation import tables
from ground_probe.evaluation.store import Store

PAPER = "He et al. 2026 (12 B editor)"


@dataclass(frozen=True)
class Report:
    """What is there, evaluation by evaluation.

    Args:
        state: a row for each evaluation. `of` is the published number of sentences; none where it
            is unknown or the data are generated. A folder that cannot be read has nothing but its
            `problem`.
        summary: the rows of `summarize` with `folder`; no values where any is missing.
        breakdown: the rows of `breakdown` with `folder`.
    """

    state: pd.DataFrame
    summary: pd.DataFrame
    breakdown: pd.DataFrame


_WHOLE_NUMBERS = ("sentences", "of", "expected", "ok", "error", "waived", "missing")
_STATE = ("folder", *tables.ABOUT, "dataset", "split", *_WHOLE_NUMBERS, "problem")


def collect_report(folder: str | Path) -> Report:
    """Read every evaluation in a folder, at any depth.

    Unfinished ones are shown as such, and so is a folder that cannot be read.

    Raises:
        InputError: there is none, or none that can be read.
    """
    root = Path(folder).expanduser()
    paths = sorted(path.parent for path in root.rglob("manifest.parquet"))
    if not paths:
        raise InputError(f"{root} holds no evaluation: run `ground-probe evaluate --out {root}/…`")
    states, summaries, breakdowns = [], [], []
    for each in paths:
        named = {"folder": each.relative_to(root).as_posix()}
        try:
            state, summary, breakdown = _evaluation(Store(each))
        except InputError as error:
            states.append(named | {"problem": str(error)})
            continue
        states.append(named | state)
        summaries.append(summary.assign(**named))
        breakdowns.append(breakdown.assign(**named))
    if not summaries:
        raise InputError(f"no evaluation under {root} can be read: {states[0]['problem']}")
    state = pd.DataFrame(states).reindex(columns=_STATE)
    state = state.astype(dict.fromkeys(_WHOLE_NUMBERS, "Int64"))
    return Report(state, *(pd.concat(each, ignore_index=True) for each in (summaries, breakdowns)))


def _evaluation(store: Store) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """The state of one, its summary and its breakdown."""
    spec, about, waived = store.spec(), store.about(), store.record().get("waived", [])
    rows, counts = store.results()
    state = about | {
        "dataset": spec["dataset"],
        "split": spec["split"],
        "sentences": rows["example"].nunique(),
        "of": tables.published_sentences(spec["dataset"], spec["split"]),
        **counts._asdict(),
        "waived": len(waived),
    }
    summary = tables.summarize(rows, waived, about)
    return state, summary, tables.breakdown(rows, waived, about)


def paper_table(report: Report, method: str = "full") -> pd.DataFrame:
    """The paper's rows, each with ours beside it; without one where a split was not evaluated.

    Returns:
        `dataset, split, metric`, the paper's value and source, then of ours `folder, model,
        revision, recipe, text, overlap, value, low, high, n`, and `of`. Only a whole split of ours
        stands there: a mean over some of its sentences is another number.
    """
    known = tables.published()
    theirs = known[known["method"] == PAPER].drop(columns="method")
    same = ["dataset", "split", "metric"]
    ours = report.summary[report.summary["method"].eq(method) & report.summary["whole"].eq(True)]
    columns = [*same, "folder", *tables.ABOUT, "value", "low", "high", "n"]
    ours = ours.rename(columns={"n_ok": "n"})[columns]
    both = theirs.rename(columns={"value": PAPER}).merge(ours, on=same, how="left")
    splits = zip(both["dataset"], both["split"], strict=True)
    of = pd.array([tables.published_sentences(*names) for names in splits], dtype="Int64")
    return both.assign(of=of).astype({"n": "Int64"})
