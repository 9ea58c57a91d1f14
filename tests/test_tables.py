"""Scores against a plain second implementation; what is withheld; the published rows."""

from __future__ import annotations

import gzip
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ground_probe.evaluation import tables
from ground_probe.stats import bootstrap
from ground_probe.study.report import PAPER

TSV = (
    Path(__file__).resolve().parents[2] / "shared/data/refer-sample/refcoco_unc_expressions.tsv.gz"
)


def results(pairs, images=None, method="full", status="ok", dataset="refcoco_unc"):
    """Rows of given (intersection, union) pixels."""
    rows = pd.DataFrame(pairs, columns=["inter_px", "union_px"]).astype("Int64")
    count = len(rows)
    return rows.assign(
        dataset=dataset, split="val", method=method, status=status,
        image_id=[str(i) for i in (images or range(count))],
        example=[f"{method}/{i}" for i in range(count)],
        expression="left man", pred_px=rows["inter_px"], gold_px=rows["union_px"],
    )  # fmt: skip


def value_of(summary, metric, column="value", method="full"):
    rows = summary[(summary["metric"] == metric) & (summary["method"] == method)]
    return rows[column].item()


def test_by_hand():
    summary = tables.summarize(results([(1, 2), (3, 4), (0, 10)]))
    assert value_of(summary, "miou") == pytest.approx((0.5 + 0.75 + 0) / 3)
    assert value_of(summary, "oiou") == pytest.approx(4 / 16)
    assert value_of(summary, "p@0.5") == pytest.approx(1 / 3), "0.5 is not above 0.5"
    assert summary.columns.tolist() == list(tables.SUMMARY_COLUMNS)
    assert summary["n_expected"].eq(3).all() and summary["n_ok"].eq(3).all()


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(st.integers(0, 999), st.integers(1, 999)).map(sorted), min_size=1, max_size=40
    )
)
def test_values_equal_a_plain_second_implementation(pairs):
    summary = tables.summarize(results(pairs))
    ious = [inter / union for inter, union in pairs]
    expected = {"miou": sum(ious) / len(ious)}
    expected["oiou"] = sum(inter for inter, _ in pairs) / sum(union for _, union in pairs)
    for x in (0.5, 0.6, 0.7, 0.8, 0.9):
        expected[f"p@{x}"] = sum(1 for iou in ious if iou > x) / len(ious)
    for metric, value in expected.items():
        assert abs(value_of(summary, metric) - value) <= 1e-12


def test_intervals_equal_the_general_cluster_bootstrap():
    rng = np.random.default_rng(0)
    union = rng.integers(50, 99, 60)
    inter = rng.integers(0, 50, 60)
    images = (np.arange(60) // 3).tolist()
    summary = tables.summarize(results(np.stack([inter, union], axis=1), images))
    ious = inter / union
    for metric, over, under in (
        ("miou", ious, None),
        ("oiou", inter, union),
        ("p@0.5", ious > 0.5, None),
    ):
        below = None if under is None else under[:, None]
        _, (low,), (high,) = bootstrap(over[:, None], below, np.array(images, str))
        assert value_of(summary, metric, "low") == pytest.approx(low, abs=1e-12)
        assert value_of(summary, metric, "high") == pytest.approx(high, abs=1e-12)


def test_a_failed_or_missing_sentence_withholds_its_method_only():
    rows = pd.concat([results([(1, 2), (1, 2)]), results([(1, 2), (1, 1)], method="other")],
                     ignore_index=True)  # fmt: skip
    rows.loc[1, "status"] = "error"
    summary = tables.summarize(rows)
    assert summary[summary["method"] == "full"]["value"].isna().all()
    assert value_of(summary, "miou", "n_error") == 1 and value_of(summary, "miou", "n_ok") == 1
    assert value_of(summary, "miou", method="other") == 0.75
    waived = tables.summarize(rows, waive=["full/1"])
    assert value_of(waived, "miou") == 0.5 and value_of(waived, "miou", "n_error") == 1
    assert set(tables.breakdown(rows)["method"]) == {"other"}
    rows.loc[0, "status"] = "missing"
    assert np.isnan(value_of(tables.summarize(rows, waive=["full/1"]), "miou"))


def test_breakdowns_divide_every_sentence_once():
    rows = results([(1, 1000), (1, 5000), (1, 20000), (1, 1024), (1, 9216)])
    rows["expression"] = ["cup", "left man in red hat", "up", "the upcoming cup", "a " * 12]
    table = tables.breakdown(rows)
    table = table[table["metric"] == "miou"].set_index(["by", "level"])["n_ok"]
    assert table["object size"].to_dict() == {"small": 1, "medium": 2, "large": 2}
    assert table["location words"].to_dict() == {"yes": 2, "no": 3}, "'up' is not in 'cup'"
    assert table["expression length"].to_dict() == {"1-2": 2, "3-5": 2, "11+": 1}


def test_sentences_of_any_script_are_in_every_breakdown():
    rows = results([(1, 2000)] * 6)
    rows["expression"] = [
        "左の男",
        "мужчина слева от красной машины",
        "رجل",
        "!!!",
        "🙂",
        "left man",
    ]
    table = tables.breakdown(rows)
    table = table[table["metric"] == "miou"]
    assert table.groupby("by")["n_ok"].sum().eq(6).all(), table
    levels = table.set_index(["by", "level"])["n_ok"]
    assert levels["location words"].to_dict() == {"other script": 5, "yes": 1}
    assert levels["expression length"].to_dict() == {"1-2": 4, "3-5": 2}  # 左の男 is three


@pytest.mark.skipif(not TSV.is_file(), reason=f"{TSV} is not there")
def test_location_words_on_the_real_sentences():
    shares = defaultdict(list)
    with gzip.open(TSV, "rt", encoding="utf-8") as file:
        next(file)
        for line in file:
            split, *_, text = line.rstrip("\n").split("\t")
            shares[split].append(not tables.LOCATION_WORDS.isdisjoint(tables.words_of(text)))
    measured = {split: round(100 * np.mean(each)) for split, each in shares.items()}
    # benchmark counts of "any spatial word": 65 / 53 / 77 %
    for split, published in {"val": 65, "testA": 53, "testB": 77}.items():
        assert abs(measured[split] - published) <= 3, measured


def test_published_rows_name_their_source_and_owner():
    table = tables.published()
    assert {"refcoco_unc", "refcoco+_unc", "refcocog_umd"} == set(table["dataset"])
    assert table["value"].between(0.2, 0.8).all() and table["source"].notna().all()
    assert set(table["status"]) == {"listed", "unverified"}
    he = table[(table["method"] == PAPER) & (table["split"] == "testA")]
    he = he[he["metric"] == "miou"]
    assert he[he["dataset"] == "refcoco_unc"]["value"].item() == pytest.approx(0.6034)


def test_our_rows_stand_beside_the_published_ones():
    """Whole splits only, and each row says which editor, recipe and data it is of."""
    about = {
        "model": "an editor",
        "revision": "r",
        "recipe": "abc",
        "text": "sent",
        "overlap": "union",
    }
    testb = results([(1, 2)] * 5095, [i % 750 for i in range(5095)]).assign(split="testB")
    part = results([(1, 2), (3, 4)])
    summary = tables.summarize(pd.concat([testb, part], ignore_index=True), about=about)
    both = tables.beside_published(summary)
    assert set(both["split"]) == {"testB"}, "two sentences of val are no score of val"
    ours = both[both["method"] == "full"]
    assert ours["status"].eq("measured").all() and ours["value"].eq(0.5).all()
    assert (ours["n"] == 5095).all() and (ours["of"] == 5095).all()
    assert ours[list(about)].drop_duplicates().to_dict("records") == [about]
    assert both["metric"].isin(["miou", "oiou"]).all() and both["source"].notna().all()
    assert set(ours["uses"]) == {"editor only"} and both["uses"].notna().all()
    failed = testb.assign(status=["error"] + ["ok"] * 5094)
    waived = tables.summarize(failed, waive=["full/0"])
    assert value_of(waived, "miou") == 0.5 and tables.beside_published(waived).empty
    # How many sentences UMD's val has is not confirmed: all its images are the whole split.
    umd = results([(1, 2)] * 1400, [i % 1300 for i in range(1400)], dataset="refcocog_umd")
    assert tables.summarize(umd)["whole"].all()
    assert not tables.summarize(umd[umd["image_id"] != "7"])["whole"].any()
