"""Real COCO annotations as the RefCOCO family's files: a REFER folder, and the hub's parquet."""

from __future__ import annotations

import json
import pickle
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
