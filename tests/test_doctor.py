"""`ground-probe doctor` on data: the hub's splits, one split, one's own rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from ground_probe import cli, datasets
from ground_probe.datasets import DataCheck


def said(capsys, *argv):
    code = cli.main(["doctor", "--json", *argv])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


@pytest.fixture
def hub_only(monkeypatch):
    """What a machine has after the README's downloads: no training split."""

    def check(dataset, split, root=None, deep=False):
        return DataCheck(dataset, split, split != "train", "seen" + " deep" * deep, "fetch it")

    monkeypatch.setattr(datasets, "check_data", check)


def test_it_is_ready_with_the_hub_s_data(hub_only, capsys):
    code, answer, _ = said(capsys, "--dataset", "refcoco_unc")
    assert code == 0 and answer["ready"]
    assert [c["ok"] for c in answer["data"]] == [False, True, True, True]
    code, answer, err = said(capsys, "--dataset", "refcoco_unc", "--split", "train")
    assert code == 2 and not answer["ready"] and "refcoco_unc train: fetch it" in err


def test_one_split_and_deep(hub_only, capsys):
    code, answer, _ = said(capsys, "--dataset", "refcoco_unc", "--split", "testA", "--deep")
    assert code == 0
    assert [(c["split"], c["found"]) for c in answer["data"]] == [("testA", "seen deep")]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--split", "val"], "--split val is of which data? name it by --dataset"),
        (["--dataset", "refcoco_unc", "--split", "test"], "unknown split of refcoco_unc 'test'"),
        (["--dataset", "refcoco"], "unknown dataset 'refcoco'"),
    ],
)
def test_names_that_do_not_exist(argv, message, capsys):
    assert cli.main(["doctor", *argv]) == 2
    assert message in capsys.readouterr().err


def test_one_s_own_rows(tmp_path, capsys):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg")
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(tmp_path / "grey.png")
    row = {"image": "a.jpg", "expression": "it", "mask": [[0, 0, 4, 0, 4, 4]], "split": "val"}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    code, answer, _ = said(capsys, "--dataset", str(path), "--deep")
    assert code == 0 and [c["split"] for c in answer["data"]] == ["val"]
    path.write_text(json.dumps(row | {"mask": "grey.png"}))
    assert cli.main(["doctor", "--dataset", str(path)]) == 0
    assert cli.main(["doctor", "--dataset", str(path), "--deep"]) == 2
    assert "not ready" in capsys.readouterr().err
    path.write_text(json.dumps(row | {"expression": None}))
    code, answer, _ = said(capsys, "--dataset", str(path))
    assert code == 2 and "line 1, expression: None is no text" in answer["data"][0]["found"]
