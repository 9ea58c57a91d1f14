"""Ten things that go wrong in the first hour, each tried as a user would.

| what a user does | what happens |
|---|---|
| has a Python that is too old | make says which is needed and how to name another |
| has no make | the README's lines are those that make runs |
| misspells a model | told what a model can be |
| has no network | told so, how to get the weights, and what works without |
| gives a PNG with transparency | it works: transparency is laid on white |
| refers to several things | it works: a plural is an expression |
| opens a notebook in another folder | it works: results go beside it |
| interrupts a run and repeats it | told that it goes on, and it does: nothing is done twice |
| names a folder that cannot be written | told which, before the work is done |
| has an old diffusers, torch or transformers | told what to install |
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from nbclient import NotebookClient
from PIL import Image

import ground_probe as gp
from ground_probe import cli
from ground_probe.study.run import notebook_path

REPO = Path(__file__).parents[1]
GROUND_PROBE = (
    sys.executable,
    "-c",
    "import sys; from ground_probe import cli; sys.exit(cli.main())",
)


@pytest.fixture(scope="module")
def scene():
    return gp.load_split("scenes", "test", limit=1)[0]


@pytest.fixture
def photo(scene, tmp_path):
    path = tmp_path / "photo.png"
    scene.image.save(path)
    return str(path)


def told(result: subprocess.CompletedProcess) -> str:
    """The one line that ends a command with code 2."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("ground-probe: ")
    return line


def ran(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    """A command in another process and an empty folder."""
    empty = folder / "elsewhere"
    empty.mkdir(exist_ok=True)
    ours = re.compile("HF_|MAKE|MFLAGS|ARGS$|PYTHON$|VENV$")  # `make test ARGS=...` runs this too
    inherited = {key: value for key, value in os.environ.items() if not ours.match(key)}
    return subprocess.run(
        command, cwd=empty, env=inherited | environment, capture_output=True, text=True
    )


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@needs_make
def test_python_is_too_old(tmp_path):
    old = tmp_path / "python3.10"
    pretend = (
        "import sys; sys.version_info, sys.version = (3, 10, 14), '3.10.14'; exec(sys.argv[1])"
    )
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{pretend}" "$2"\n')
    old.chmod(0o755)
    new = tmp_path / "new"
    result = ran(tmp_path, "make", "-C", str(REPO), "study", f"PYTHON={old}", f"VENV={new}")
    assert result.returncode == 2 and not new.exists()
    needed = f"Python 3.11 or newer is needed, {old} is 3.10.14: try make study PYTHON=python3.12"
    assert needed in result.stderr.splitlines()
    assert metadata("ground-probe")["Requires-Python"] == ">=3.11"  # what pip goes by


@needs_make
def test_there_is_no_make(tmp_path):
    readme = (REPO / "README.md").read_text()
    block = re.search(r"Without make:\n\n((?: {4}.*\n)+)", readme)[1]
    result = ran(tmp_path, "make", "-C", str(REPO), "-nB", "study", "test")
    assert result.returncode == 0, result.stderr
    made = [line.strip() for line in result.stdout.splitlines()]
    lines = [line.strip() for each in block.splitlines() for line in each.split("&&")]
    assert len(lines) >= 4 and set(lines) <= set(made)


@pytest.mark.parametrize("model", ["tinny", "FLUX.1-Kontxt-dev"])
def test_a_model_is_misspelt(model, photo, capsys):
    assert cli.main(["segment", photo, "circle", "--model", model]) == 2
    said = capsys.readouterr().err
    assert f"no model {model!r} (did you mean '" in said
    assert "give 'tiny', an existing folder or a hub id such as" in said


def test_the_hub_is_offline(photo, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # nobody listens there afterwards
    command = ("segment", photo, "left man", "--model", "FLUX.1-Kontext-dev", "--download")
    hub = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": f"http://127.0.0.1:{port}"}
    said = told(ran(tmp_path, *GROUND_PROBE, *command, **hub))
    assert "the hub cannot be reached" in said
    for way in ("give --download to the command", "hf download", "--model tiny"):
        assert way in said


def test_a_png_has_transparency(scene, photo, tmp_path):
    masks = []
    for alpha in (None, 255, 0):
        image = scene.image.copy()
        if alpha is not None:
            image.putalpha(alpha)
        image.save(photo)
        assert cli.main(["segment", photo, scene.expression, "-o", str(tmp_path / "mask.png")]) == 0
        with Image.open(tmp_path / "mask.png") as mask:
            masks.append(np.asarray(mask))
    opaque, clear = (np.array_equal(masks[0], mask) for mask in masks[1:])
    assert opaque and not clear


@pytest.mark.parametrize("expression", ["the red circles", "circles", "both large men"])
def test_an_expression_is_a_plural(expression, scene, photo, tmp_path):
    target = tmp_path / "mask.png"
    assert cli.main(["segment", photo, expression, "-o", str(target)]) == 0
    with Image.open(target) as mask:
        assert mask.size == scene.image.size


def test_a_notebook_is_opened_in_another_folder(tmp_path, capsys):
    assert cli.main(["evaluate", "--limit", "2", "--out", str(tmp_path / "scenes")]) == 0
    opened = shutil.copy(notebook_path("90_report"), tmp_path)
    papermill.execute_notebook(
        opened,
        tmp_path / "executed.ipynb",
        parameters={"folder": "scenes"},
        kernel_name="python3",
        cwd=tmp_path,
        progress_bar=False,
    )
    (record,) = tmp_path.glob("runs/90_report-*/90_report.run.json")
    assert json.loads(record.read_text())["status"] == "success"


@pytest.mark.skipif(find_spec("ipywidgets") is not None, reason="bars are widgets here")
def test_a_notebook_without_widgets_is_quiet(tmp_path):
    cell = nbformat.v4.new_code_cell("from ground_probe.editors import fill\nimport diffusers")
    executed = nbformat.v4.new_notebook(cells=[cell])
    NotebookClient(executed, kernel_name="python3").execute()
    assert "IProgress" not in json.dumps(executed.cells[0].outputs)


def test_a_run_is_interrupted_and_repeated(tmp_path, capsys):
    out = tmp_path / "out"
    command = ("evaluate", "--limit", "12", "--out", str(out))
    process = subprocess.Popen([*GROUND_PROBE, *command], stderr=subprocess.PIPE, text=True)
    while not (done := rows(out)) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "ground-probe: interrupted; repeat the command to go on"
    done |= rows(out)
    assert 0 < len(done) < 12
    assert cli.main(command) == 0
    every = pd.read_parquet(out / "rows.parquet")
    assert len(every) == 12 and set(every["status"]) == {"ok"}
    seconds = dict(zip(every["key"], every["seconds"], strict=True))
    assert done.items() <= seconds.items()  # as they were: not done again


def rows(folder: Path) -> dict[str, float]:
    """The seconds of each example that is written down; the last line may still be growing."""
    texts = [path.read_text() for path in folder.glob("rows-*.jsonl")]
    whole = [json.loads(line) for text in texts for line in text.split("\n")[:-1]]
    return {row["key"]: row["seconds"] for row in whole if "key" in row}


@pytest.mark.parametrize(
    "command",
    [
        ["study", "--out"],
        ["evaluate", "--out"],
        ["explore", "PHOTO", "circle", "-o"],
        ["segment", "PHOTO", "circle", "-o"],
        ["calibrate", "--limit", "1", "--out"],
    ],
    ids=lambda command: command[0],
)
def test_results_cannot_be_written(command, photo, capsys):
    argv = [photo if word == "PHOTO" else word for word in command]
    name = {"segment": "mask.png", "explore": "seen.html"}.get(command[0], "out")
    assert cli.main([*argv, f"{photo}/{name}"]) == 2  # a folder under a file
    (line,) = (each for each in capsys.readouterr().err.splitlines() if "ground-probe:" in each)
    assert re.search("cannot make the output folder .* choose another|there is no folder", line)


def test_the_disk_is_full(photo, tmp_path):
    with Image.open(photo) as image:
        before = image.copy()
    limited = (
        "import resource, sys; from ground_probe import cli; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); sys.exit(cli.main())"
    )
    command = sys.executable, "-c", limited, "segment", photo, "circle", "-o", photo
    result = ran(tmp_path, *command)
    assert result.returncode == 2
    said = f"ground-probe: cannot write {photo}: File too large; choose another place"
    assert result.stderr.splitlines()[-1] == said
    with Image.open(photo) as image:
        assert image.tobytes() == before.tobytes()


@pytest.mark.parametrize("name", ["diffusers", "torch", "transformers"])
def test_a_package_is_old(name, tmp_path):
    info = tmp_path / "old" / f"{name}-0.30.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.30.0\n")
    path = str(info.parent)
    told_how = rf"pip install '{name}>=[\d.]+' \(found 0\.30\.0\)$"
    assert re.search(told_how, told(ran(tmp_path, *GROUND_PROBE, "models", PYTHONPATH=path)))
    begins = "import ground_probe as gp; gp.open_run('10_emergence', 'out')"  # as a notebook does
    result = ran(tmp_path, sys.executable, "-c", begins, PYTHONPATH=path)
    assert result.returncode == 1 and re.search(told_how, result.stderr.splitlines()[-1])
