from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from ground_probe import cli
from ground_probe.errors import GroundProbeError, InputError, UnknownNameError
from ground_probe.run_record import read_record, status_path
from ground_probe.study import page
from ground_probe.study import run as study

PARAMETERS = """
limit: int = 4  # examples
share: float = 0.5  # of 1
model: str = "tiny"
loading: str = "{}"
ready: bool = False
steps: list[int] = [0, 9]
root: str | None = None
out: str = ""
"""
BEGIN = (
    "import ground_probe as gp\n"
    'run = gp.open_run("small", out, limit=limit, share=share, model=model)'
)
FINISH = "run.finish(n_expected=limit, n_ok=limit, n_error=0)"


def notebook(folder: Path, *cells: str, parameters: str = PARAMETERS, name: str = "small") -> Path:
    made = nbformat.v4.new_notebook()
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    made.cells = [tagged, *map(nbformat.v4.new_code_cell, cells)]
    path = folder / f"{name}.ipynb"
    nbformat.write(made, path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out {braces}"
    folder.mkdir()
    return folder


def test_defaults_are_completed(tmp_path):
    source = notebook(tmp_path)
    values = study.resolve_parameters(source, {"limit": 7, "share": 1, "model": "007", "root": "a"})
    assert values == {
        "limit": 7,
        "share": 1,
        "model": "007",
        "loading": "{}",
        "ready": False,
        "steps": [0, 9],
        "root": "a",
        "out": "",
    }


def test_an_unknown_parameter_is_refused_with_those_that_exist(tmp_path):
    with pytest.raises(UnknownNameError, match=r"'limt': choose one of limit, .*mean 'limit'"):
        study.resolve_parameters(notebook(tmp_path), {"limt": 3})


def test_a_notebook_runs_here_with_the_given_values_and_leaves_its_record(tmp_path, out, capfd):
    cells = (BEGIN, "import sys; print(sys.executable, share)", "print('bar', file=sys.stderr)")
    record = study.run_notebook(notebook(tmp_path, *cells, FINISH), out, {"share": 1})
    assert record["status"] == "success" and record["n_ok"] == 4
    assert record["spec"] == {"limit": 4, "share": 1, "model": "tiny"}
    executed = nbformat.read(out / "small.ipynb", as_version=4)
    printed = [o.text for c in executed.cells for o in c.get("outputs", ()) if o.name == "stdout"]
    assert printed == [f"{sys.executable} 1\n"]
    page = (out / "small.html").read_text()
    assert 'src="http' not in page and sys.executable in page
    # A kernel that ends may leave a line of its message queue's own behind ours.
    assert capfd.readouterr().err.splitlines()[0] == "bar"
    assert not list(out.glob("*.part"))


def test_of_a_bar_of_progress_its_last_state_is_left(tmp_path, out):
    bar = "import sys, time\nfor at in range(3):\n"
    bar += "    print(f'\\r{at} of 2', end='', file=sys.stderr, flush=True); time.sleep(0.1)"
    study.run_notebook(notebook(tmp_path, BEGIN, bar, FINISH), out, {})
    executed = nbformat.read(out / "small.ipynb", as_version=4)
    drawn = [o.text for c in executed.cells for o in c.get("outputs", ()) if o.name == "stderr"]
    assert drawn == ["2 of 2"] and "1 of 2" not in (out / "small.html").read_text()


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ((BEGIN, "raise KeyError('lost')", FINISH), "small failed: KeyError: 'lost'"),
        ((BEGIN, "import os; os._exit(1)", FINISH), "small failed: .*ead kernel|DeadKernel"),
        ((BEGIN,), "ended as 'started'"),
        (("1 + 1",), "ended as 'never started'"),
    ],
)
def test_a_notebook_that_did_not_say_success_has_failed(tmp_path, out, cells, message):
    source = notebook(tmp_path, BEGIN, FINISH)
    status_path(out, "small").write_text('{"status": "success", "digest": "stale"}')
    source = notebook(tmp_path, *cells)
    with pytest.raises(GroundProbeError, match=message):
        study.run_notebook(source, out, {})
    if BEGIN in cells:
        assert read_record(out / "small.run.json")["status"] == "error"
    assert not (out / "small.html").exists()


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("10_emergence", {"limit": 4}, "limit is 4: give at least 5"),
        ("10_emergence", {"fit_limit": 1}, "fit_limit is 1: give at least 5"),
        ("10_emergence", {"steps": [3, 9]}, "step 0 must be among both"),
        ("10_emergence", {"steps": [0, 28]}, "step 28 is not in a schedule of 28"),
        ("10_emergence", {"control_steps": [0, 2]}, r"\[2\] are not among steps"),
        ("10_emergence", {"noise_seeds": 0}, "noise_seeds is 0: give at least 1"),
        ("10_emergence", {"causal_limit": 0}, "causal_limit is 0: give at least 1"),
        ("10_emergence", {"delta": -0.1}, "delta is -0.1: give at least 0"),
        ("10_emergence", {"template": "make it red"}, "cannot fill 'make it red'"),
        ("10_emergence", {"dataset": "refcocog_google"}, "the study needs val to choose"),
        ("20_where_and_what", {"templates": []}, "give one or more, each once"),
        ("20_where_and_what", {"templates": ["{expression}"] * 2}, "each once"),
        ("20_where_and_what", {"templates": ["{expression}", "red"]}, "cannot fill 'red'"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_before_anything_is_computed(
    name, given, message, tmp_path, monkeypatch
):
    def too_late(*_, **__):
        raise AssertionError("an editor was loaded, or a run begun")

    monkeypatch.setattr("ground_probe.load_editor", too_late)
    monkeypatch.setattr("ground_probe.open_run", too_late)
    path = study.notebook_path(name)
    code = TransformerManager().transform_cell
    cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    space = study.resolve_parameters(path, {**given, "out": str(tmp_path)})
    with pytest.raises(InputError, match=message):
        exec(code(cells[1].replace("%matplotlib inline", "")), space)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("10_emergence", {"steps": [0, 3, 9]}),
        ("20_where_and_what", {"templates": ["Remove {expression}", "{expression}"]}),
    ],
)
def test_few_steps_and_templates_will_do(name, given, tmp_path):
    record = study.run_notebook(study.notebook_path(name), tmp_path, {"limit": 8, **given})
    assert record["status"] == "success" and record["verdicts"]


def test_a_refused_parameter_runs_nothing(tmp_path, out):
    with pytest.raises(UnknownNameError):
        study.run_notebook(notebook(tmp_path, BEGIN, FINISH), out, {"limt": 3})
    assert list(out.iterdir()) == []


STUDY_CELLS = (
    'import ground_probe as gp, pandas as pd\nrun = gp.open_run("small", out, limit=limit)',
    "rows = [(0, 'b.0', 'val', 0.5), (0, 'b.0', 'test', 0.75), (9, 'b.1', 'val', 0.5),"
    "(9, 'b.1', 'test', 0.875)]\n"
    "table = pd.DataFrame(rows, columns=['step', 'block', 'split', 'value'])\n"
    "table = table.assign(stream='noise', probe='linear', labels='grounding', control='none')\n"
    "table.assign(seed=0).to_csv(run.folder / 'emergence.csv', index=False)",
    "run.finish(n_ok=limit)",
)
PLAN = {"small": ("limit", "loading")}
LOADING = {"dtype": "bfloat16", "offload": "model"}


@pytest.fixture
def small_study(tmp_path, monkeypatch):
    source = notebook(tmp_path, *STUDY_CELLS)
    monkeypatch.setattr(study, "notebook_path", lambda name: source)
    return source


def test_a_study_leaves_a_record_and_a_page_and_runs_again_in_place(small_study, tmp_path):
    out = tmp_path / "study"
    for _ in range(2):
        index = study.run_study(out, loading=LOADING, limit=5, notebooks=PLAN).read_text()
    assert "step 9" in index and "0.875" in index and 'href="small.html"' in index
    record = read_record(out / "run.json")
    assert record["status"] == "success" and record["ended_utc"]
    assert record["parts"]["small"]["n_ok"] == 5
    given = record["spec"]["notebooks"]["small"]
    assert given["limit"] == 5 and json.loads(given["loading"]) == LOADING
    with pytest.raises(InputError, match=r"notebooks\.small\.limit: 5 there, 6 now"):
        study.run_study(out, loading=LOADING, limit=6, notebooks=PLAN)
    assert read_record(out / "run.json") == record


def runs(folder: Path) -> list[str]:
    return (folder / "runs.txt").read_text().split()


def test_a_finished_part_is_kept_and_one_with_another_input_is_run_again(tmp_path, capsys):
    out, data, marker = tmp_path / "study", tmp_path / "data", tmp_path / "runs.txt"
    data.mkdir()
    (data / "refs.json").write_text("[]")
    mark = f"with open({str(marker)!r}, 'a') as file: file.write(out[-5:] + ' ')"
    source = notebook(tmp_path, mark, *STUDY_CELLS)
    given = {"root": str(data), "limit": 5, "notebooks": PLAN}

    def said_of_a_run() -> str:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(study, "notebook_path", lambda name: source)
            study.run_study(out, **given)
        return capsys.readouterr().err

    assert "kept" not in said_of_a_run()
    again = said_of_a_run()
    assert "small: finished before, with equal parameters, code and data; kept" in again
    assert len(runs(tmp_path)) == 1 and read_record(out / "run.json")["status"] == "success"
    (data / "refs.json").write_text("[1]")
    said_of_a_run()
    (out / "small.html").unlink()
    said_of_a_run()
    notebook(tmp_path, mark, *STUDY_CELLS, "1 + 1")
    said_of_a_run()
    assert len(runs(tmp_path)) == 4
    said_of_a_run()
    assert len(runs(tmp_path)) == 4


def test_notebooks_run_beside_one_another_and_a_failed_one_ends_the_study(tmp_path, monkeypatch):
    out = tmp_path / "study"
    wait = (
        "import pathlib, time\nfolder = pathlib.Path(out)\n(folder / f'{share}.seen').touch()\n"
        "while len(list(folder.glob('*.seen'))) < 2: time.sleep(0.05)"  # for the other one
    )
    begin = 'import ground_probe as gp\nrun = gp.open_run("{}", out, limit=limit)'
    for name, share in (("left", 0.25), ("right", 0.75)):
        cells = (begin.format(name), wait, "run.finish(n_ok=1)")
        notebook(tmp_path, *cells, parameters=PARAMETERS.replace("0.5", str(share)), name=name)
    notebook(tmp_path, begin.format("bad"), "1 / 0", name="bad")
    sources = {name: tmp_path / f"{name}.ipynb" for name in ("left", "right", "bad")}
    monkeypatch.setattr(study, "notebook_path", sources.__getitem__)
    study.run_study(out, notebooks={"left": ("limit",), "right": ("limit",)}, workers=2)
    parts = read_record(out / "run.json")["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "left": "success",
        "right": "success",
    }
    alone = notebook(tmp_path, begin.format("left"), "import time; time.sleep(60)", name="left")
    assert alone == sources["left"]
    with pytest.raises(GroundProbeError, match="bad failed: ZeroDivisionError"):
        study.run_study(
            tmp_path / "failed", notebooks={"left": ("limit",), "bad": ("limit",)}, workers=2
        )
    assert read_record(tmp_path / "failed" / "run.json")["status"] == "error"
    assert read_record(tmp_path / "failed" / "left.run.json")["status"] == "interrupted"


def test_the_command_hands_on_how_to_load(monkeypatch, tmp_path, capsys):
    def run_study(out, **settings):
        raise InputError(str(settings["loading"]))

    monkeypatch.setattr(study, "run_study", run_study)
    options = [each for name, value in LOADING.items() for each in (f"--{name}", value)]
    for given, expected in ((options, LOADING), ([], {})):
        assert cli.main(["study", "--out", str(tmp_path), *given]) == 2
        assert capsys.readouterr().err == f"ground-probe: {expected}\n"


def test_a_failed_notebook_is_in_the_record_of_the_study(tmp_path, monkeypatch):
    source = notebook(tmp_path, STUDY_CELLS[0], "1 / 0")
    monkeypatch.setattr(study, "notebook_path", lambda name: source)
    with pytest.raises(GroundProbeError, match="ZeroDivisionError"):
        study.run_study(tmp_path / "study", notebooks=PLAN)
    record = read_record(tmp_path / "study" / "run.json")
    assert record["status"] == "error" and "ZeroDivisionError" in record["error"]
    assert not (tmp_path / "study" / "index.html").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_study_says_so_and_leaves_no_kernel(tmp_path, number, code):
    marker = tmp_path / "pid"
    wait = (
        f"import os, pathlib, time\npathlib.Path({str(marker)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)"
    )
    source = notebook(tmp_path, STUDY_CELLS[0], wait)
    script = (
        "import sys; from pathlib import Path; from ground_probe import cli\n"
        "from ground_probe.study import run as study\n"
        f"study.notebook_path = lambda name: Path({str(source)!r})\n"
        f"study.NOTEBOOKS.clear(); study.NOTEBOOKS.update({PLAN!r})\n"
        f"sys.exit(cli.main(['study', '--out', {str(tmp_path / 'study')!r}]))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (marker.exists() and marker.read_text()):
        time.sleep(0.1)
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == code, error
    assert "Traceback" not in error
    assert read_record(tmp_path / "study" / "run.json")["status"] == "interrupted"
    assert read_record(tmp_path / "study" / "small.run.json")["status"] == "interrupted"
    assert not Path(f"/proc/{marker.read_text()}").exists()


def test_tables_worked_by_hand():
    emergence = pd.DataFrame(
        [
            ("b.0", "noise", 0, "val", 0.8),
            ("b.1", "noise", 0, "val", 0.7),
            ("b.0", "noise", 0, "test", 0.5),
            ("b.1", "noise", 0, "test", 0.9),  # better on test, and rightly not chosen
            ("b.1", "noise", 9, "val", 0.6),
            ("b.1", "noise", 9, "test", 0.65),
            ("b.0", "reference", 0, "val", 0.6),
            ("b.0", "reference", 0, "test", 0.55),
        ],
        columns=["block", "stream", "step", "split", "value"],
    ).assign(probe="linear", labels="grounding", control="none", seed=0)
    table = page.separability_by_step(emergence)
    assert list(table.columns) == ["step 0", "step 9"]
    assert table.loc[("grounding", "noise")].tolist() == [0.5, 0.65]
    assert table.loc[("grounding", "reference"), "step 0"] == 0.55
    row = {"dataset": "scenes", "split": "test", "method": "full", "metric": "miou"}
    row |= {"value": 0.5, "low": 0.4, "high": 0.6, "n_expected": 8, "n_ok": 8, "n_error": 0}
    scores = page.segmentation_scores(pd.DataFrame([row]))
    assert scores.loc[("scenes", "test", "full", 8, 0), "miou"] == "0.50 [0.40, 0.60]"


def test_an_unknown_notebook_lists_those_there_are():
    with pytest.raises(UnknownNameError, match="unknown notebook '99_none'"):
        study.notebook_path("99_none")
