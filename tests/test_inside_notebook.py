"""Notebook 50 on a few small examples: it ends in words, and its figures are there."""

from __future__ import annotations

import pandas as pd

from ground_probe.study import run as study


def test_the_notebook_ends_in_words(tmp_path):
    path = study.notebook_path("50_inside")
    given = {"limit": 5, "fit_limit": 5, "doses": [0.0, 4.0], "steps": [0]}
    record = study.run_notebook(path, tmp_path, given)
    assert record["status"] == "success" and record["verdicts"]
    made = {each.stem for each in tmp_path.rglob("*.png")}
    assert {"inside_lens", "inside_patching", "inside_steering", "inside_cka"} <= made
    (table,) = tmp_path.rglob("inside_lens.csv")
    lens = pd.read_csv(table)
    assert (lens.iloc[:, -1] == 0).all() and (lens.iloc[:, 0] > 0.5).all()
