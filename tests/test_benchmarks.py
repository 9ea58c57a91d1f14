"""Benchmarks beside RefCOCO: folders in their true formats, from the reader to the report."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco

import ground_probe as gp
from ground_probe import cli
from ground_probe.datasets import check_data, hub, refcoco
from ground_probe.errors import InputError
from ground_probe.evaluation import by_metric, mask_of
from ground_probe.study import collect_report
from ground_probe.study.page import segmentation_scores
from ground_probe.study.run import notebook_path, run_notebook

SIZE = (64, 64)
LEFT, RIGHT = [[4, 4, 20, 4, 20, 20, 4, 20]], [[32, 8, 56, 8, 56, 24, 32, 24]]
CROWD = {"size": [*SIZE], "counts": [0, 640, SIZE[0] * SIZE[1] - 640]}
NO_COUNTS = refcoco.Expected(None, None, None)


def box(*corners, size=SIZE):
    x0, y0, x1, y1 = corners
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


LEFT_MASK, RIGHT_MASK = box(4, 4, 20, 20), box(32, 8, 56, 24)


def photo(path, seed, size=SIZE, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    colors = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(colors).save(path, **how)


def sentence(number, text):
    return {"sent_id": number, "sent": text, "raw": text.title(), "tokens": text.split()}


INSTANCES = {
    "images": [
        {"id": i, "file_name": f"COCO_{part}2014_{i:012d}.jpg", "height": SIZE[0], "width": SIZE[1]}
        for i, part in ((1, "train"), (2, "val"))
    ],
    "annotations": [
        {"id": 10, "image_id": 1, "segmentation": LEFT, "iscrowd": 0, "bbox": [4, 4, 16, 16]},
        {"id": 11, "image_id": 1, "segmentation": RIGHT, "iscrowd": 0, "bbox": [32, 8, 24, 16]},
        {"id": 12, "image_id": 1, "segmentation": CROWD, "iscrowd": 1, "bbox": [0, 0, 10, 64]},
        {"id": 20, "image_id": 2, "segmentation": LEFT, "iscrowd": 0, "bbox": [4, 4, 16, 16]},
    ],
    "categories": [{"id": 1, "name": "person"}],
}
GREFS = [
    {"ref_id": 1, "ann_id": [10], "image_id": 1, "split": "val", "category_id": [1],
     "sentences": [sentence(1, "left man")], "no_target": False},
    {"ref_id": 2, "ann_id": [10, 11, 12], "image_id": 1, "split": "val", "category_id": [1, 1, 1],
     "sentences": [sentence(2, "both men"), sentence(3, "everyone")], "no_target": False},
    {"ref_id": 3, "ann_id": [-1], "image_id": 1, "split": "val", "category_id": [-1],
     "sentences": [sentence(4, "the kid in blue")], "no_target": True},
    {"ref_id": 4, "ann_id": [-1], "image_id": 2, "split": "val", "category_id": [-1],
     "sentences": [sentence(5, "a zebra")], "no_target": True},
    {"ref_id": 5, "ann_id": 20, "image_id": 2, "split": "train", "category_id": 1,
     "sentences": [sentence(6, "man")], "no_target": False},
]  # fmt: skip


def write_grefcoco(root, refs=GREFS, form="json"):
    folder = root / "grefcoco"
    folder.mkdir(parents=True)
    if form == "json":
        (folder / "grefs(unc).json").write_text(json.dumps(refs))
    else:
        (folder / "grefs(unc).p").write_bytes(pickle.dumps(refs))
    (folder / "instances.json").write_text(json.dumps(INSTANCES))
    photo(root / "train2014" / "COCO_train2014_000000000001.jpg", 1)
    photo(root / "val2014" / "COCO_val2014_000000000002.jpg", 2)
    return root


@pytest.fixture
def grefcoco(tmp_path, monkeypatch):
    counted = refcoco.Expected(2, 4, 5)
    monkeypatch.setitem(refcoco.COLLECTIONS["grefcoco"].splits, "val", counted)
    return write_grefcoco(tmp_path / "data")


def test_grefcoco_refers_to_one_to_several_and_to_nothing(grefcoco, tmp_path):
    split = gp.load_split("grefcoco", "val", root=grefcoco)
    assert split.expressions == ("left man", "both men", "everyone", "the kid in blue", "a zebra")
    one, both, _, none, other = list(split)
    np.testing.assert_array_equal(one.mask, LEFT_MASK)
    np.testing.assert_array_equal(both.mask, LEFT_MASK | RIGHT_MASK)  # without the crowd
    assert not none.mask.any() and not other.mask.any() and other.mask.shape == SIZE
    assert both.distractors == () and other.distractors == ()
    np.testing.assert_array_equal(one.distractors, [RIGHT_MASK])
    np.testing.assert_array_equal(none.distractors, [LEFT_MASK, RIGHT_MASK])
    assert none.others == ("left man", ""), "no text refers to the right man alone"
    pickled = gp.load_split("grefcoco", "val", root=write_grefcoco(tmp_path / "p", form="p"))
    assert (pickled.keys, pickled.revision) == (split.keys, split.revision)
    named = [ref | {"ann_id": [11]} if ref["ref_id"] == 3 else ref for ref in GREFS]
    again = gp.load_split("grefcoco", "val", root=write_grefcoco(tmp_path / "other", named))
    assert again.revision != split.revision
    crowd = [GREFS[0] | {"ann_id": [12]}, *GREFS[1:]]
    with pytest.raises(InputError, match=r"ref 1: of its annotations \[12\] all are crowds"):
        gp.load_split("grefcoco", "val", root=write_grefcoco(tmp_path / "crowd", crowd))


def test_a_folder_of_the_same_name_does_not_hide_the_data_set(grefcoco, monkeypatch):
    monkeypatch.chdir(grefcoco)
    assert len(gp.load_split("grefcoco", "val", root=".")) == 5


def answers(editor, image, expression, **how):
    """All right, then half, everything, nothing, and something where nothing is."""
    return {
        "left man": LEFT_MASK,
        "both men": LEFT_MASK,
        "everyone": np.ones(SIZE, bool),
        "the kid in blue": np.zeros(SIZE, bool),
        "a zebra": RIGHT_MASK,
    }[expression]


def test_generalized_metrics_equal_a_table_by_hand(grefcoco, tmp_path):
    split = gp.load_split("grefcoco", "val", root=grefcoco)
    result = gp.evaluate(None, split, tmp_path / "run", segment=answers)
    left, right, pixels = 16 * 16, 24 * 16, SIZE[0] * SIZE[1]
    both = left + right
    by_hand = {
        "miou": (1 + left / both + both / pixels) / 3,  # of those that refer to something
        "oiou": (left + left + both) / (left + both + pixels),
        "p@0.5": 1 / 3,
        "giou": (1 + left / both + both / pixels + 1 + 0) / 5,
        "ciou": (left + left + both) / (left + both + pixels + 0 + right),
        "n_acc": 1 / 2,
        "t_acc": 1.0,
    }
    values = by_metric(result.summary, "method").loc["full"]
    assert values[list(by_hand)].to_dict() == pytest.approx(by_hand)
    assert "box@0.5" not in values, "the box around several objects is no answer"
    none = result.summary.set_index("metric").loc["n_acc"]
    assert none["low"] == 0 and none["high"] == 1, "two images, one right"
    parts = pd.read_csv(tmp_path / "run" / "breakdown.csv")
    sizes = parts[(parts.by == "object size") & (parts.metric == "n_acc")].set_index("level")
    assert sizes.loc["none", "value"] == 0.5 and np.isnan(sizes.loc["small", "value"])


def test_two_runs_are_compared_where_expressions_refer_to_nothing(grefcoco, tmp_path):
    split = gp.load_split("grefcoco", "val", root=grefcoco)

    def nothing(editor, image, expression, **how):
        return np.zeros(SIZE, bool)

    for name, segment in (("a", answers), ("b", nothing)):
        gp.evaluate(None, split, tmp_path / name, segment=segment)
    table = gp.compare_runs(tmp_path / "a", tmp_path / "b")
    whole = table[table["by"] == "all"].set_index("metric")
    assert whole.loc["n_acc", ["a", "b", "difference"]].tolist() == [0.5, 1.0, 0.5]
    assert whole.loc["t_acc", ["a", "b", "difference"]].tolist() == [1.0, 0.0, -1.0]
    none = table[(table["level"] == "none") & (table["metric"] == "t_acc")]
    assert none[["a", "b", "difference"]].isna().all(axis=None)


def test_the_best_mask_of_nothing_is_none(grefcoco, tmp_path):
    split = gp.load_split("grefcoco", "val", root=grefcoco)
    editor = gp.load_editor("tiny", device="cpu")
    result = gp.evaluate(editor, split, tmp_path / "run", methods=("ceiling",))
    values = by_metric(result.summary, "method").loc["ceiling"]
    assert values["n_acc"] == 1 and values["t_acc"] == 1 and values["giou"] > 0.7


def test_the_command_evaluates_it_and_the_report_shows_it(grefcoco, tmp_path, capsys):
    argv = ["evaluate", "--dataset", "grefcoco", "--split", "val", "--root", str(grefcoco)]
    out = tmp_path / "runs" / "gref"
    assert cli.main([*argv, "--out", str(out), "--method", "full", "--method", "whole_image"]) == 0
    assert {"giou", "ciou", "n_acc", "t_acc"} <= set(capsys.readouterr().out.split())
    report = collect_report(tmp_path / "runs")
    shown = segmentation_scores(report.summary)
    assert list(shown.columns)[-4:] == ["giou", "ciou", "n_acc", "t_acc"]
    assert report.state[["sentences", "of"]].iloc[0].tolist() == [5, 5]
    whole = by_metric(report.summary, "method").loc["whole_image"]
    assert whole["n_acc"] == 0 and whole["t_acc"] == 1
    page = tmp_path / "report"
    page.mkdir()
    run_notebook(notebook_path("90_report"), page, {"folder": str(tmp_path / "runs")})
    assert "n_acc" in (page / "90_report.html").read_text()


REFZOM = [
    {"ref_id": 1, "ann_id": 10, "image_id": 1, "split": "test", "source": "one",
     "file_name": "COCO_train2014_000000000001.jpg", "sentences": [sentence(1, "left man")]},
    {"ref_id": 2, "ann_id": [10, 11], "image_id": 1, "split": "test", "source": "many",
     "file_name": "COCO_train2014_000000000001.jpg", "sentences": [sentence(2, "two men")]},
    {"ref_id": 3, "ann_id": [20], "image_id": 2, "split": "test", "source": "zero",
     "file_name": "COCO_val2014_000000000002.jpg", "sentences": [sentence(3, "a zebra")]},
]  # fmt: skip


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("name", ["refs(final).p", "Ref-ZOM(final).p"])
def test_ref_zom_says_by_its_source_that_there_is_no_target(tmp_path, monkeypatch, merged, name):
    monkeypatch.setitem(refcoco.COLLECTIONS["ref-zom"].splits, "test", NO_COUNTS)
    root = write_grefcoco(tmp_path / "data")
    (root / "grefcoco").rename(root / "ref-zom")
    refs = json.loads(json.dumps(REFZOM))
    for ref in refs:  # its loader reads `raw` alone
        for each in ref["sentences"]:
            del each["sent"]
    (root / "ref-zom" / name).write_bytes(pickle.dumps(refs))
    if merged:
        (root / "trainval2014").mkdir()
        for part in ("train2014", "val2014"):
            for path in (root / part).iterdir():
                path.rename(root / "trainval2014" / path.name)
            (root / part).rmdir()
    split = gp.load_split("ref-zom", "test", root=root)
    assert split.expressions == ("Left Man", "Two Men", "A Zebra")
    masks = [example.mask for example in split]
    np.testing.assert_array_equal(masks, [LEFT_MASK, LEFT_MASK | RIGHT_MASK, np.zeros(SIZE, bool)])
    assert check_data("ref-zom", "test", root, deep=True).ok


def runs(mask):
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [*mask.shape], "counts": code["counts"].decode()}


def write_refcoco_m(root, tmp_path):
    """The features of the dataset card, in two files."""
    (root / "data").mkdir(parents=True)
    kind = pa.struct({
        "id": pa.int64(), "image_id": pa.int64(), "category": pa.string(),
        "supercategory": pa.string(), "label": pa.string(), "sentences": pa.list_(pa.string()),
        "bbox": pa.list_(pa.float32()),
        "mask": pa.struct({"counts": pa.string(), "size": pa.list_(pa.int32())}),
    })  # fmt: skip
    for part, objects in enumerate(([LEFT_MASK, RIGHT_MASK], [LEFT_MASK])):
        photo(tmp_path / f"{part}.png", part)
        samples = [
            {"id": 100 * part + at, "image_id": part, "category": "person", "label": "person",
             "supercategory": "person", "sentences": [f"man {at}", "he"], "bbox": [0.0] * 4,
             "mask": runs(mask)}
            for at, mask in enumerate(objects)
        ]  # fmt: skip
        image = {"bytes": (tmp_path / f"{part}.png").read_bytes(), "path": f"{part}.png"}
        table = pa.table({
            "image": pa.array([image]),
            "image_id": pa.array([part], pa.int64()),
            "file_name": pa.array([f"COCO_train2014_{part:012d}.jpg"]),
            "samples": pa.array([samples], pa.list_(kind)),
        })  # fmt: skip
        pq.write_table(table, root / "data" / f"validation-0000{part}-of-00002.parquet")
    return root


def test_refcoco_m_is_read_from_its_parquet(tmp_path, monkeypatch):
    root = write_refcoco_m(tmp_path / "data", tmp_path)
    check = check_data("refcoco-m", "val", root)
    assert not check.ok and "has 2 images, expected 1,190" in check.found
    counted = refcoco.Expected(2, 3, 6)
    monkeypatch.setitem(refcoco.COLLECTIONS["refcoco-m"].splits, "val", counted)
    split = gp.load_split("refcoco-m", "val", root=root)
    assert split.expressions == ("man 0", "he", "man 1", "he", "man 0", "he")
    np.testing.assert_array_equal(split[2].mask, RIGHT_MASK)
    np.testing.assert_array_equal(split[2].distractors, [LEFT_MASK])
    assert check_data("refcoco-m", "val", root, deep=True).ok
    result = gp.evaluate(None, split, tmp_path / "run", segment=lambda *a, **how: LEFT_MASK)
    values = by_metric(result.summary, "method").loc["full"]
    assert values["box@0.5"] == values["p@0.5"] == pytest.approx(4 / 6)


def test_every_published_split_has_a_home_and_counts(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    said = {
        "refcoco-m": r"about 0.6 GB .*hf download moondream/refcoco-m .*data/validation-\*",
        "grefcoco": r"not on the hub: give --root; .*henghuiding/gRefCOCO.*grefs\(unc\)\.json",
        "ref-zom": r"not on the hub: give --root; .*RIS-DMMI.*ref-zom/refs\(final\)\.p",
        "reasonseg": r"not on the hub: give --root; .*LISA.*ReasonSeg/",
    }
    for name, message in said.items():
        for split in refcoco.COLLECTIONS[name].splits:
            with pytest.raises(InputError, match=message):
                gp.load_split(name, split)
            with pytest.raises(InputError, match=r"holds no .*: expected .*; .*"):
                gp.load_split(name, split, root=tmp_path / "none")
    total = sum(each.sentences for each in refcoco.COLLECTIONS["grefcoco"].splits.values())
    images = sum(each.images for each in refcoco.COLLECTIONS["grefcoco"].splits.values())
    assert (images, total) == (19_994, 259_859), "of the paper, and of the file"
    zom = refcoco.COLLECTIONS["ref-zom"].splits
    assert zom["train"].images + zom["test"].images == 55_078
    assert hub.find(tmp_path, "grefcoco", "val") == []


def write_reasonseg(folder):
    """A target with a hole that is ignored, in a photo that its EXIF data turn; and nothing."""

    def shape(label, *points):
        return {"label": label, "labels": [label], "shape_type": "polygon", "points": points}

    target = shape("target", [4.9, 4.2], [19, 4], [19, 19], [4, 19])
    inner = shape("ignore", [8, 8], [11, 8], [11, 11], [8, 11])
    flag = shape("flag", [0, 0], [63, 0], [63, 47])
    exif = Image.Exif()
    exif[274] = 6
    photo(folder / "a.jpg", 0, (48, 64), exif=exif)  # seen, it is 64 rows of 48
    note = {"text": ["the café\u2019s owner", "who owns it"], "is_sentence": True,
            "shapes": [inner, flag, target]}  # fmt: skip
    (folder / "a.json").write_bytes(json.dumps(note, ensure_ascii=False).encode("cp1252"))
    photo(folder / "b.jpg", 1)
    note = {"text": ["nobody"], "is_sentence": False, "shapes": []}
    (folder / "b.json").write_text(json.dumps(note))


def test_reasonseg_ignores_what_its_annotation_leaves_open(tmp_path, monkeypatch):
    splits = refcoco.COLLECTIONS["reasonseg"].splits
    for name in ("train", "val"):
        monkeypatch.setitem(splits, name, replace(splits[name], images=2, refs=2, sentences=None))
        write_reasonseg(tmp_path / "ReasonSeg" / name)
    split = gp.load_split("reasonseg", "val", root=tmp_path)
    assert split.keys == ("reasonseg/val/a/0", "reasonseg/val/b/0")
    assert split.expressions == ("the café\u2019s owner", "nobody"), "the first instruction"
    assert len(gp.load_split("reasonseg", "train", root=tmp_path)) == 3
    example, nothing = split
    hole, around = box(8, 8, 12, 12, size=(64, 48)), box(4, 4, 20, 20, size=(64, 48))
    assert example.image.size == (48, 64)
    np.testing.assert_array_equal(example.mask, around & ~hole)  # outlines belong to a shape
    np.testing.assert_array_equal(example.ignored, hole)
    assert not nothing.mask.any() and nothing.ignored is None

    def segment(editor, image, expression, **how):
        return around if image.size == (48, 64) else np.zeros(SIZE, bool)

    result = gp.evaluate(None, split, tmp_path / "run", segment=segment)
    assert result.rows["inter_px"].tolist() == [256 - 16, 0], "neither right nor wrong"
    values = by_metric(result.summary, "method").loc["full"]
    assert values["giou"] == values["ciou"] == values["n_acc"] == 1
    np.testing.assert_array_equal(mask_of(result.rows.iloc[0]), around & ~hole)
    assert check_data("reasonseg", "val", tmp_path, deep=True).ok


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ("{", "is no annotation of ReasonSeg"),
        ({"text": [], "shapes": []}, r"text: \[\] is no list of texts"),
        ({"text": "one", "shapes": []}, "text: 'one' is no list of texts"),
        ({"text": ["one"]}, "is no annotation of ReasonSeg: KeyError"),
        ({"text": ["one"], "shapes": [{"label": "target", "points": [[1]]}]}, "is no annotation"),
        ({"text": ["one"], "shapes": [{"label": "target", "points": [[900, 1]]}]}, "lies outside"),
        (None, "no such file: .*b.json"),
    ],
)
def test_a_damaged_annotation_is_named(tmp_path, monkeypatch, note, message):
    monkeypatch.setitem(refcoco.COLLECTIONS["reasonseg"].splits, "val", NO_COUNTS)
    write_reasonseg(tmp_path / "val")
    if note is None:
        (tmp_path / "val" / "b.json").unlink()
    else:
        text = note if isinstance(note, str) else json.dumps(note)
        (tmp_path / "val" / "b.json").write_text(text)
    with pytest.raises(InputError, match=message):
        list(gp.load_split("reasonseg", "val", root=tmp_path))
