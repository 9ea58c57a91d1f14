"""Notebook 50 on a few small examples, and the study's on an editor without reference tokens."""

from __future__ import annotations

import pandas as pd
import pytest

from ground_probe.study import run as study
from ground_probe.testing import instruct_pix2pix


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


SMALL = {"steps": [0, 3], "noise_seeds": 1, "fit_limit": 10, "causal_limit": 4}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "more"), [("10_emergence", SMALL), ("20_where_and_what", {}), ("30_segmentation", {})]
)
def test_notebooks_run_on_an_editor_without_reference_tokens(name, more, tmp_path):
    instruct_pix2pix().save_pretrained(tmp_path / "unet")
    given = {"model": str(tmp_path / "unet"), "dataset": "scenes", "limit": 8, **more}
    record = study.run_notebook(study.notebook_path(name), tmp_path, given)
    assert record["status"] == "success" and record["verdicts"]
