"""The store under an evaluation: torn tails, duplicates, errors, frozen manifests, whole files."""

from __future__ import annotations

import multiprocessing
import sys
import time

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ground_probe.errors import GroundProbeError, InputError
from ground_probe.evaluation.rows import error_row, row
from ground_probe.evaluation.store import MANIFEST_COLUMNS, Store

SPEC = {"dataset": "scenes", "split": "test", "model": "m", "recipe": "abc"}
COUNTS = {"inter_px": 1, "union_px": 4, "pred_px": 2, "gold_px": 3}


def manifest(*keys):
    rows = [(key, "scenes", "test", key, key, "ring", "full") for key in keys]
    return pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS))


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "run")
    store.freeze(manifest("a", "b", "c"), SPEC)
    return store


def append(store, *rows, writer="main"):
    with store.writer(writer) as open_writer:
        open_writer.append(rows)


def test_results_follow_the_manifest_whatever_the_order_of_work(store):
    append(store, row("c", COUNTS, 0.5), error_row("a", ValueError("no\n such  thing")))
    rows, counts = store.results()
    assert rows["key"].tolist() == ["a", "b", "c"]
    assert rows["status"].tolist() == ["error", "missing", "ok"]
    assert rows["inter_px"].tolist() == [pd.NA, pd.NA, 1]
    assert rows["error"][0] == "ValueError: no such thing"
    assert str(counts) == "expected 3 / ok 1 / error 1 / duplicates dropped 0 / missing 1"


def test_the_first_ok_wins_over_errors_and_repetitions(store):
    append(store, error_row("a", ValueError("once")), row("a", COUNTS, 0.1))
    append(
        store, row("a", COUNTS, 0.2), row("b", COUNTS, 0.3), row("c", COUNTS, 0.3), writer="0of2"
    )
    rows, counts = store.results()
    assert (counts.ok, counts.error, counts.duplicates, counts.missing) == (3, 0, 1, 0)
    assert rows["attempts"].tolist() == [2, 1, 1]


def test_two_results_that_disagree_are_refused(store):
    append(store, row("a", COUNTS, 0.1), row("a", {**COUNTS, "inter_px": 2, "union_px": 3}, 0.1))
    with pytest.raises(GroundProbeError, match="two results of a disagree"):
        store.results()


@pytest.mark.parametrize("tail", [b'{"key": "b", "stat', b'{"key": "b"', b"\0\0\0\0", b"\0\0\n"])
def test_a_torn_last_line_is_cut_off_and_said(store, tail):
    append(store, row("a", COUNTS, 0.1))
    path = store.folder / "rows-main.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert store.results()[1].ok == 1, "a reader passes over it"
    with pytest.warns(UserWarning, match=rf"torn last line \({len(tail)} bytes"):
        append(store, row("b", COUNTS, 0.1))
    assert path.read_bytes().startswith(whole) and store.results()[1].ok == 2


@settings(max_examples=30)
@given(st.data())
def test_any_cut_loses_only_what_it_cuts(tmp_path_factory, data):
    store = Store(tmp_path_factory.mktemp("cut"))
    keys = [f"k{number}" for number in range(5)]
    store.freeze(manifest(*keys), SPEC)
    append(store, *(row(key, COUNTS, 0.1) for key in keys))
    path = store.folder / "rows-main.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    cut = data.draw(st.integers(0, path.stat().st_size))
    path.write_bytes(path.read_bytes()[:cut])
    whole = sum(cut >= len(b"".join(lines[: number + 1])) for number in range(5))
    assert store.results()[1].ok == whole


def test_damage_before_the_last_line_is_refused(store):
    append(store, row("a", COUNTS, 0.1), row("b", COUNTS, 0.1))
    path = store.folder / "rows-main.jsonl"
    path.write_bytes(b"x" + path.read_bytes())
    with pytest.raises(GroundProbeError, match="damaged at line 1"):
        store.results()


def test_one_writer_at_a_time(store):
    with (
        store.writer("main"),
        pytest.raises(InputError, match="written by another process"),
        store.writer("main"),
    ):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_worker_that_is_forked_meanwhile_does_not_hold_the_lock(store):
    context = multiprocessing.get_context("fork")
    running = context.Event()
    process = context.Process(target=lambda: (running.set(), time.sleep(60)))
    with store.writer("main"):
        process.start()
        assert running.wait(30)
    try:
        with store.writer("main"):
            pass
    finally:
        process.kill()
        process.join()


def test_a_frozen_manifest_only_accepts_itself(store):
    store.freeze(manifest("a", "b", "c"), SPEC)
    with pytest.raises(InputError, match="another evaluation: recipe differ"):
        store.freeze(manifest("a", "b", "c"), {**SPEC, "recipe": "other"})
    with pytest.raises(InputError, match=r"examples \(1 there that are not asked for now\)"):
        store.freeze(manifest("a", "b"), SPEC)
    assert store.spec() == SPEC


def test_folders_that_cannot_hold_a_run(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot make the output folder"):
        Store(tmp_path / "file" / "run").freeze(manifest("a"), SPEC)
    with pytest.raises(InputError, match="holds no evaluation"):
        Store(tmp_path).results()
