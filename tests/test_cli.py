from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import ground_probe as gp
from ground_probe import cli, testing
from ground_probe.run_record import read_record
from ground_probe.study import run

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "refer-sample"

COMMANDS = tuple(command.__name__.rpartition(".")[2] for command in cli.COMMANDS)


def refusal(capsys, *argv: str) -> str:
    """The one line that a mistake gets, after checking that it is one line and exit code 2."""
    assert cli.main(argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("ground-probe: ")
    return lines[0]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)).save(path)
    return str(path)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert f"example:\n  ground-probe {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_of_the_help_is_accepted(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    example = capsys.readouterr().out.strip().splitlines()[-1]
    cli.parser().parse_args(shlex.split(example)[1:])


def test_help_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; from ground_probe import cli\n"
        "try: cli.main(['segment', '--help'])\nexcept SystemExit: pass\n"
        "print([n for n in ('torch', 'pandas', 'numpy', 'papermill') if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.endswith("\n[]\n"), result.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "required: COMMAND"),
        (("stdy",), "unknown command 'stdy'"),
        (("stdy",), "did you mean 'study'?"),
        (("study", "--limt", "3"), "unrecognized arguments: --limt"),
        (("study", "--limit", "0"), "'0' is no whole number above 0"),
        (("study", "--limit", "many"), "'many' is no whole number above 0"),
        (("study", "--seed", "x"), "invalid int value: 'x'"),
        (("study", "--dataset", "scene"), "unknown dataset 'scene': choose one of scenes"),
        (("study", "--limit", "4"), "limit is 4: give at least 5, the folds of images"),
        (("study", "--model", "tny"), "no model 'tny' (did you mean 'tiny'?)"),
        (("evaluate",), "required: --out"),
        (("evaluate", "--out", "x", "--shard", "4/4"), "shard 4/4 does not exist: give i/n"),
        (("evaluate", "--out", "x", "--workers", "few"), "give a number, ray or ray:N"),
        (("evaluate", "--out", "x", "--dataset", "coco"), "unknown dataset 'coco'"),
        (("evaluate", "--out", "x", "--split", "tset"), "did you mean 'test'?"),
        (
            ("evaluate", "--out", "x", "--dataset", "refcoco_unc", "--split", "testa"),
            "did you mean 'testA'?",
        ),
        (("evaluate", "--out", "x", "--dtype", "float31"), "did you mean 'float32'?"),
        (("evaluate", "--out", "x", "--device", "foo"), "device 'foo' cannot be used here"),
        (("study", "--device", "cuda:99"), "device 'cuda:99' cannot be used here"),
        (("calibrate", "--out", "x", "--device", "meta"), "device 'meta' cannot be used here"),
        (("study", "--recipe", "none.json"), "none.json"),
    ],
)
def test_a_mistake_gets_one_line_and_code_2(argv, message, capsys):
    assert message in refusal(capsys, *argv)


def test_a_photo_s_mistakes_are_named_before_a_model_is_loaded(photo, tmp_path, capsys):
    assert "no such file: none.jpg" in refusal(capsys, "segment", "none.jpg", "left man")
    assert "the expression is empty" in refusal(capsys, "segment", photo, " ")
    assert "is no sound image" in refusal(capsys, "segment", __file__, "left man")
    assert "is no regular file" in refusal(capsys, "segment", str(tmp_path), "left man")
    away = str(tmp_path / "none" / "mask.png")
    assert "there is no folder" in refusal(capsys, "segment", photo, "man", "-o", away)
    assert "there is no folder" in refusal(capsys, "segment", photo, "man", "--overlay", away)


def test_an_unknown_model_is_named(photo, tmp_path, capsys):
    target = str(tmp_path / "mask.png")
    said = refusal(capsys, "segment", photo, "left man", "--model", "tny", "-o", target)
    assert "no model 'tny'" in said
    assert not (tmp_path / "mask.png").exists()


def test_a_folder_that_cannot_be_written_is_named(photo, capsys):
    assert "cannot make the output folder" in refusal(
        capsys, "calibrate", "--out", f"{photo}/recipe.json"
    )


def test_ctrl_c_ends_with_130(monkeypatch, capsys):
    def interrupted(**options):
        raise KeyboardInterrupt

    monkeypatch.setattr("ground_probe.editors.models", interrupted, raising=False)
    assert cli.main(["models"]) == 130
    assert capsys.readouterr().err == "ground-probe: interrupted; repeat the command to go on\n"


PROGRAM = (sys.executable, "-c", "import sys; from ground_probe import cli; sys.exit(cli.main())")


@pytest.mark.parametrize("command", [["models"], ["plan", "--model", "tiny", "--json"]])
def test_a_reader_that_goes_away_is_no_error(command):
    with subprocess.Popen([*PROGRAM, *command], stdout=subprocess.PIPE, stderr=-1) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_standard_output_is_said():
    with open("/dev/full", "w") as full:
        result = subprocess.run([*PROGRAM, "models"], stdout=full, stderr=-1, text=True)
    (line,) = result.stderr.splitlines()
    assert result.returncode == 2 and line.startswith("ground-probe: No space left on device")


@pytest.mark.parametrize("seconds", [0.5, 3, 6])
def test_a_study_that_is_terminated_says_so_whenever(seconds, tmp_path):
    command = [*PROGRAM, "study", "--limit", "5", "--out", str(tmp_path / "study"), "--quiet"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(seconds)
        process.terminate()
        try:
            said = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    if seconds > 1:  # before, Python itself may not have begun
        assert process.returncode == 143
        assert said == "ground-probe: terminated; repeat the command to go on\n"
    assert "Traceback" not in said


def test_no_escape_of_a_file_s_name_reaches_the_terminal(capsys):
    said = refusal(capsys, "segment", "no\x1b[31m\udce9.png", "man")
    assert said.endswith(r"no such file: no\x1b[31m\udce9.png")


def test_quiet_is_quiet(photo, tmp_path):
    command = ["segment", photo, "circle", "-o", str(tmp_path / "mask.png"), "--quiet"]
    result = subprocess.run([*PROGRAM, *command], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_plan_knows_no_negative_sizes(capsys):
    assert cli.main(["plan", "--model", "tiny"]) == 0
    assert not re.search(r" -\d", capsys.readouterr().out)


FOREIGN = {"--repo-type", "--revision", "--include", "--verify", "--porcelain", "--log-level"}
"""Of the hub's command, git and Jupyter."""
LOADS = {"segment", "explore", "evaluate", "calibrate", "study"}
REACHED_FROM = {  # which commands may say what a module says; the longest prefix counts
    "cli.loading": LOADS,
    "cli.options": {"segment", "explore"},
    "datasets": {"evaluate", "calibrate", "study", "doctor"},
    "editors": LOADS,
    "evaluation": {"evaluate"},
    "study": {"study"},
    "study.calibrate": {"calibrate"},
    "study.plan": LOADS | {"plan"},
    "study.explorer": {"explore"},
}
PACKAGE = Path(cli.__file__).parents[1]


def options() -> dict[str, set[str]]:
    """The options of every command."""
    (commands,) = (a for a in cli.parser()._actions if isinstance(a.choices, dict))
    return {
        name: {option for action in sub._actions for option in action.option_strings}
        for name, sub in commands.choices.items()
    }


def said_by(module: str) -> set[str]:
    """The commands that may say what a module says."""
    if module.startswith("cli.") and module not in REACHED_FROM:
        return {module.removeprefix("cli.")} & set(COMMANDS)
    prefixes = [name for name in REACHED_FROM if f"{module}.".startswith(f"{name}.")]
    return REACHED_FROM[max(prefixes, key=len)] if prefixes else set(COMMANDS)


def strange_options(module: str, text: str) -> list[str]:
    """`--words` of a module's messages that a command which may say them does not have."""
    strange, known = [], options()
    tree = ast.parse(text)
    docstrings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr | ast.Constant) or node in docstrings:
            continue
        message = ast.unparse(node)
        if re.fullmatch(r"'--[a-z-]+'", message) and module.startswith("cli."):
            continue  # where it is declared
        for match in re.finditer(r"(?<![\w-])--[a-z][a-z-]+", message):
            named = re.findall(
                rf"(?:`|ground-probe )({'|'.join(COMMANDS)})\b", message[: match.start()]
            )
            for command in named[-1:] or said_by(module):
                if match[0] not in known[command] | FOREIGN:
                    strange.append(f"{module}: {match[0]} is no option of {command}")
    return strange


def test_options_that_messages_name_exist():
    paths = sorted(PACKAGE.rglob("*.py"))
    names = [".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in paths]
    lines = [strange_options(n, p.read_text()) for n, p in zip(names, paths, strict=True)]
    assert sorted({line for found in lines for line in found}) == []


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("datasets.hub", "'give --dir'"),
        ("study.plan.plan", "f'{1}: try --drop'"),
        ("cli.study", "'try --gpu'"),
    ],
)
def test_an_option_that_does_not_exist_is_found(module, message):
    assert strange_options(module, f"print({message})")


def test_every_command_that_takes_data_takes_a_root_and_every_one_that_segments_a_recipe():
    known = options()
    assert {name for name, has in known.items() if "--dataset" in has and "--root" not in has} == {
        "plan"  # which reads no data
    }
    assert {n for n, has in known.items() if "--recipe" in has} >= {
        "segment", "explore", "evaluate", "study",
    }  # fmt: skip
    for name in run.NOTEBOOKS:
        takes = run.resolve_parameters(run.notebook_path(name), {})
        assert ("dataset" in takes) == ("root" in takes)
        assert ("recipe" in takes) == (name[:2] in ("00", "30", "40"))


def test_doctor_names_what_is_missing_and_the_command_that_gets_it(tmp_path, capsys):
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("\nready\n")
    assert cli.main(["doctor", "--dataset", "refcoco_unc", "--root", str(tmp_path), "--json"]) == 2
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert not found["ready"] and len(found["data"]) == 4
    assert len(found["problems"]) == 3, "nothing is evaluated on train"
    assert "hf download" in said.err and "train2014.zip" in found["data"][0]["fix"]
    assert cli.main(["doctor", "--model", "black-forest-labs/FLUX.1-Kontext-dev"]) == 2
    assert "HF_TOKEN" in capsys.readouterr().err


def test_json_is_the_answer_and_quiet_stills_the_progress(editor_folder, tmp_path):
    code = "import sys; from ground_probe import cli; sys.exit(cli.main())"
    command = ["evaluate", "--limit", "2", "--json", "--quiet", "--model", editor_folder]
    result = subprocess.run(
        [sys.executable, "-c", code, *command, "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and "%|" not in result.stderr
    found = json.loads(result.stdout)
    assert {row["n_ok"] for row in found["summary"]} == {2}


def test_completion_knows_the_commands(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--print-completion", "bash"])
    assert "calibrate" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out.strip() == gp.__version__


@pytest.fixture(scope="module")
def editor_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kontext")
    testing.kontext().save_pretrained(folder)
    return str(folder)


def test_a_photo_becomes_a_mask_of_its_size(editor_folder, photo, tmp_path, capsys):
    mask, seen = tmp_path / "mask.png", tmp_path / "seen.png"
    options = ("--model", editor_folder, "-o", str(mask), "--overlay", str(seen))
    assert cli.main(["segment", photo, "left man", *options]) == 0
    with Image.open(mask) as made, Image.open(seen) as laid:
        assert made.size == laid.size == (64, 48)
        assert made.mode == "L" and set(np.unique(made)) <= {0, 255}
        share = (np.asarray(made) > 0).mean()
    said = capsys.readouterr()
    assert f"{mask} {seen}: {share:.1%} of the image" in said.out
    assert "scenes" not in said.err


@pytest.mark.skipif(not SAMPLE.exists(), reason=f"the sample of real photos is not at {SAMPLE}")
@pytest.mark.parametrize("how", ["as it is", "turned", "grey", "alpha"])
def test_real_photos_in_every_form(how, editor_folder, tmp_path):
    sample = json.loads((SAMPLE / "samples.json").read_text())[0]
    upright = (sample["width"], sample["height"])
    with Image.open(SAMPLE / sample["image"]) as file:
        image, exif = file.convert("RGB"), Image.Exif()
    if how == "turned":
        image, exif[0x0112] = image.transpose(Image.Transpose.ROTATE_90), 6
    elif how == "grey":
        image = image.convert("L")
    elif how == "alpha":
        image.putalpha(128)
    path, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    image.save(path, exif=exif)
    options = ("--model", editor_folder, "-o", str(mask))
    assert cli.main(["segment", str(path), sample["sentences"][0], *options]) == 0
    with Image.open(mask) as made:
        assert made.size == upright


def test_an_evaluation_runs_in_shards_and_resumes(editor_folder, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["evaluate", "--model", editor_folder, "--limit", "4", "--out", str(out)]
    for shard in ("0/2", "1/2"):
        assert cli.main([*command, "--shard", shard]) == 0
    assert f"Results: {out}" in capsys.readouterr().out
    assert read_record(out / "run.json")["status"] == "success"
    rows = pd.read_parquet(out / "rows.parquet")
    assert len(rows) == 4 and set(rows["status"]) == {"ok"}
    assert cli.main([*command, "--seed", "1"]) == 2  # another run is not mixed in
    assert str(out) in capsys.readouterr().err.splitlines()[-1]


def test_a_failed_sentence_fails_the_command(editor_folder, tmp_path, monkeypatch, capsys):
    split = gp.load_split("cartoons", "test", limit=3)

    def failing(editor, image, expression, recipe=None, seed=0):
        if expression == split.expressions[1]:
            raise ValueError("no such thing")
        return np.ones((image.height, image.width), bool)

    monkeypatch.setattr("ground_probe.evaluation.job.segment", failing)
    out = str(tmp_path / "out")
    command = ["evaluate", "--model", editor_folder, "--limit", "3", "--out", out]
    assert cli.main(command) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "ground-probe: 1 results failed and are not waived"
    assert read_record(tmp_path / "out" / "run.json")["status"] == "error"
    assert cli.main([*command, "--waive", split.keys[1]]) == 0
    assert read_record(tmp_path / "out" / "run.json")["status"] == "success"
    assert cli.main([*command[:-1], ""]) == 2
    assert "the output folder has no name" in capsys.readouterr().err
