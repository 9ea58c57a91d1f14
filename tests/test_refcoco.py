"""The RefCOCO family on real COCO annotations: both sources, every mask, every kind of bad data."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import pickle
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco

from ground_probe.datasets import check_data, hub, load_split, refcoco
from ground_probe.datasets.masks import to_mask
from ground_probe.datasets.sources import FileImage, decode
from ground_probe.errors import InputError, UnknownNameError
from ground_probe.evaluation import evaluate

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
COCO = DATA / "coco-sample"
needs_coco = pytest.mark.skipif(not COCO.is_dir(), reason=f"{COCO} is not there")


class Python2Pickler(pickle._Pickler):
    """Writes `str` as Python 2 did, as bytes: what the published files hold."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_bytestring(self, text):
        encoded = text.encode("latin1")
        self.write(pickle.BINSTRING + len(encoded).to_bytes(4, "little") + encoded)

    dispatch[str] = save_bytestring


@pytest.fixture(scope="module")
def instances():
    return json.loads((COCO / "instances.json").read_text())


@pytest.fixture(scope="module")
def refs(instances):
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


def write_folder(root, refs, instances):
    (root / "refcoco").mkdir(parents=True)
    with (root / "refcoco" / "refs(unc).p").open("wb") as file:
        Python2Pickler(file, protocol=2).dump(refs)
    (root / "refcoco" / "instances.json").write_text(json.dumps(instances))
    (root / "train2014").mkdir()
    for photo in (COCO / "images").iterdir():
        (root / "train2014" / photo.name).symlink_to(photo)
    return root


def write_parquet(root, refs, instances):
    images = {image["id"]: image for image in instances["images"]}
    annotations = {each["id"]: each for each in instances["annotations"]}
    rows = defaultdict(list)
    for ref in refs:
        if ref["split"] == "val":
            annotation = annotations[ref["ann_id"]]
            kept = {
                name: annotation[name] for name in ("id", "image_id", "iscrowd", "segmentation")
            }
            rows[ref["image_id"]].append({"ann_info": kept, "ref_info": ref})
    table = pa.Table.from_pylist([
        {
            "ref_list": row,
            "image_info": images[image_id],
            "image": {
                "bytes": (COCO / "images" / images[image_id]["file_name"]).read_bytes(),
                "path": images[image_id]["file_name"],
            },
        }
        for image_id, row in rows.items()
    ])  # fmt: skip
    root.mkdir()
    half = len(table) // 2
    for part, rows in enumerate((table[:half], table[half:])):
        path = root / f"refcoco_unc_val-0000{part}-of-00002-0a1b.parquet"
        pq.write_table(rows, path, row_group_size=7)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory, refs, instances):
    return write_folder(tmp_path_factory.mktemp("refer") / "data", refs, instances)


@pytest.fixture(autouse=True)
def sample_counts(monkeypatch, request):
    """The sample's own counts in place of the published ones."""
    if "refs" not in request.fixturenames:
        return
    refs = [ref for ref in request.getfixturevalue("refs") if ref["split"] == "val"]
    expected = refcoco.Expected(len({ref["image_id"] for ref in refs}), len(refs), 2 * len(refs))
    monkeypatch.setitem(refcoco.COLLECTIONS["refcoco_unc"].splits, "val", expected)


@needs_coco
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_every_real_mask_equals_pycocotools(instances):
    from pycocotools.coco import COCO as Reference

    with contextlib.redirect_stdout(io.StringIO()):
        reference = Reference(COCO / "instances.json")
    sizes = {image["id"]: (image["height"], image["width"]) for image in instances["images"]}
    overlapping = 0
    for annotation in instances["annotations"]:
        size = sizes[annotation["image_id"]]
        mask = to_mask(annotation["segmentation"], size)
        np.testing.assert_array_equal(mask, reference.annToMask(annotation).astype(bool))
        refer = to_mask(annotation["segmentation"], size, overlap="refer")
        assert (refer <= mask).all()
        overlapping += bool((refer != mask).any())
    assert overlapping >= 1


def test_overlapping_parts_by_hand():
    left, right = [0, 0, 2, 0, 2, 3, 0, 3], [1, 0, 4, 0, 4, 3, 1, 3]
    assert to_mask([left, right], (3, 4)).all()
    np.testing.assert_array_equal(
        to_mask([left, right], (3, 4), overlap="refer"), [[True, False, True, True]] * 3
    )


masks = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(
    lambda size: arrays(bool, size).filter(np.any)
)


def plain_runs(mask):
    flat = np.concatenate([[False], mask.T.ravel(), [True]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], edges]))
    return {"size": [*mask.shape], "counts": [*runs.tolist(), mask.size - int(runs.sum())]}


def compressed_runs(mask, form=str):
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = code["counts"]
    return {"size": [*mask.shape], "counts": counts if form is bytes else counts.decode()}


@given(masks)
def test_run_lengths_of_every_form_survive(mask):
    for code in (plain_runs(mask), compressed_runs(mask), compressed_runs(mask, bytes)):
        decoded = to_mask(code, mask.shape)
        assert decoded.dtype == bool
        np.testing.assert_array_equal(decoded, mask)


@given(masks, st.data())
def test_run_lengths_cut_short_anywhere_are_refused(mask, data):
    for code in (plain_runs(mask), compressed_runs(mask)):
        counts = code["counts"]
        cut = counts[: data.draw(st.integers(0, len(counts) - 1))]
        if not isinstance(counts, str) and sum(cut) == mask.size:
            continue  # nothing but an empty run was cut off
        with pytest.raises(InputError, match="run lengths"):
            to_mask(code | {"counts": cut}, mask.shape)


@given(masks, st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12))
def test_a_damaged_string_is_refused_or_whole_and_the_same_each_time(mask, text):
    code = {"size": [*mask.shape], "counts": text}
    try:
        first = to_mask(code, mask.shape)
    except InputError:
        return
    np.testing.assert_array_equal(first, to_mask(code, mask.shape))
    np.testing.assert_array_equal(first, coco.decode(code).astype(bool))


@given(masks, st.data())
def test_polygons_of_boxes_survive(mask, data):
    height, width = mask.shape
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    box = np.zeros(mask.shape, bool)
    box[y0:y1, x0:x1] = True
    outline = [x0, y0, x1, y0, x1, y1, x0, y1]
    for polygons in (outline, [outline], [tuple(outline), [x0, y0, x1, y1]]):
        np.testing.assert_array_equal(to_mask(polygons, mask.shape), box)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [4, 3], "counts": [0, 12]}, r"expected the image's \[3, 4\]"),
        ({"size": 12, "counts": [0, 12]}, r"expected the image's \[3, 4\]"),
        ({"size": [3, 4], "counts": [0, 999999]}, "expected height x width"),
        ({"size": [3, 4], "counts": [13, -1]}, "expected height x width"),
        ({"size": [3, 4], "counts": []}, "add to 0, expected height x width, 12"),
        ({"size": [3, 4], "counts": ""}, "add to 0, expected height x width, 12"),
        ({"size": [3, 4], "counts": b""}, "add to 0, expected height x width, 12"),
        ({"size": [3, 4], "counts": "5"}, "add to 5, expected height x width, 12"),
        ({"size": [3, 4], "counts": "garbage"}, "cannot be decoded|expected height x width"),
        ({"size": [3, 4], "counts": "caf\xe9"}, "cannot be decoded"),
        ({"size": [3, 4], "counts": "o" * 99}, "cannot be decoded"),
        ({"size": [3, 4], "counts": [0.0, 12.0]}, "no counts, a list of whole numbers"),
        ({"size": [3, 4]}, "no counts"),
        ([[0, 0, 1, 1]], "three points"),
        ([[0, 0, 1, 0, float("nan"), 1]], "coordinate nan in an image of 4 x 3 px"),
        ([[0, 0, 1, 0, 1, 10**400]], "neither polygons nor run lengths"),
        ([], "three points"),
        (None, "neither polygons nor run lengths"),
        ("polygon", "neither polygons nor run lengths"),
        ([[7, 5, 8, 5, 8, 6]], "no pixel of the image"),
        ([[50, 50, 60, 50, 60, 60]], "coordinate 60 in an image of 4 x 3 px"),
        *(([[0, 0, far, 0, 1, 1]], "has the coordinate") for far in (1e7, -1e8, 1e300, 1e308)),
    ],
)
def test_damaged_segmentations_are_refused(segmentation, message):
    with pytest.raises(InputError, match=message):
        to_mask(segmentation, (3, 4))


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
