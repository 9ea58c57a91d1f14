from __future__ import annotations

import os
import signal
from importlib.metadata import version

import pytest

from ground_probe import run_record
from ground_probe.errors import InputError
from ground_probe.io import digest
from ground_probe.run_record import RunRecord, read_record, recording

SPEC = {"model": "tiny", "steps": [0, 9], "limit": 4}


def test_a_record_says_what_when_with_what_and_how_it_ended(tmp_path):
    with recording(tmp_path / "run.json", SPEC, seed=3) as run:
        assert read_record(run.path)["status"] == "started"
        assert read_record(run.path)["ended_utc"] is None
        run.fields["counts"] = {"ok": 4}
    record = read_record(tmp_path / "run.json")
    assert record["status"] == "success" and record["counts"] == {"ok": 4} and record["seed"] == 3
    assert record["spec"] == SPEC and record["digest"] == digest(SPEC)
    assert record["packages"]["torch"] == version("torch")
    assert record["started_utc"].endswith("+00:00") and record["ended_utc"].endswith("+00:00")
    assert {"commit", "dirty", "python", "machine"} <= record.keys()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no"), "error"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(3), "interrupted"),
    ],
)
def test_a_run_that_raises_is_recorded_and_raises(tmp_path, error, status):
    with pytest.raises(type(error)), recording(tmp_path / "run.json", SPEC):
        raise error
    record = read_record(tmp_path / "run.json")
    assert record["status"] == status and record["ended_utc"]
    assert record.get("error") == ("ValueError: no" if status == "error" else None)


def test_a_scheduler_s_notice_is_an_interruption(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as raised, recording(tmp_path / "run.json", SPEC):
        os.kill(os.getpid(), signal.SIGTERM)
    assert raised.value.code == 128 + signal.SIGTERM
    assert read_record(tmp_path / "run.json")["status"] == "interrupted"
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_same_spec_starts_anew_and_another_is_refused(tmp_path):
    path = tmp_path / "run.json"
    RunRecord.begin(path, SPEC).finish(n_ok=4)
    RunRecord.begin(path, dict(reversed(SPEC.items())))
    assert "n_ok" not in read_record(path)
    with pytest.raises(InputError, match=r"other settings \(limit: 4 there, 5 now\): choose"):
        RunRecord.begin(path, {**SPEC, "limit": 5})
    with pytest.raises(InputError, match=r"\(seed: None there, 0 now\)"):
        RunRecord.begin(path, {**SPEC, "seed": 0})
    assert read_record(path)["spec"] == SPEC


@pytest.mark.parametrize("text", ["", "{", "[]", '{"spec": {}}'])
def test_a_file_that_is_no_record_is_named(tmp_path, text):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"run.json is not a run record"):
        RunRecord.begin(path, SPEC)


def test_an_open_run_has_a_folder_of_its_own_unless_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_record.open_run("10_small", "", limit=3)
    other = run_record.open_run("10_small", "", limit=4)
    assert run.folder.parent == other.folder.parent == tmp_path / "runs"
    assert run.folder != other.folder
    told = run_record.open_run("10_small", str(tmp_path / "told"), limit=3)
    assert told.path == tmp_path / "told" / "10_small.run.json"
