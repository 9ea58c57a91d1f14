"""The research scripts of `examples/` run as they are written, by public names alone."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def said(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [name])
    runpy.run_path(str(EXAMPLES / f"{name}.py"))
    return capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_takes_public_names_alone(path):
    text = path.read_text()
    assert len(text.splitlines()) < 40
    assert not re.search(r"(?:from|import) \S*\._|\b(?:gp|trace|editor|lens)\._", text)


def test_logit_lens(capsys, tmp_path, monkeypatch):
    text = said("logit_lens", capsys, tmp_path, monkeypatch)
    distances = [float(value) for value in re.findall(r": (\S+) from", text)]
    assert distances[-1] == 0 < distances[-2] < distances[0]
    assert (tmp_path / "logit_lens.png").is_file()


def test_attention_heads(capsys, tmp_path, monkeypatch):
    text = said("attention_heads", capsys, tmp_path, monkeypatch)
    assert re.match(r"1\.00 of 4 .*: single_transformer_blocks\.\d head \d", text)  # it grounds


def test_activation_patching(capsys, tmp_path, monkeypatch):
    lines = said("activation_patching", capsys, tmp_path, monkeypatch).splitlines()
    given, last = lines[-3], lines[-1]
    reference, text = 2, 3  # the words have moved to the reference by the second block
    assert float(given.split()[text]) > 0.5
    assert float(last.split()[text]) < 0.5 < float(last.split()[reference])


def test_steering(capsys, tmp_path, monkeypatch):
    lines = said("steering", capsys, tmp_path, monkeypatch).splitlines()[1:]
    curve = {
        float(dose): (float(meant), float(steered))
        for dose, meant, steered in map(str.split, lines)
    }
    assert curve[0][0] > curve[0][1] and curve[4][0] < curve[4][1]  # the edit moves over


def test_cka_of_two_editors(capsys, tmp_path, monkeypatch):
    text = said("cka_of_two_editors", capsys, tmp_path, monkeypatch)
    own, random = text.split("random weights")
    rows = [line.split()[1:] for line in own.splitlines() if line.startswith(("transf", "single"))]
    assert [row[at] for at, row in enumerate(rows)] == ["1.00"] * 8
    assert "1.00" not in random


def test_gradients(capsys, tmp_path, monkeypatch):
    lines = said("gradients", capsys, tmp_path, monkeypatch).splitlines()
    shares = {name: [float(v) for v in re.findall(r"\d\.\d\d", line)] for name, line in
              (line.split(":") for line in lines)}  # fmt: skip
    moved, tokens = shares["object meant"]
    assert moved > 2 * tokens, "the score of an object hangs on its own pixels"
    assert sum(moved for moved, _ in shares.values()) == pytest.approx(1, abs=0.02)
