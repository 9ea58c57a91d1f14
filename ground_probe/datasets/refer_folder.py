"""A REFER folder: `refs(unc).p`, `instances.json`, COCO's `train2014/`.

    refcoco/refs(unc).p, refcoco/instances.json, train2014/COCO_train2014_000000000009.jpg, ...
    grefcoco/grefs(unc).json or .p, grefcoco/instances.json, train2014/...
    ref-zom/refs(final).p, ref-zom/instances.json, trainval2014/... or train2014/ and val2014/

A ref names its object by `ann_id`. In gRefCOCO that is a list, and [-1] where there is no target;
crowds are left out (`gres_model/data/datasets/grefer.py` of github.com/henghuiding/ReLA). In
Ref-ZOM it is a number or a list, and there is no target where `source` is "zero" (`refer/refer.py`
of github.com/toggle1995/RIS-DMMI).
"""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ground_probe.datasets.refcoco import COLLECTIONS
from ground_probe.datasets.referent import Ref, Target, make_ref
from ground_probe.datasets.sources import FileImage
from ground_probe.errors import InputError
from ground_probe.io import read_file

IMAGE_FOLDERS = (
    "train2014",
    "images/train2014",
    "images/mscoco/images/train2014",  # REFER
    "images/mscoco/train2014",  # PolyFormer
    "images",
    "trainval2014",
    "images/trainval2014",
)
MAX_BYTES = 2**30


def find(root: Path, dataset: str) -> Path | None:
    """The file of refs: in the root, or in its folder of the data set's name."""
    collection = COLLECTIONS[dataset]
    folders = (root / collection.folder, root)
    paths = (folder / name for folder in folders for name in collection.refs)
    return next((path for path in paths if os.path.isfile(path)), None)


def image_folder(folder: Path) -> Path:
    """The folder of the photos: inside the data set's folder or beside it.

    Raises:
        InputError: there is none.
    """
    for parent in (folder, folder.parent, folder.parent.parent):
        for name in IMAGE_FOLDERS:
            if (parent / name).is_dir():
                return parent / name
    raise InputError(f"no photos beside {folder}: expected one of {', '.join(IMAGE_FOLDERS)}")


def read(refs_path: Path, split: str) -> list[Ref]:
    """The refs of one split, photos and masks not yet decoded.

    Raises:
        InputError: a file is missing or damaged, or the pickle holds more than plain data.
    """
    folder = refs_path.parent
    refs = _parsed(refs_path, json.loads if refs_path.suffix == ".json" else _unpickle)
    instances = _parsed(folder / "instances.json", json.loads)
    photos = image_folder(folder)
    try:
        images = {image["id"]: image for image in instances["images"]}
        annotations = {each["id"]: each for each in instances["annotations"]}
        return [
            # The refs' own file_name ends in "_<n>.jpg" and does not exist.
            make_ref(ref, _targets(ref, annotations), image, _photo(photos, image))
            for ref in refs
            if ref["split"] == split
            for image in [images[ref["image_id"]]]
        ]
    except InputError as error:
        raise InputError(f"{refs_path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{refs_path} and instances.json do not fit together: {type(error).__name__} {error}"
        ) from error


def _targets(ref: Mapping[str, Any], annotations: Mapping[int, Any]) -> list[Target]:
    """The objects that a ref names; none where it says so."""
    ids = ref["ann_id"]
    if ids == [-1] or ref.get("source") == "zero":
        return []
    several = isinstance(ids, list)
    ids = list(dict.fromkeys(ids)) if several else [ids]
    kept = [i for i in ids if not (several and annotations[i].get("iscrowd"))]
    if not kept:
        raise InputError(f"ref {ref.get('ref_id')}: of its annotations {ids} all are crowds")
    return [Target(i, annotations[i].get("segmentation")) for i in kept]


def _photo(folder: Path, image: Any) -> FileImage:
    name = Path(image["file_name"]).name
    if name.startswith("COCO_val2014_") and folder.name == "train2014":
        folder = folder.with_name("val2014")
    return FileImage(str(folder / name))


def _parsed(path: Path, parse: Callable[[bytes], Any]) -> Any:
    data = read_file(path, MAX_BYTES)
    try:
        return parse(data)
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise InputError(
            f"{path} is damaged or cut off ({type(error).__name__}: {error}): fetch it again"
        ) from error


class _PlainUnpickler(pickle.Unpickler):
    """Plain lists, dicts, strings and numbers; nothing that would import or call."""

    def find_class(self, module: str, name: str) -> Any:
        raise InputError(
            f"asks for {module}.{name}: REFER's pickle holds plain data only, so this file is "
            "refused without running it"
        )


def _unpickle(data: bytes) -> Any:
    return _PlainUnpickler(io.BytesIO(data), encoding="latin1").load()
