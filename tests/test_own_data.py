"""Data of one's own: every form of rows and masks, and what is said of a row that is wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as coco

import ground_probe as gp
from ground_probe import cli
from ground_probe.datasets import check_data, splits_of
from ground_probe.errors import InputError, UnknownNameError
from ground_probe.study.spec import splits_of as study_splits

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "refer-sample"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"{SAMPLE} is not there")

BOX = np.zeros((6, 8), bool)
BOX[1:4, 2:7] = True
POLYGON = [[2, 1, 7, 1, 7, 4, 2, 4]]
RUNS = {"size": [6, 8], "counts": coco.encode(np.asfortranarray(BOX.astype(np.uint8)))["counts"]}
RUNS["counts"] = RUNS["counts"].decode()
ROW = {"image": "a.jpg", "expression": "the box", "mask": POLYGON}


@pytest.fixture
def folder(tmp_path):
    colors = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(colors).save(tmp_path / "a.jpg")
    Image.fromarray(BOX).save(tmp_path / "a.png")
    return tmp_path


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def runs(mask, plain):
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    if not plain:
        return {"size": [*mask.shape], "counts": code["counts"].decode()}
    flat = np.concatenate([[False], mask.T.ravel(), [True]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    return {"size": [*mask.shape], "counts": [*counts, mask.size - sum(counts)]}


def upper_half(editor, image, expression, **how):
    mask = np.zeros((image.height, image.width), bool)
    mask[: image.height // 2] = True
    return mask


@needs_sample
def test_real_sentences_have_equal_masks_in_every_form(tmp_path):
    referents = json.loads((SAMPLE / "samples.json").read_text())
    forms = {"png": [], "compressed": [], "plain": []}
    truth = []
    for each in referents:
        mask = np.asarray(Image.open(SAMPLE / each["mask"]).convert("L")) > 127
        truth += [mask] * len(each["sentences"])
        row = {"image": str(SAMPLE / each["image"]), "expressions": each["sentences"]}
        forms["png"].append(row | {"mask": str(SAMPLE / each["mask"])})
        forms["compressed"].append(row | {"mask": runs(mask, plain=False)})
        forms["plain"].append(row | {"mask": runs(mask, plain=True)})
    splits = [gp.load_split(write(tmp_path / f"{n}.jsonl", *r), "test") for n, r in forms.items()]
    assert {len(split) for split in splits} == {len(truth)} and len(truth) >= 33
    sentences = sorted(text for each in referents for text in each["sentences"])
    assert sorted(splits[0].expressions) == sentences
    for at in range(len(truth)):
        examples = [split[at] for split in splits]
        row, index = map(int, examples[0].key.split("/")[-2:])
        first = sum(len(each["sentences"]) for each in referents[: row - 1])
        for example in examples:
            np.testing.assert_array_equal(example.mask, truth[first + index])
            assert example.expression == referents[row - 1]["sentences"][index]
            assert example.mask.shape == (example.image.height, example.image.width)
    tables = [
        gp.evaluate(None, split, tmp_path / split.dataset, segment=upper_half).rows
        for split in splits
    ]
    judged = ["inter_px", "union_px", "pred_px", "gold_px", "box_inter_px", "box_union_px", "mask"]
    assert tables[0]["status"].eq("ok").all() and tables[0]["inter_px"].gt(0).any()
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table[judged], tables[0][judged])


def forms(folder):
    """The same two expressions of the same object, in every layout."""
    rows = [ROW | {"expressions": ["the box", "it"], "mask": mask} for mask in ("a.png", RUNS)]
    for row in rows:
        del row["expression"]
    yield write(folder / "rows.jsonl", rows[0])
    yield write(folder / "runs.jsonl", rows[1])
    (folder / "rows.json").write_text(json.dumps([rows[1] | {"mask": POLYGON}]))
    yield str(folder / "rows.json")
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "expression", "mask"])
        writer.writeheader()
        for text in rows[0]["expressions"]:
            writer.writerow({"image": "a.jpg", "expression": text, "mask": json.dumps(RUNS)})
    yield str(folder / "rows.csv")
    annotation = {"image_id": 1, "segmentation": POLYGON, "expressions": rows[0]["expressions"]}
    images = [{"id": 1, "file_name": "a.jpg", "height": 6, "width": 8}]
    (folder / "coco.json").write_text(json.dumps({"images": images, "annotations": [annotation]}))
    yield str(folder / "coco.json")
    for name in ("images/a.jpg", "masks/a.png", "expressions/a.txt"):
        target = folder / "files" / "test" / name
        target.parent.mkdir(parents=True)
        if name.endswith("txt"):
            target.write_text("the box\nit\n")
        else:
            target.symlink_to(folder / target.name)
    yield str(folder / "files")


def test_every_layout_gives_the_same_examples(folder):
    pixels = np.asarray(Image.open(folder / "a.jpg"))
    for path in forms(folder):
        split = gp.load_split(path, "test")
        assert split.expressions == ("the box", "it"), path
        assert len(set(split.keys)) == 2 and len(set(split.image_ids)) == 1
        for example in split:
            np.testing.assert_array_equal(example.mask, BOX)
            np.testing.assert_array_equal(np.asarray(example.image), pixels)
            assert example.distractors == (), "the same object is no distractor"
        assert check_data(path, "test", deep=True).ok
        assert splits_of(path) == ("test",)


def test_other_objects_of_an_image_are_its_distractors(folder):
    other = {"image": "a.jpg", "expression": "the corner", "mask": [[0, 0, 2, 0, 2, 1, 0, 1]]}
    split = gp.load_split(write(folder / "rows.jsonl", ROW, other), "test")
    assert split[0].others == ("the corner",)
    np.testing.assert_array_equal(split[0].distractors[0], split[1].mask)


def test_splits_are_named_by_rows_or_files(folder):
    path = write(folder / "rows.jsonl", ROW | {"split": "val"}, ROW | {"split": "mine"}, ROW)
    assert splits_of(path) == ("val", "mine", "test")
    assert len(gp.load_split(path, "mine")) == 1
    with pytest.raises(
        UnknownNameError, match=r"unknown split of .*'train': choose one of val, mi"
    ):
        gp.load_split(path, "train")
    (folder / "rows.jsonl").unlink()
    write(folder / "val.jsonl", ROW)
    write(folder / "test.jsonl", ROW, ROW)
    assert len(gp.load_split(str(folder), "val")) == 1 and len(gp.load_split(str(folder), "test"))
    with pytest.raises(InputError, match=r"holds test.jsonl, val.jsonl: name the file"):
        gp.load_split(str(folder), "train")


def test_the_revision_is_of_all_that_is_judged(folder):
    path = write(folder / "rows.jsonl", ROW | {"mask": "a.png"})
    first = gp.load_split(path, "test").revision
    assert gp.load_split(path, "test").revision == first
    Image.fromarray(~BOX).save(folder / "a.png")
    second = gp.load_split(path, "test").revision
    Image.new("RGB", (8, 6)).save(folder / "a.jpg")
    third = gp.load_split(path, "test").revision
    assert len({first, second, third}) == 3
    moved = folder.rename(folder.with_name(f"{folder.name}-moved"))
    assert gp.load_split(str(moved / "rows.jsonl"), "test").revision == third


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "line 2, image: None is no path"),
        ({"image": "none.jpg"}, "line 2, .*none.jpg is no sound image: .* No such file"),
        ({"image": "rows.jsonl"}, "line 2, .* is no sound image"),
        ({"image": "n" * 300}, "line 2, .* is no sound image: .*File name too long"),
        ({"expression": None}, "line 2, expression: None is no text"),
        ({"expression": "  "}, "line 2, expression: '  ' is no text"),
        ({"expression": 7}, "line 2, expression: 7 is no text"),
        ({"expressions": []}, r"line 2, expressions: \[\] is no text or list of texts"),
        ({"expressions": ["a", None]}, "line 2, expressions: .* is no text or list of texts"),
        ({"mask": None}, "line 2, mask: None is no path, run lengths or list of polygons"),
        ({"mask": []}, "line 2, mask: .. is no path"),
        ({"mask": "none.png"}, "no such file: .*none.png"),
        ({"mask": [[0.1, 0.1, 0.9, 0.1, 0.5, 0.5]]}, "line 2, mask: all coordinates are between"),
    ],
)
def test_a_wrong_row_is_named_with_its_field_when_it_is_read(folder, change, message):
    path = write(folder / "rows.jsonl", ROW, ROW | change)
    with pytest.raises(InputError, match=message):
        gp.load_split(path, "test")
    check = check_data(path, "test")
    assert not check.ok and check.found


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (RUNS | {"counts": RUNS["counts"][:-1]}, "line 2, mask: the run lengths"),
        (RUNS | {"size": [8, 6]}, "line 2, mask: the run lengths are of a .8, 6. mask"),
        ([[1e8, 0, 1, 1, 2, 2]], "line 2, mask: a polygon .* has the coordinate 1e.08"),
        ("small.png", r"line 2, mask: mask .*small.png is of \(3, 3\) .*, its image of \(6, 8\)"),
        ("grey.png", "line 2, mask: mask .*grey.png has the values 0, 1, 2, 3, 4, ...: expected 0"),
        ("empty.png", "line 2, mask: mask .*empty.png has the values False: expected"),
    ],
)
def test_a_wrong_mask_is_an_error_of_its_sentence_and_found_by_deep(folder, mask, message):
    Image.new("1", (3, 3), 1).save(folder / "small.png")
    Image.new("1", (8, 6)).save(folder / "empty.png")
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(folder / "grey.png")
    Image.new("RGB", (8, 6)).save(folder / "b.jpg")
    path = write(folder / "rows.jsonl", ROW, ROW | {"image": "b.jpg", "mask": mask})
    split = gp.load_split(path, "test")
    np.testing.assert_array_equal(split[0].mask, BOX)
    with pytest.raises(InputError, match=message):
        split[1]
    assert check_data(path, "test").ok
    check = check_data(path, "test", deep=True)
    assert not check.ok and "1 of 2 refs cannot be used" in check.found


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_masks_of_every_mode_with_two_values(folder, mode):
    if mode == "P":
        image = Image.fromarray(BOX.astype(np.uint8))
        image.putpalette([9, 9, 9, 0, 0, 0])  # the index counts, not the color
    elif mode == "I;16":
        image = Image.fromarray(BOX.astype(np.uint16) * 7)
    else:
        image = Image.fromarray(BOX.astype(np.uint8) * 255).convert(mode)
    image.save(folder / "a.png")
    split = gp.load_split(write(folder / "rows.jsonl", ROW | {"mask": "a.png"}), "test")
    np.testing.assert_array_equal(split[0].mask, BOX)


def test_a_photo_that_may_lie_otherwise_than_its_mask_is_refused(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(folder / "a.jpg", exif=exif)
    with pytest.raises(InputError, match=r"line 1, image: .* has the EXIF orientation 6"):
        gp.load_split(write(folder / "rows.jsonl", ROW), "test")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.jsonl", '{"image": \n', "rows.jsonl, line 1 is no JSON"),
        ("rows.jsonl", "[1]\n", r"line 1: \[1\] is no row: expected image, expression"),
        ("rows.jsonl", "\n", "holds no rows"),
        ("rows.json", "7", "is neither a list of rows nor COCO-style"),
        ("rows.json", '{"images": 1}', "has no lists of images and annotations"),
        ("rows.json", '{"images": [{}], "annotations": []}', "do not fit, no 'id'"),
        ("rows.json", '{"images": [], "annotations": [{"image_id": 3}]}', "do not fit, no 3"),
        ("rows.json", "[" * 100_000, "is no JSON"),
        ("rows.csv", "image,expression,mask\na.jpg,the box, blue,a.png\n", "line 2: not as many"),
        ("rows.csv", 'image,expression,mask\na.jpg,box,"[[1,"\n', "line 2, mask is no JSON"),
        ("rows.txt", "a", "its name must end in .jsonl, .csv, .json"),
    ],
)
def test_a_file_that_holds_no_rows_is_named(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=message):
        gp.load_split(str(folder / name), "test")


def test_what_is_not_there_is_said(folder):
    for path in ("none.jsonl", "none/"):
        with pytest.raises(InputError, match=r"no such file|cannot be read|name must end"):
            gp.load_split(f"{folder}/{path}", "test")
    with pytest.raises(InputError, match="holds no data: expected rows of image"):
        gp.load_split(str(folder), "test")
    with pytest.raises(UnknownNameError, match="unknown dataset"):
        gp.load_split("n" * 300, "test")


def test_own_data_and_a_list_and_a_slice_are_evaluated(folder, tmp_path):
    split = gp.load_split(write(folder / "rows.jsonl", ROW, ROW | {"expression": "it"}), "test")
    for number, examples in enumerate((split, list(split), split[:1])):
        out = tmp_path / f"run{number}"
        result = gp.evaluate(None, examples, out, methods=("whole_image",), segment=min)
        assert result.counts.ok == len(examples)
        assert result.rows["gold_px"].eq(BOX.sum()).all()


def test_the_command_line_and_the_study_take_a_path(tmp_path, capsys):
    scenes = gp.load_split("scenes", "test", limit=2)
    for split in ("val", "test"):
        rows = []
        for number, example in enumerate(scenes):
            example.image.save(tmp_path / f"{number}.png")
            mask = runs(example.mask, plain=False)
            rows.append({"image": f"{number}.png", "expression": example.expression, "mask": mask})
        write(tmp_path / f"{split}.jsonl", *rows)
    command = ["evaluate", "--dataset", str(tmp_path), "--split", "test", "--quiet"]
    assert cli.main([*command, "--out", str(tmp_path / "run"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert {row["n_ok"] for row in summary} == {2}
    assert {row["dataset"] for row in summary} == {tmp_path.name}
    assert study_splits(str(tmp_path)) == ("val", "test")
    with pytest.raises(InputError, match="has the splits test: the study needs val"):
        study_splits(str(tmp_path / "test.jsonl"))
