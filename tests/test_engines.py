"""Engines: kills, workers, processes, Ray; the table never depends on any of them."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import signal
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from evaluation_runs import (
    FAST,
    LIMIT,
    ended,
    finish,
    rows_written,
    run,
    start,
    table,
    wait_for,
    without_keys,
    without_recipe,
    without_recipe_of,
)
from evaluation_script import METHODS, segment

import ground_probe as gp
from ground_probe import load_split, testing
from ground_probe.errors import InputError
from ground_probe.evaluation import Processes, Store, evaluate, mask_of
from ground_probe.io import seed_of


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_leaves_no_table(tmp_path, uninterrupted, stop):
    out = tmp_path / "run"
    process = start(out, "local", LIMIT, 0.05)
    wait_for(lambda: rows_written(out) >= 8, process)
    process.send_signal(stop)
    process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    assert {path.suffix for path in out.iterdir()} == {".json", ".jsonl", ".parquet"}
    assert not (out / "rows.parquet").exists()


def family(process):
    """The process and all that it started, of the whole machine."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill(process, whom):
    """`kill -9` of the driver, of a worker, or of everything; True if the run has ended."""
    everything = family(process)
    with contextlib.suppress(psutil.Error):
        names = ("_Actor", "evaluation_script", "spawn_main")  # Ray's, forked, started anew
        lines = {each: " ".join(each.cmdline()) for each in everything[1:]}
        workers = [each for each, line in lines.items() if any(name in line for name in names)]
        if whom == "worker" and workers:
            workers[0].kill()
            return False
    for each in everything if whom == "all" else everything[:1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.communicate()
    # What Ray started ends by itself when its driver is gone.
    for each in psutil.wait_procs(everything, timeout=30)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    return True


def share(engine, limit):
    """How many rows an engine writes: a shard those of its images."""
    index, count = map(int, engine.split("/")) if "/" in engine else (0, 1)
    images = pd.factorize(np.array(load_split("scenes", "test", limit=limit).image_ids))[0]
    return len(METHODS) * int((images % count == index).sum())


def kill_and_resume(out, engine, kills, seed, limit=LIMIT, seconds=0.01):
    """Kill the run's processes at rows spread over the run, and resume until it is finished."""
    rng, process = random.Random(seed), None
    own, done = share(engine, limit), rows_written(out)
    alone = engine == "local" or "/" in engine
    whom = ("driver", "all") if alone else ("driver", "all", "worker")
    for number in range(kills):
        process = process or start(out, engine, limit, seconds)
        at = done + own * (number + rng.random()) / (kills + 1)
        wait_for(lambda at=at: rows_written(out) >= at, process)
        time.sleep(rng.random() * 0.02)
        if process.poll() is not None:
            raise AssertionError(f"it ended before kill {number}: {ended(process)}")
        if kill(process, whom[number % len(whom)]):
            process = None
    if process is not None:  # a worker was killed last: its run goes on
        ended(process)
    return finish(out, engine, limit, seconds)


def test_a_killed_run_resumes_to_the_same_table(tmp_path, request):
    whole = tmp_path / "whole"
    run(whole, recipe={"seconds": 0.01})
    out = tmp_path / "killed"
    output = kill_and_resume(out, "local", kills=2, seed=0)
    assert "expected 48 / ok 48 / error 0 / duplicates dropped 0" in output
    # The script's function has another name than ours: the keys differ, nothing else may.
    assert without_keys(out) == without_keys(whole)


@pytest.mark.long
@pytest.mark.parametrize(
    ("engines", "kills"),
    [
        (["local"], 9),
        (["0/3", "1/3", "2/3"], 2),
        (["processes2"], 20),
        (["ray1"], 7),
        (["ray2"], 8),
    ],
    ids=["in process", "shards", "processes", "one Ray worker", "two Ray workers"],
)
def test_kills_lose_and_repeat_nothing(tmp_path, engines, kills):
    if engines[0].startswith("ray"):
        pytest.importorskip("ray")
    limit = 60
    whole, out = tmp_path / "whole", tmp_path / "killed"
    run(whole, limit=limit, recipe={"seconds": 0.05})
    for seed, engine in enumerate(engines, start=1):
        output = kill_and_resume(out, engine, kills, seed, limit=limit, seconds=0.05)
    counts = f"expected {4 * limit} / ok {4 * limit} / error 0 / duplicates dropped 0"
    assert counts in output
    assert without_keys(out) == without_keys(whole)


def test_a_sentence_that_kills_its_process_is_an_error_after_three(tmp_path):
    """No row was written by a crash, so that every resume met the sentence again."""
    out, split = tmp_path / "run", load_split("scenes", "test", limit=LIMIT)
    arguments = ("local", LIMIT, 0, f"poison={split.expressions[5]}")
    for _ in range(3):
        process = start(out, *arguments)
        process.communicate(timeout=120)
        assert process.returncode == 9
    output = finish(out, *arguments)
    assert "expected 48 / ok 44 / error 4 / duplicates dropped 0" in output
    failed = Store(out).results()[0].query("status == 'error'")
    assert set(failed["example"]) == {split.keys[5]} and (failed["attempts"] == 3).all()
    assert failed["error"].str.startswith("ProcessDied: 3 processes ended").all()


def test_a_process_that_was_interrupted_did_not_die_of_its_sentence(tmp_path):
    out = tmp_path / "run"
    stops = iter([KeyboardInterrupt, SystemExit, KeyboardInterrupt])

    def stopped(*given, **named):
        for stop in stops:
            raise stop
        return segment(*given, **named)

    stopped.revision = "1"
    for _ in range(3):
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run(out, segment=stopped)
    result = run(out, segment=stopped)
    assert result.counts.ok == 4 * LIMIT and (result.rows["attempts"] == 1).all()


def test_two_processes_give_the_table_of_one(tmp_path, uninterrupted):
    run(tmp_path / "two", engine=Processes(2))
    assert table(tmp_path / "two") == uninterrupted
    workers = json.loads((tmp_path / "two" / "run.json").read_text())["workers"]
    assert workers["engine"] == "processes" and len(workers["workers"]) == 2


def test_two_processes_segment_as_one_does_to_the_bit(tmp_path):
    editor, split = gp.load_editor(testing.kontext()), load_split("scenes", "test", limit=4)
    one, two = (
        evaluate(editor, split, tmp_path / str(len(how)), methods=("full", "ceiling"), **how)
        for how in ({}, {"engine": Processes(2)})
    )
    same = ["key", "inter_px", "union_px", "pred_px", "mask"]
    assert one.rows[same].equals(two.rows[same]) and one.counts.ok == 8
    masks = [mask_of(row) for row in two.rows[two.rows["method"] == "full"].to_dict("records")]
    first = gp.segment(editor, split[0].image, split[0].expression,
                       seed=seed_of(split.keys[0], 0))  # fmt: skip
    assert np.array_equal(masks[0], first.mask)


def test_processes_are_forked_from_the_one_that_loaded_the_editor(tmp_path):
    if sys.platform != "linux" or torch.accelerator.is_available():
        pytest.skip("a fork is safe on Linux, without an accelerator")

    def load():
        (tmp_path / str(os.getpid())).touch()

    whole = evaluate(load, load_split("scenes", "test", limit=4), tmp_path / "run", FAST, METHODS,
                     segment=segment, engine=Processes(2))  # fmt: skip
    pids = [path.name for path in tmp_path.iterdir() if path.name.isdecimal()]
    assert pids == [str(os.getpid())] and whole.counts.ok == 16


def test_a_process_that_dies_changes_nothing(tmp_path, uninterrupted):
    out = tmp_path / "run"
    output = finish(out, "processes2", LIMIT, 0, f"once={tmp_path / 'died'}")
    assert (tmp_path / "died").exists()
    assert "expected 48 / ok 48 / error 0 / duplicates dropped 0" in output
    assert without_recipe(out) == without_recipe_of(uninterrupted)


def test_a_sentence_that_kills_its_processes_is_one_error(tmp_path):
    out, split = tmp_path / "run", load_split("scenes", "test", limit=LIMIT)
    output = finish(out, "processes2", LIMIT, 0, f"poison={split.expressions[5]}")
    assert "expected 48 / ok 44 / error 4 / duplicates dropped 0" in output
    failed = Store(out).results()[0].query("status == 'error'")
    assert set(failed["example"]) == {split.keys[5]}
    assert failed["error"].str.contains(r"WorkerDied: 2 workers ended.*exit code 9").all()


def test_processes_end_with_a_killed_driver(tmp_path):
    process = start(tmp_path / "run", "processes2", LIMIT, 0.3)
    wait_for(lambda: rows_written(tmp_path / "run"), process)
    everything = family(process)
    process.kill()
    process.communicate()
    assert len(everything) == 3 and not psutil.wait_procs(everything, timeout=10)[1]
    assert "error 0" in finish(tmp_path / "run", "processes2", LIMIT, 0.3)


def test_mistakes_of_processes_are_said(tmp_path):
    split = load_split("scenes", "test", limit=2)
    with pytest.raises(InputError, match="0 workers can do nothing"):
        evaluate(None, split, tmp_path / "run", FAST, segment=segment, engine=Processes(0))

    def missing():
        raise InputError("no weights in /nowhere")

    with pytest.raises(InputError, match="no weights in /nowhere"):
        evaluate(missing, split, tmp_path / "run", FAST, segment=segment, engine=Processes(2))


def test_new_processes_give_the_table_of_forked_ones(tmp_path, uninterrupted, monkeypatch):
    """As on a machine with an accelerator."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **how: "cuda")
    run(tmp_path / "two", engine=Processes(2))
    assert table(tmp_path / "two") == uninterrupted


def test_a_ray_worker_that_dies_changes_nothing(tmp_path, uninterrupted):
    pytest.importorskip("ray")
    out = tmp_path / "run"
    output = finish(out, "ray2", LIMIT, 0, f"once={tmp_path / 'died'}")
    assert (tmp_path / "died").exists()
    assert "expected 48 / ok 48 / error 0 / duplicates dropped 0" in output
    assert without_recipe(out) == without_recipe_of(uninterrupted)


@pytest.mark.long
def test_a_sentence_that_kills_its_workers_is_one_error(tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "run"
    split = load_split("scenes", "test", limit=LIMIT)
    poison = split.expressions[5]
    output = finish(out, "ray2", LIMIT, 0, f"poison={poison}")
    assert "expected 48 / ok 44 / error 4 / duplicates dropped 0" in output
    failed = Store(out).results()[0].query("status == 'error'")
    assert set(failed["example"]) == {split.keys[5]}
    assert failed["error"].str.startswith("WorkerDied: 2 workers ended").all()


def test_ray_that_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "ground_probe.evaluation.ray", raising=False)
    with pytest.raises(InputError, match=r"pip install 'ground-probe\[ray\]'"):
        importlib.import_module("ground_probe.evaluation.ray")
