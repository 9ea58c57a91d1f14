"""A stranger's study runs as it is written."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "examples" / "probe_any_model.py"


def test_probe_any_model(capsys):
    runpy.run_path(str(SCRIPT))
    lines = capsys.readouterr().out.splitlines()
    found = [re.fullmatch(r"layer \d+: AUC (\S+) \[(\S+), (\S+)\], 60 images", x) for x in lines]
    assert len(found) == 13  # twelve layers and what goes into the first
    assert float(found[0][2]) > 0.6  # random projections of the patches keep the brighter ones


def test_it_takes_fewer_than_twenty_lines():
    code = [line for line in SCRIPT.read_text().splitlines() if line and line[0] not in '"#']
    study = [line for line in code if not line.startswith(("import", "from"))]
    assert len(study) < 20
