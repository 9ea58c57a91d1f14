"""RefCOCO from a REFER folder: `refs(unc).p`, `instances.json`, COCO's `train2014/`."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ground_probe.datasets.refcoco import COLLECTIONS, Ref, Sentence
from ground_probe.datasets.sources import FileImage
from ground_probe.errors import InputError

IMAGE_FOLDERS = ("train2014", "images/train2014", "images/mscoco/images/train2014", "images")


def find(root: Path, dataset: str) -> Path | None:
    """The folder of `refs(<owner>).p`: the root, or its folder of the data set's name."""
    collection = COLLECTIONS[dataset]
    for folder in (root / collection.folder, root):
        if (folder / f"refs({collection.owner}).p").is_file():
            return folder
    return None


def image_folder(folder: Path) -> Path:
    """The folder of the photos: inside the data set's folder or beside it.

    Raises:
        InputError: there is none.
    """
    for parent in (folder, folder.parent):
        for name in IMAGE_FOLDERS:
            if (parent / name).is_dir():
                return parent / name
    raise InputError(f"no photos beside {folder}: expected one of {', '.join(IMAGE_FOLDERS)}")


def read(folder: Path, dataset: str, split: str) -> list[Ref]:
    """The refs of one split, photos and masks not yet decoded.

    Raises:
        InputError: a file is missing or damaged, or the pickle holds more than plain data.
    """
    owner = COLLECTIONS[dataset].owner
    refs_path, instances_path = folder / f"refs({owner}).p", folder / "instances.json"
    refs = _parsed(refs_path, _unpickle)
    instances = _parsed(instances_path, lambda data: json.loads(data))
    photos = image_folder(folder)
    try:
        images = {image["id"]: image for image in instances["images"]}
        annotations = {each["id"]: each for each in instances["annotations"]}
        return [
            _ref(ref, annotations[ref["ann_id"]], images[ref["image_id"]], photos)
            for ref in refs
            if ref["split"] == split
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{refs_path} and instances.json do not fit together: {type(error).__name__} {error}"
        ) from error


def _ref(ref: Any, annotation: Any, image: Any, photos: Path) -> Ref:
    # The refs' own file_name ends in "_<n>.jpg" and does not exist.
    return Ref(
        ref_id=ref["ref_id"],
        ann_id=ref["ann_id"],
        image_id=ref["image_id"],
        image_size_px=(image["height"], image["width"]),
        image=FileImage(str(photos / Path(image["file_name"]).name)),
        segmentation=annotation["segmentation"],
        sentences=tuple(
            Sentence(each["sent_id"], each["sent"], each["raw"]) for each in ref["sentences"]
        ),
    )


def _parsed(path: Path, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(path.read_bytes())
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
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
