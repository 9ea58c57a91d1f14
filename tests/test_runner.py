"""The runner in one process: resume, shards, errors; the table never depends on any of them."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from functools import partial
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from evaluation_runs import FAST, LIMIT, rows_written, run, table
from evaluation_script import METHODS, segment
from PIL import Image

import ground_probe as gp
from ground_probe import cli, load_split, testing
from ground_probe.editors import random_weights
from ground_probe.errors import GroundProbeError, InputError, UnknownNameError
from ground_probe.evaluation import Store, applicable, evaluate
from ground_probe.evaluation.baselines import BASELINES, CONTROLS
from ground_probe.io import seed_of
from ground_probe.segmentation import methods as segmentation_methods


def test_counts_equal_a_plain_second_implementation(tmp_path):
    result = run(tmp_path / "run")
    split = load_split("scenes", "test", limit=LIMIT)
    rows = result.rows.set_index(["example", "method"])
    ious = []
    for example in split:
        seed = seed_of(example.key)
        masks = segment(None, example.image, example.expression, FAST, seed)
        pred, gold = masks["noisy"].tolist(), example.mask.tolist()
        pairs = [pair for p, g in zip(pred, gold, strict=True) for pair in zip(p, g, strict=True)]
        inter, union = sum(p and g for p, g in pairs), sum(p or g for p, g in pairs)
        found = rows.loc[example.key, "noisy"]
        assert (found["inter_px"], found["union_px"]) == (inter, union)
        assert (found["pred_px"], found["gold_px"]) == (
            sum(p for p, _ in pairs),
            example.mask.sum(),
        )
        ious.append(inter / union)
    summary = result.summary.set_index(["method", "metric"])["value"]
    assert abs(summary["noisy", "miou"] - sum(ious) / len(ious)) <= 1e-12
    assert set(result.rows["method"]) == set(METHODS) and result.counts.ok == 4 * LIMIT


def test_a_finished_folder_does_nothing_again(tmp_path, uninterrupted):
    run(tmp_path / "run")
    before = rows_written(tmp_path / "run")
    run(tmp_path / "run", segment=segment)
    assert rows_written(tmp_path / "run") == before and table(tmp_path / "run") == uninterrupted
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "success" and record["counts"]["ok"] == 4 * LIMIT
    assert record["spec"]["data_revision"] == load_split("scenes", "test", limit=1).revision


def test_shards_in_any_order_give_the_same_table(tmp_path, uninterrupted, capsys):
    out = tmp_path / "run"
    for index in (2, 0):
        run(out, shard=(index, 3))
        assert not (out / "rows.parquet").exists() and not (out / "summary.csv").exists()
    assert "missing 16" in capsys.readouterr().err
    assert Store(out).results()[1].missing == 16
    run(out, shard=(1, 3))
    assert table(out) == uninterrupted
    assert json.loads((out / "run.json").read_text())["status"] == "success"
    for shard in ((3, 3), (-1, 3)):
        with pytest.raises(InputError, match="0 <= i < n"):
            run(out, shard=shard)


def test_other_choices_need_another_folder(tmp_path):
    run(tmp_path / "run", limit=2)
    for option in ({"seed": 1}, {"recipe": {"seconds": 0, "other": 1}}, {"methods": ["bright"]}):
        with pytest.raises(InputError, match=f"another evaluation: {next(iter(option))}"):
            run(tmp_path / "run", limit=2, **option)


def test_an_evaluation_grows_in_its_folder_and_does_not_shrink(tmp_path, uninterrupted):
    out, calls = tmp_path / "run", []

    def counted(editor, image, expression, recipe=None, seed=0):
        calls.append(expression)
        return segment(editor, image, expression, recipe, seed)

    counted.revision = "1"
    run(out, limit=4, methods=METHODS[:2], segment=counted)
    run(out, limit=LIMIT, methods=METHODS[:2], segment=counted)
    assert len(calls) == LIMIT, "nothing was done again"
    assert run(out, segment=counted).counts.ok == 4 * LIMIT and len(calls) == LIMIT
    values = table(out)[1].decode().splitlines()[1:]
    assert sorted(values) == sorted(uninterrupted[1].decode().splitlines()[1:])
    with pytest.raises(InputError, match=r"examples \(8 there that are not asked for now\)"):
        run(out, limit=4, segment=counted)
    with pytest.raises(InputError, match=r"methods \(2 there that are not asked for now\)"):
        run(out, methods=METHODS[:2], segment=counted)


def test_the_command_grows_an_evaluation_from_20_to_60(tmp_path):
    """Nothing is done again, and the table is that of 60 at once."""
    for out, limits in (("grown", (20, 60)), ("at once", (60,))):
        for limit in limits:
            argv = ["evaluate", "--method", "whole_image", "--method", "largest_object"]
            assert cli.main([*argv, "--limit", str(limit), "--out", str(tmp_path / out)]) == 0
            assert Store(tmp_path / out).results()[1].ok == 2 * limit
    events = (tmp_path / "grown" / "rows-main.jsonl").read_text().splitlines()
    keys = [event["key"] for event in map(json.loads, events) if event["status"] == "ok"]
    assert len(keys) == len(set(keys)) == 120
    grown, at_once = (table(tmp_path / out) for out in ("grown", "at once"))
    assert grown == at_once


def test_every_method_comes_from_one_resumable_call(tmp_path):
    editor, split = gp.load_editor(testing.kontext()), load_split("scenes", "test", limit=2)
    out = tmp_path / "run"
    first = evaluate(editor, split, out)
    ways = (*segmentation_methods.METHODS, *CONTROLS, *BASELINES)
    result = evaluate(editor, split, out, methods=ways)
    assert result.counts.ok == 2 * len(ways) and set(result.summary["method"]) == set(ways)
    pixels = result.rows.set_index(["example", "method"])["pred_px"]
    assert pixels[:, "full"].tolist() == first.rows["pred_px"].tolist()
    seeds = [seed_of(key, 0) for key in split.keys]
    for example, seed in zip(split, seeds, strict=True):
        given = (editor, example.image, example.expression)
        expected = segmentation_methods.compare(*given, seed=seed)
        expected["edit_difference"] = segmentation_methods.edit_difference(*given, seed=seed)
        untrained = random_weights(editor)
        expected["random_weights"] = gp.segment(untrained, *given[1:], seed=seed).mask
        for name, mask in expected.items():
            assert pixels[example.key, name] == mask.sum(), name
    with pytest.raises(UnknownNameError, match=r"unknown method 'atention': .*mean 'attention'"):
        evaluate(editor, split, out, methods=["atention"])


def test_nothing_to_evaluate_is_said(tmp_path):
    with pytest.raises(InputError, match=r"12 examples, methods \[\]"):
        run(tmp_path / "run", methods=())


def test_errors_are_rows_until_they_are_retried_or_waived(tmp_path, uninterrupted, capsys):
    out, cured = tmp_path / "run", tmp_path / "cured"
    recipe = {"seconds": 0, "fault": "ring", "cured": str(cured)}
    result = run(out, recipe=recipe)
    failed = result.rows[result.rows["status"] == "error"]
    assert 0 < len(failed) < len(result.rows) and failed["expression"].str.contains("ring").all()
    assert failed["error"].str.match(r"ValueError: no idea what '.*ring.*' is$").all()
    assert "retry them (--retry-errors;" in capsys.readouterr().err
    own = result.summary["method"].isin(["bright", "noisy"])
    assert result.summary[own]["value"].isna().all(), "no headline while a sentence failed"
    assert result.summary[~own]["value"].notna().all(), "what needs no segmenter did not fail"
    again = run(out, recipe=recipe)
    assert again.rows["attempts"].max() == 1, "errors are not retried unasked"
    waived = run(out, recipe=recipe, waive=set(failed["example"])).summary
    assert (
        waived["value"].notna().all()
        and (waived["n_error"] == waived["n_expected"] - waived["n_ok"]).all()
    )
    with pytest.raises(UnknownNameError, match="unknown example 'nobody'"):
        run(out, recipe=recipe, waive=["nobody"])
    cured.touch()
    result = run(out, recipe=recipe, retry_errors=True)
    assert result.counts.error == 0 and result.rows["attempts"].max() == 2
    scores = [
        pd.read_csv(BytesIO(each)).drop(columns="recipe")
        for each in (table(out)[1], uninterrupted[1])
    ]
    pd.testing.assert_frame_equal(*scores)


def test_a_run_that_only_fails_gives_up_and_keeps_the_first_traceback(tmp_path):
    calls = []

    def broken(editor, image, expression, recipe=None, seed=0):
        calls.append(expression)
        raise ZeroDivisionError(f"no scale for {expression!r}")

    broken.revision = "1"
    out = tmp_path / "run"
    with pytest.raises(
        GroundProbeError, match=r"first 5 sentences all failed alike \(ZeroDiv.*no s"
    ):
        run(out, segment=broken, methods=["full"])
    assert len(calls) == 5
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "error" and "failed alike" in record["error"]
    tracebacks = Store(out).results()[0]["traceback"].dropna()
    assert len(tracebacks) == 5
    text = tracebacks.iloc[0]
    assert "in broken" in text and 'raise ZeroDivisionError(f"no scale' in text
    with pytest.raises(GroundProbeError, match="failed alike"):
        run(out, segment=broken, methods=["full"], retry_errors=True)
    assert len(calls) == 10 and Store(out).results()[1].error == 5


def test_failures_that_differ_or_come_late_do_not_end_a_run(tmp_path):
    seen = []

    def late(editor, image, expression, recipe=None, seed=0):
        seen.append(expression)
        if len(seen) > 1:
            raise ValueError("late")
        return np.ones((128, 128), bool)

    late.revision = "1"
    result = run(tmp_path / "run", segment=late, methods=["full"])
    assert (result.counts.ok, result.counts.error, result.failed) == (1, LIMIT - 1, LIMIT - 1)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "error" and "11 failed, the first is" in record["error"]
    names = set(result.rows.query("status == 'error'")["example"])
    assert run(tmp_path / "run", segment=late, methods=["full"], waive=names).failed == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "success"


def test_a_plain_list_of_examples_is_a_split(tmp_path):
    examples = list(load_split("scenes", "test", limit=LIMIT))
    out = tmp_path / "run"
    result = evaluate(None, examples[:4], out, FAST, METHODS, segment=segment)
    assert result.counts.ok == 16 and set(result.rows["dataset"]) == {"examples"}
    scores = result.summary.set_index(["method", "metric"])["value"]
    scenes = run(tmp_path / "scenes", limit=4).summary.set_index(["method", "metric"])["value"]
    same = evaluate(None, load_split("scenes", "test", limit=LIMIT), tmp_path / "same", FAST,
                    METHODS, segment=segment)  # fmt: skip
    assert scores.between(0, 1).all() and scenes.between(0, 1).all()
    grown = evaluate(None, examples, out, FAST, METHODS, segment=segment)
    assert grown.counts.ok == 4 * LIMIT
    assert grown.summary["value"].tolist() == same.summary["value"].tolist()
    black = replace(examples[0], image=Image.new("RGB", (128, 128)))
    with pytest.raises(InputError, match=r"data \(4 examples are not what they were\)"):
        evaluate(None, [black, *examples[1:]], out, FAST, METHODS, segment=segment)
    with pytest.raises(InputError, match="1 keys name several examples, as 'scenes/test/"):
        evaluate(None, [examples[0], examples[0]], tmp_path / "twice", FAST, segment=segment)
    with pytest.raises(InputError, match="item 1 of the list is a str"):
        evaluate(None, [examples[0], "left man"], out, segment=segment)


def test_results_of_one_function_are_never_another_s(tmp_path):
    """Closures of one name shared keys, partials and objects failed raw."""

    def brighter(level, editor, image, expression, recipe=None, seed=0):
        return np.asarray(image).mean(axis=2) > level

    def closure(level):
        return lambda *given, **named: brighter(level, *given, **named)

    for name, make in {
        "closure": closure,
        "partial": lambda level: partial(brighter, level),
    }.items():
        out = tmp_path / name
        first = run(out, segment=make(50), methods=["full"])
        again = run(out, segment=make(50), methods=["full"])
        assert again.counts.duplicates == 0 and again.summary.equals(first.summary)
        with pytest.raises(InputError, match="another evaluation: segmenter differ"):
            run(out, segment=make(200), methods=["full"])
    lock = threading.Lock()

    def locked(*given, **named):
        with lock:
            return brighter(50, *given, **named)

    with pytest.warns(UserWarning, match=r"locked cannot be identified \(it holds a _thread"):
        run(tmp_path / "lock", segment=locked, methods=["full"])
        with pytest.raises(InputError, match="another evaluation: segmenter differ"):
            run(tmp_path / "lock", segment=locked, methods=["full"])

    class Nameless:
        """An editor that cannot say what it is."""

    split = load_split("scenes", "test", limit=2)
    evaluate(Nameless(), split, tmp_path / "nameless", FAST, ["whole_image"], segment=segment)
    with pytest.raises(InputError, match="another evaluation: model differ"):
        evaluate(Nameless(), split, tmp_path / "nameless", FAST, ["whole_image"], segment=segment)
    with pytest.raises(InputError, match="the recipe cannot be written down"):
        run(tmp_path / "raw", recipe={"level": object()})


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (np.ones((3, 4), bool), r"cannot compare a bool mask of \(3, 4\)"),
        (np.ones((128, 128)), "cannot compare a float64 mask"),
        ({"other": np.ones((128, 128), bool)}, "returned no mask for the method 'full'"),
        (MemoryError("37 GiB"), "MemoryError: 37 GiB"),
        (torch.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError: CUDA out of memory"),
    ],
)
def test_wrong_results_and_lack_of_memory_are_error_rows(tmp_path, found, message):
    calls = []

    def segmenter(editor, image, expression, recipe=None, seed=0):
        calls.append(expression)
        if isinstance(found, BaseException):
            raise found
        return found

    result = run(tmp_path / "run", limit=1, segment=segmenter, methods=["full"])
    assert result.counts.error == 1
    assert result.rows["error"].str.contains(message).all()
    assert len(calls) == (2 if isinstance(found, torch.OutOfMemoryError) else 1)


def test_a_device_that_failed_ends_the_process(tmp_path):
    def segmenter(editor, image, expression, recipe=None, seed=0):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        run(tmp_path / "run", segment=segmenter)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "error" and "illegal memory access" in record["error"]
    assert not (tmp_path / "run" / "summary.csv").exists()


def test_bad_data_is_the_error_of_its_sentences(tmp_path):
    split = load_split("scenes", "test", limit=4)

    class Damaged(type(split)):
        def __getitem__(self, position):
            if position == 1:
                raise InputError("photo 1 is cut off")
            return super().__getitem__(position)

    damaged = Damaged(split.dataset, split.split, split.seed, split.indices)
    result = evaluate(None, damaged, tmp_path / "run", FAST, segment=segment, methods=METHODS)
    assert result.counts.ok == 12 and result.counts.error == 4
    failed = result.rows[result.rows["status"] == "error"]
    assert set(failed["example"]) == {split.keys[1]}
    assert set(failed["error"]) == {"InputError: photo 1 is cut off"}


def test_a_baseline_without_a_meaning_is_an_error_of_its_own(tmp_path):
    split = load_split("scenes", "test", limit=2)

    class Alone(type(split)):
        def __getitem__(self, position):
            return replace(super().__getitem__(position), distractors=(), others=())

    alone = Alone(split.dataset, split.split, split.seed, split.indices)
    methods = ("bright", "noisy", "largest_object")
    result = evaluate(None, alone, tmp_path / "run", FAST, segment=segment, methods=methods)
    failed = result.rows[result.rows["status"] == "error"]
    assert set(failed["method"]) == {"largest_object"} and result.counts.ok == 4
    assert failed["error"].str.contains("only the referent is annotated").all()
    assert "largest_object" in applicable(split)
    object.__setattr__(alone, "dataset", "refcoco_unc")
    assert applicable(alone) == ("whole_image", "ceiling", "ceiling_with_edges")
