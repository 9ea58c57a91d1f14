"""Files of the RefCOCO family that are damaged, hostile or of another kind are refused by name."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from refcoco_files import needs_coco, write_folder, write_parquet

from ground_probe.datasets import check_data, hub, load_split, refcoco
from ground_probe.errors import InputError

pytestmark = pytest.mark.usefixtures("sample_counts")


class Hostile:
    def __reduce__(self):
        return (open, ("hostile-was-here", "w"))


@needs_coco
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_code_does_not(refs, instances, tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    root = write_folder(tmp_path / "f", refs, instances)
    path = root / "refcoco" / "refs(unc).p"
    path.write_bytes(pickle.dumps([Hostile()], protocol))
    with pytest.raises(InputError, match=r"refs\(unc\)\.p asks for \w+\.open: .* refused"):
        load_split("refcoco_unc", "val", root=root)
    assert not Path("hostile-was-here").exists()
    assert not check_data("refcoco_unc", "val", root).ok


@needs_coco
@pytest.mark.parametrize("name", ["refs(unc).p", "instances.json"])
def test_files_that_are_cut_off_are_refused(refs, instances, tmp_path, name):
    root = write_folder(tmp_path / "f", refs, instances)
    path = root / "refcoco" / name
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"damaged or cut off .* fetch it again"):
        load_split("refcoco_unc", "val", root=root)


@needs_coco
def test_files_that_do_not_fit_together_are_refused(refs, instances, tmp_path):
    fewer = {**instances, "annotations": instances["annotations"][1:]}
    with pytest.raises(InputError, match="do not fit together: KeyError"):
        load_split("refcoco_unc", "val", root=write_folder(tmp_path / "f", refs, fewer))


@needs_coco
def test_parquet_of_another_schema_split_or_number_is_refused(refs, instances, tmp_path):
    polygons = {a["id"] for a in instances["annotations"] if not a["iscrowd"]}
    refs = [ref for ref in refs if ref["ann_id"] in polygons]
    root = write_parquet(tmp_path / "p", refs, instances)
    first, second = sorted(root.iterdir())
    with pytest.raises(InputError, match=r"holds refs of \['val'\], not of 'testA'"):
        hub.read([first], "testA")
    second.rename(root / "other.parquet")
    with pytest.raises(InputError, match=r"has \d+ images, expected \d+: .* incomplete copy"):
        load_split("refcoco_unc", "val", root=root)
    pq.write_table(pa.table({"question": ["?"]}), second)
    with pytest.raises(
        InputError, match=r"unknown layout, with the columns question; expected ref_list"
    ):
        load_split("refcoco_unc", "val", root=root)
    second.write_bytes(first.read_bytes()[:5000])
    with pytest.raises(InputError, match="is damaged"):
        load_split("refcoco_unc", "val", root=root)


@needs_coco
def test_deep_finds_photos_that_would_fail_hours_later(refs, instances, tmp_path):
    root = write_folder(tmp_path / "f", refs, instances)
    assert check_data("refcoco_unc", "val", root, deep=True).ok
    split = load_split("refcoco_unc", "val", root=root)
    cut, small = list(dict.fromkeys(split.image_ids))[:2]
    photos = [root / "train2014" / f"{int(image_id):012d}.jpg" for image_id in (cut, small)]
    whole = photos[0].read_bytes()
    for photo in photos:
        photo.unlink()
    photos[0].write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (32, 32)).save(photos[1])
    wrong = sum(str(ref.image_id) in (cut, small) for ref in split.refs)
    assert check_data("refcoco_unc", "val", root).ok
    check = check_data("refcoco_unc", "val", root, deep=True)
    assert not check.ok and f"{wrong} of {len(split.refs)} refs cannot be used" in check.found
    assert "is no sound image" in check.found


@needs_coco
@pytest.mark.parametrize("place", ["images/mscoco/train2014", "../images/mscoco/train2014"])
def test_photos_of_other_folders_that_people_have_are_found(refs, instances, tmp_path, place):
    root = write_folder(tmp_path / "data", refs, instances)
    target = root / place
    target.parent.mkdir(parents=True)
    (root / "train2014").rename(target)
    assert load_split("refcoco_unc", "val", root=root)[0].image.mode == "RGB"


def changed(refs, number, **fields):
    """The refs with one of them changed, and which."""
    vals = [at for at, ref in enumerate(refs) if ref["split"] == "val"]
    return [ref | fields if at == vals[number] else ref for at, ref in enumerate(refs)], vals


@needs_coco
def test_a_ref_without_sentences_is_a_distractor_and_is_counted(refs, instances, tmp_path):
    several = [ref for ref in refs if ref["image_id"] == 9 or ref["split"] == "val"]
    images = [ref["image_id"] for ref in several]
    image_id = next(i for i in images if images.count(i) > 1 and i % 7)
    number = next(
        n
        for n, ref in enumerate(r for r in refs if r["split"] == "val")
        if ref["image_id"] == image_id
    )
    fewer, vals = changed(refs, number, sentences=[])
    expected = refcoco.COLLECTIONS["refcoco_unc"].splits["val"]
    refcoco.COLLECTIONS["refcoco_unc"].splits["val"] = replace(
        expected, sentences=expected.sentences - 2
    )
    root = write_folder(tmp_path / "f", fewer, instances)
    with pytest.warns(UserWarning, match=rf"1 of {len(vals)} refs have no sentence"):
        split = load_split("refcoco_unc", "val", root=root)
    assert len(split) == expected.sentences - 2
    at = split.image_ids.index(str(image_id))
    assert "" in split[at].others and len(split[at].others) == len(split[at].distractors)
    check = check_data("refcoco_unc", "val", root)
    assert check.ok and "1 of" in check.found


@needs_coco
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_id": "nine"}, "do not fit together"),
        ({"ref_id": None}, "ref None: ref_id is None, expected a whole number"),
        ({"sentences": None}, "sentences is None, expected a list"),
        ({"sentences": "left man"}, "sentences is 'left man', expected a list"),
        (
            {"sentences": [{"sent_id": 1, "sent": None, "raw": ""}]},
            "'sent' of sentence 1 is None, expected a text",
        ),
        ({"sentences": [None]}, "do not fit together: TypeError"),
    ],
)
def test_refs_of_other_kinds_are_named(refs, instances, tmp_path, monkeypatch, fields, message):
    monkeypatch.setattr(refcoco, "check_counts", lambda *arguments: None)
    root = write_folder(tmp_path / "f", changed(refs, 0, **fields)[0], instances)
    with pytest.raises(InputError, match=message):
        load_split("refcoco_unc", "val", root=root)


def test_a_root_that_cannot_be_is_named(tmp_path):
    with pytest.raises(InputError, match=r"holds no refcoco_unc val: expected refs\(unc\)\.p"):
        load_split("refcoco_unc", "val", root=tmp_path / "none")


def test_a_sound_folder_of_another_layout_is_unknown_and_not_damaged(tmp_path):
    path = tmp_path / "val-00000-of-00001.parquet"
    pq.write_table(pa.table({"question_id": ["1"], "question": ["?"], "answer": [["a"]]}), path)
    said = r"holds no refcoco_unc val: expected refs\(unc"
    with pytest.raises(InputError, match=said):
        load_split("refcoco_unc", "val", root=tmp_path)
    said = "unknown layout, with the columns question_id, question, answer; expected ref_list"
    with pytest.raises(InputError, match=said):
        load_split("refcoco_unc", "val", root=path)
