from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

settings.register_profile("patient", deadline=None, print_blob=True)  # nothing here is timed
settings.load_profile("patient")

# Under nohup or a shell's `&` Ctrl-C is ignored, and programs started here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Commands set variables of their process, which here is that of the other tests too."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """The table of an evaluation in one process, in one go."""
    from evaluation_runs import run, table

    out = tmp_path_factory.mktemp("runs") / "whole"
    run(out)
    return table(out)


@pytest.fixture(scope="module")
def instances() -> dict[str, Any]:
    """Of the sample of COCO."""
    from refcoco_files import COCO

    return json.loads((COCO / "instances.json").read_text())


@pytest.fixture(scope="module")
def refs(instances: dict[str, Any]) -> list[dict[str, Any]]:
    """Two sentences for every second annotation, crowds included; some of another split."""
    return [
        {
            "ref_id": number,
            "ann_id": annotation["id"],
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "file_name": f"COCO_train2014_{annotation['image_id']:012d}_{number}.jpg",
            "split": "train" if annotation["image_id"] % 7 == 0 else "val",
            "sent_ids": [2 * number, 2 * number + 1],
            "sentences": [
                {
                    "sent_id": 2 * number,
                    "sent": f"caf\xe9 {number}",
                    "raw": "Caf\xe9!",
                    "tokens": [],
                },
                {"sent_id": 2 * number + 1, "sent": "left man", "raw": "Left man", "tokens": []},
            ],
        }
        for number, annotation in enumerate(instances["annotations"][::2])
    ]


@pytest.fixture
def sample_counts(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The sample's own counts in place of the published ones."""
    if "refs" not in request.fixturenames:
        return
    from ground_probe.datasets import refcoco

    refs = [ref for ref in request.getfixturevalue("refs") if ref["split"] == "val"]
    expected = refcoco.Expected(len({ref["image_id"] for ref in refs}), len(refs), 2 * len(refs))
    monkeypatch.setitem(refcoco.COLLECTIONS["refcoco_unc"].splits, "val", expected)
