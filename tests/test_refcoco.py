"""The RefCOCO family on real COCO annotations: both sources, its revisions and its counts."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from refcoco_files import DATA, needs_coco, write_folder, write_parquet

from ground_probe.datasets import check_data, load_split, refcoco
from ground_probe.datasets.sources import FileImage, decode
from ground_probe.errors import InputError, UnknownNameError
from ground_probe.evaluation import evaluate

pytestmark = pytest.mark.usefixtures("sample_counts")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, refs, instances):
    return write_folder(tmp_path_factory.mktemp("refer") / "data", refs, instances)


@needs_coco
def test_folder_and_parquet_give_equal_examples(folder, refs, instances, tmp_path):
    polygons = {a["id"] for a in instances["annotations"] if not a["iscrowd"]}
    refs = [ref for ref in refs if ref["ann_id"] in polygons]
    count = sum(ref["split"] == "val" for ref in refs)
    expected = replace(
        refcoco.COLLECTIONS["refcoco_unc"].splits["val"], refs=count, sentences=2 * count
    )
    refcoco.COLLECTIONS["refcoco_unc"].splits["val"] = expected
    a = load_split("refcoco_unc", "val", root=write_folder(tmp_path / "f", refs, instances))
    b = load_split("refcoco_unc", "val", root=write_parquet(tmp_path / "p", refs, instances))
    assert (a.keys, a.expressions, a.image_ids, a.revision) == (
        b.keys, b.expressions, b.image_ids, b.revision,
    )  # fmt: skip
    assert len(a) == expected.sentences == len(set(a.keys))
    sizes = {image["id"]: (image["height"], image["width"]) for image in instances["images"]}
    for index in range(0, len(a), 5):
        x, y = a[index], b[index]
        assert (x.key, x.expression, x.image_id, x.others) == (
            y.key,
            y.expression,
            y.image_id,
            y.others,
        )
        assert x.mask.shape == sizes[int(x.image_id)]
        np.testing.assert_array_equal(x.image, y.image)
        for first, second in zip([x.mask, *x.distractors], [y.mask, *y.distractors], strict=True):
            np.testing.assert_array_equal(first, second)


@needs_coco
def test_text_overlap_and_annotations_change_the_revision(folder, refs, instances, tmp_path):
    split = load_split("refcoco_unc", "val", root=folder)
    raw = load_split("refcoco_unc", "val", root=folder, text="raw")
    refer = load_split("refcoco_unc", "val", root=folder, overlap="refer")
    assert "caf\xe9 1" in split.expressions and "Caf\xe9!" in raw.expressions
    assert len({split.revision, raw.revision, refer.revision}) == 3
    moved = json.loads(json.dumps(instances))
    first = next(a for a in moved["annotations"][::2] if not a["iscrowd"] and a["image_id"] % 7)
    first["segmentation"][0][0] += 1
    other = load_split("refcoco_unc", "val", root=write_folder(tmp_path / "m", refs, moved))
    assert other.revision != split.revision


@needs_coco
def test_limit_keeps_whole_images_and_not_the_first_ones(folder):
    whole = load_split("refcoco_unc", "val", root=folder)
    some = load_split("refcoco_unc", "val", root=folder, limit=30)
    assert some.revision == whole.revision and 30 <= len(some) < 60
    kept = [key for key, image in zip(whole.keys, whole.image_ids, strict=True)
            if image in some.image_ids]  # fmt: skip
    assert list(some.keys) == kept != list(whole.keys[: len(some)])
    again = load_split("refcoco_unc", "val", root=folder, limit=30, seed=1)
    assert again.keys != some.keys
    more = load_split("refcoco_unc", "val", root=folder, limit=60)
    assert set(some.keys) < set(more.keys), "an evaluation of 30 grows to one of 60"


@needs_coco
def test_wrong_counts_are_refused_and_unconfirmed_ones_said(folder, refs, monkeypatch):
    splits = refcoco.COLLECTIONS["refcoco_unc"].splits
    right = splits["val"]
    monkeypatch.setitem(splits, "val", replace(right, refs=3811))
    with pytest.raises(InputError, match=f"has {right.refs} refs, expected 3,811: another owner"):
        load_split("refcoco_unc", "val", root=folder)
    monkeypatch.setitem(splits, "val", replace(right, sentences=10834, confirmed=False))
    with pytest.warns(UserWarning, match="expected 10,834 .an unconfirmed count"):
        load_split("refcoco_unc", "val", root=folder)


@needs_coco
def test_bad_photos_are_errors_of_their_sentences_only(refs, instances, tmp_path):
    root = write_folder(tmp_path / "f", refs, instances)
    split = load_split("refcoco_unc", "val", root=root)
    missing, cut, small = list(dict.fromkeys(split.image_ids))[-3:]
    photos = {
        image_id: root / "train2014" / f"{int(image_id):012d}.jpg" for image_id in split.image_ids
    }
    whole = photos[cut].read_bytes()
    for image_id in (missing, cut, small):
        photos[image_id].unlink()
    photos[cut].write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (32, 32)).save(photos[small])
    result = evaluate(None, split, tmp_path / "run", methods=("whole_image",), segment=min)
    rows = result.rows
    failed = rows[rows["status"] == "error"].groupby("image_id")["error"].first()
    assert set(failed.index) == {missing, cut, small}
    assert "no such file" in failed[missing]
    assert "no sound image" in failed[cut]
    assert "not the photo that was annotated" in failed[small]
    assert result.counts.ok == sum(i not in failed.index for i in split.image_ids)
    assert result.counts.missing == 0 and result.summary["value"].isna().all()
    check = check_data("refcoco_unc", "val", root)
    assert not check.ok and "1 of " in check.found and "photos are missing" in check.found


def test_names_and_absent_data_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    with pytest.raises(UnknownNameError, match=r"unknown dataset 'refcoco'.*refcoco_unc"):
        load_split("refcoco", "val")
    with pytest.raises(UnknownNameError, match="choose one of train, val, testA, testB"):
        load_split("refcoco_unc", "test")
    with pytest.raises(InputError, match="limit 0 keeps nothing"):
        load_split("scenes", "val", limit=0)
    with pytest.raises(InputError, match="generated and has no data folder"):
        load_split("scenes", "val", root=tmp_path)
    with pytest.raises(InputError, match=r"expected refs\(unc\)\.p.*hf download"):
        load_split("refcoco+_unc", "testA", root=tmp_path)
    with pytest.raises(InputError, match=r"not in the local cache.*0.1 GB.*refcoco_unc_testB"):
        load_split("refcoco_unc", "testB")
    with pytest.raises(InputError, match=r"from a REFER folder only.*train2014"):
        load_split("refcoco_unc", "train")
    check = check_data("refcoco_unc", "testB")
    assert not check.ok and check.fix.startswith("about 0.1 GB")
    assert check_data("scenes", "val").ok


def test_orientation_in_exif_is_left_alone(tmp_path):
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    stored = decode(FileImage(str(tmp_path / "turned.png")))
    assert stored.size == (3, 2)
    np.testing.assert_array_equal(np.asarray(stored)[..., 0], np.asarray(image))


def test_real_sentences_match_the_published_counts():
    table = DATA / "refer-sample" / "refcoco_unc_expressions.tsv.gz"
    if not table.is_file():
        pytest.skip(f"{table} is not there")
    found = defaultdict(lambda: (set(), set(), []))
    with gzip.open(table, "rt", encoding="utf-8") as file:
        next(file)
        for line in file:
            split, image_id, ref_id, sent_id, _ = line.rstrip("\n").split("\t")
            images, refs, sentences = found[split]
            images.add(image_id)
            refs.add(ref_id)
            sentences.append(sent_id)
    for split, (images, refs, sentences) in found.items():
        expected = refcoco.COLLECTIONS["refcoco_unc"].splits[split]
        assert (len(images), len(refs), len(sentences)) == (
            expected.images, expected.refs, expected.sentences,
        )  # fmt: skip


def test_counts_add_up_to_the_published_totals():
    """Of the whole data sets, as their papers and later audits count them."""

    def total(name, what, splits):
        each = refcoco.COLLECTIONS[name].splits
        return sum(getattr(each[split], what) for split in splits)

    everything, unseen = ("train", "val", "testA", "testB"), ("val", "testA", "testB")
    assert total("refcoco_unc", "images", everything) == 19_994
    assert total("refcoco+_unc", "images", everything) == 19_992
    assert total("refcoco_unc", "refs", everything) == 50_000
    assert total("refcoco+_unc", "refs", everything) == 49_856
    assert total("refcoco+_unc", "sentences", everything) == 141_564
    assert total("refcoco_unc", "sentences", unseen) == 21_586
    assert total("refcoco+_unc", "sentences", unseen) == 21_373
    assert total("refcocog_umd", "sentences", ("val", "test")) == 14_498
    for what, count in (("refs", 49_822), ("sentences", 95_010)):
        umd = total("refcocog_umd", what, ("train", "val", "test"))
        assert umd == total("refcocog_google", what, ("train", "val")) == count
