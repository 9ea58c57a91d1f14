"""The report over many evaluations, and its notebook."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from evaluation_script import METHODS, segment

from ground_probe import load_split
from ground_probe.errors import InputError
from ground_probe.evaluation import Store, evaluate
from ground_probe.evaluation.rows import row
from ground_probe.evaluation.store import MANIFEST_COLUMNS
from ground_probe.io import digest
from ground_probe.study import collect_report, paper_table
from ground_probe.study.report import PAPER
from ground_probe.study.run import notebook_path, run_notebook

ABOUT = {"text": "sent", "overlap": "refer"}


def refcoco(folder, split="testA", missing=0, sentences=6, images=6):
    """A published split or a part of one, as an evaluation leaves it."""
    keys = [f"refcoco_unc/{split}/{number}/0" for number in range(sentences)]
    rows = [
        (key, "refcoco_unc", split, str(at % images), key, "left man", "full")
        for at, key in enumerate(keys)
    ]
    store = Store(folder)
    spec = {"model": "m", "recipe": {"step": 0}, "dataset": "refcoco_unc", "split": split, **ABOUT}
    store.freeze(pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS)), spec)
    counts = {"inter_px": 1, "union_px": 4, "pred_px": 2, "gold_px": 3}
    with store.writer("main") as writer:
        writer.append([row(key, counts, 0.1) for key in keys[missing:]])
    record = {"status": "success", "workers": {"name": "an editor"}, "waived": []}
    (folder / "run.json").write_text(json.dumps(record))


@pytest.fixture
def folder(tmp_path):
    split = load_split("scenes", "test", limit=4)
    evaluate(None, split, tmp_path / "deep" / "scenes", {"seconds": 0}, methods=METHODS,
             segment=segment)  # fmt: skip
    refcoco(tmp_path / "testA")
    refcoco(tmp_path / "testB", "testB", missing=2)
    refcoco(tmp_path / "whole" / "testA", sentences=5657, images=750)
    return tmp_path


def test_every_evaluation_is_found_with_what_it_lacks(folder):
    report = collect_report(folder)
    state = report.state.set_index("folder")
    assert set(state.index) == {"deep/scenes", "testA", "testB", "whole/testA"}
    assert state.loc["testA", ["sentences", "of", "ok", "missing"]].tolist() == [6, 5657, 6, 0]
    assert state.loc["testB", "missing"] == 2 and pd.isna(state.loc["deep/scenes", "of"])
    assert state.loc["testA", "model"] == "an editor"
    values = report.summary.groupby("folder")["value"]
    assert values.apply(lambda each: each.isna().all()).to_dict() == {
        "deep/scenes": False, "testA": False, "testB": True, "whole/testA": False
    }  # fmt: skip
    assert set(report.breakdown["folder"]) == {"deep/scenes", "testA", "whole/testA"}
    for part in (report.state, report.summary, report.breakdown):
        row = part[part["folder"] == "testA"].iloc[0]
        assert (row["model"], row["revision"], row["text"], row["overlap"]) == (
            "an editor", "m", "sent", "refer"
        )  # fmt: skip
        assert row["recipe"] == digest({"step": 0})


@pytest.mark.parametrize("damage", ["manifest", "rows", "record"])
def test_one_bad_folder_is_named_and_the_others_are_reported(folder, damage):
    bad = {
        "manifest": ("manifest.parquet", "PAR1 cut"),
        "rows": ("rows-main.jsonl", '{"key": 1, "status": "ok"}\n' * 2),
        "record": ("run.json", ""),
    }[damage]
    (folder / "testA" / bad[0]).write_text(bad[1])
    state = collect_report(folder).state.set_index("folder")
    assert str(folder / "testA" / bad[0]) in state.loc["testA", "problem"]
    assert pd.isna(state.loc["testA", "ok"]) and state.loc["whole/testA", "ok"] == 5657
    assert set(collect_report(folder).summary["folder"]) == {"deep/scenes", "testB", "whole/testA"}


def test_the_paper_s_rows_keep_their_place_where_nothing_was_measured(folder):
    table = paper_table(collect_report(folder)).set_index(["dataset", "split"])
    assert len(table) == 16 and table[PAPER].notna().all()
    ours = table[table["metric"] == "miou"].loc[("refcoco_unc", "testA")]
    assert (ours["value"], ours["n"], ours["of"], ours["metric"]) == (0.25, 5657, 5657, "miou")
    assert (ours["folder"], ours["model"], ours["overlap"]) == ("whole/testA", "an editor", "refer")
    assert table["value"].notna().sum() == 2, "a part of testA is not testA, and no other is whole"
    assert set(table["metric"]) == {"miou", "oiou"}
    assert set(table["uses"]) == {"editor only (SAM not mentioned)"}


def test_nothing_to_report_is_said(tmp_path):
    with pytest.raises(InputError, match=r"holds no evaluation: run `ground-probe evaluate"):
        collect_report(tmp_path / "none")


def test_the_notebook_runs_on_a_folder_of_evaluations(folder, tmp_path):
    out = tmp_path / "report"
    out.mkdir()
    record = run_notebook(notebook_path("90_report"), out, {"folder": str(folder)})
    assert record["n_ok"] == 4 * 4 + 6 + 4 + 5657 and record["n_missing"] == 2
    assert len(record["not_measured"]) == 7 and len(pd.read_csv(out / "paper.csv")) == 16
    assert (out / "report.csv").exists() and (out / "figures" / "report.png").exists()
