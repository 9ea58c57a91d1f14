"""Evaluations of scenes, here or as processes of their own, and what must not depend on which."""

from __future__ import annotations

import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
from evaluation_script import METHODS, segment

from ground_probe import load_split
from ground_probe.evaluation import evaluate

SCRIPT = Path(__file__).with_name("evaluation_script.py")
FAST = {"seconds": 0}
LIMIT = 12


def run(out, limit=LIMIT, **options):
    options = {"recipe": FAST, "segment": segment, "methods": METHODS, **options}
    return evaluate(None, load_split("scenes", "test", limit=limit), out, **options)


def table(out):
    """What must not depend on how the work was done, as bytes."""
    rows = pd.read_parquet(out / "rows.parquet").drop(columns=["seconds", "attempts"])
    return rows.to_csv(index=False), (out / "summary.csv").read_bytes()


def start(out, engine="local", limit=LIMIT, seconds=0.0, *recipe):
    """An evaluation in a process group of its own."""
    command = [sys.executable, str(SCRIPT), str(out), engine, str(limit), str(seconds), *recipe]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, **quiet)


def finish(out, *arguments):
    process = start(out, *arguments)
    stdout, stderr = ended(process)
    assert process.returncode == 0, stderr
    return stdout


def ended(process):
    stdout, stderr = process.communicate(timeout=300)
    if "Ray cannot start" in stderr:
        pytest.skip("this machine is too busy for Ray to start within its 30 s")
    return stdout, stderr


def rows_written(out):
    return sum(path.read_bytes().count(b'"key"') for path in out.glob("rows-*.jsonl"))


def wait_for(condition, process):
    while process.poll() is None and not condition():
        time.sleep(0.005)


def without_keys(out):
    rows, summary = table(out)
    return [line.split(",", 1)[1] for line in rows.splitlines()], summary


def without_recipe(out):
    return without_recipe_of(table(out))


def without_recipe_of(tables):
    rows, summary = tables
    keyless = [line.split(",", 1)[1] for line in rows.splitlines()]
    return keyless, pd.read_csv(BytesIO(summary)).drop(columns="recipe").to_csv()
