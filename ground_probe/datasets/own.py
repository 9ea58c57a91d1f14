"""Data of one's own: a JSONL, CSV or JSON file of rows, COCO-style JSON, or folders of files.

A row has `image`, a path; `expression`, a text, or `expressions`, a list; and `mask`: the path of
an image that is 0 where nothing is meant, or COCO run lengths, or polygons in pixels. Paths begin
at the file's folder. A row may have a `split`; without, all are of the split that the file is
named after (`val.jsonl`), or else of "test".

    my/rows.jsonl   {"image": "a.jpg", "expressions": ["left man", "he"], "mask": "a-1.png"}
    my/rows.csv     image,expression,mask
    my/coco.json    {"images": [...], "annotations": [{..., "expressions": [...]}]}
    my/images/a.jpg, my/masks/a.png, my/expressions/a.txt (one a line), or the three in my/val/
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ground_probe.datasets.refcoco import COLLECTIONS
from ground_probe.datasets.referent import Ref, Sentence, Target, shortened
from ground_probe.datasets.sources import FileImage, header
from ground_probe.errors import InputError, unknown
from ground_probe.io import read_file

SUFFIXES = (".jsonl", ".csv", ".json")
NAMED = ("train", "val", "test")
MAX_BYTES = 2**30
Row = Mapping[str, Any]

_LAYOUT = "image, expression (or expressions) and mask; see ground_probe.datasets.own"


def is_path(dataset: str) -> bool:
    """Whether the name of a data set is that of a file or folder."""
    if dataset in COLLECTIONS:  # whatever folders there are where the command runs
        return False
    return Path(dataset).suffix in SUFFIXES or "/" in dataset or os.path.isdir(dataset)


def read(path: Path, split: str) -> list[Ref]:
    """The refs of one split, photos and masks not yet decoded.

    Raises:
        InputError: no data there, no such split, or a row that cannot be used; the message names
            the row and the field.
    """
    file, rows = _rows(path, split)
    names = dict.fromkeys(str(row["split"]) for row in rows.values())
    if split not in names:
        raise unknown(f"split of {file}", split, names)
    refs, objects = [], dict[str, str]()
    for number, (where, row) in enumerate(rows.items(), start=1):
        if row["split"] == split:
            try:
                refs.append(_ref(number, where, row, file.parent, objects))
            except InputError as error:
                raise InputError(f"{where}, {error}") from error
    return refs


def splits(path: Path) -> tuple[str, ...]:
    """The splits that there are; none where the data cannot be read."""
    names: dict[str, None] = {}
    for name in NAMED:
        with suppress(InputError):
            names |= dict.fromkeys(str(row["split"]) for row in _rows(path, name)[1].values())
    return tuple(names)


def _rows(path: Path, split: str) -> tuple[Path, dict[str, Row]]:
    """The file that holds a split, or stands for a folder's files, and its rows, by their place."""
    file, rows = _found(path, split)
    if not rows:
        raise InputError(f"{file} holds no rows: expected {_LAYOUT}")
    named = file.stem if file.stem in NAMED else "test"
    for where, row in rows.items():
        if not isinstance(row, Mapping):
            raise InputError(f"{where}: {shortened(row)} is no row: expected {_LAYOUT}")
    return file, {where: {"split": named} | dict(row) for where, row in rows.items()}


def _found(path: Path, split: str) -> tuple[Path, dict[str, Any]]:
    if not os.path.isdir(path):
        return path, _parsed(path)
    named = [path / f"{split}{suffix}" for suffix in SUFFIXES]
    files = [file for file in named if file.is_file()]
    files = files or sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if len(files) == 1:
        return files[0], _parsed(files[0])
    if files:
        names = ", ".join(file.name for file in files[:5])
        raise InputError(f"{path} holds {names}: name the file, or call it {split}.jsonl")
    for folder, name in ((path / split, split), (path, "test")):
        if (folder / "images").is_dir():
            return folder / name, _files(folder)
    raise InputError(f"{path} holds no data: expected rows of {_LAYOUT}")


def _files(folder: Path) -> dict[str, Any]:
    rows = {}
    for photo in sorted((folder / "images").iterdir()):
        lines = _text(folder / "expressions" / f"{photo.stem}.txt").splitlines()
        rows[str(photo)] = {
            "image": f"images/{photo.name}",
            "expressions": [line for line in lines if line.strip()],
            "mask": f"masks/{photo.stem}.png",
        }
    return rows


def _parsed(file: Path) -> dict[str, Any]:
    if file.suffix not in SUFFIXES:
        raise InputError(f"{file}: its name must end in {', '.join(SUFFIXES)}, or be a folder's")
    text = _text(file)
    if file.suffix == ".csv":
        return _csv(file, text)
    if file.suffix == ".jsonl":
        lines = {f"{file}, line {n}": line for n, line in enumerate(text.split("\n"), start=1)}
        return {where: _json(where, line) for where, line in lines.items() if line.strip()}
    whole = _json(str(file), text)
    if isinstance(whole, Mapping):
        return _coco(file, whole)
    if isinstance(whole, list):
        return {f"{file}, [{number}]": row for number, row in enumerate(whole)}
    raise InputError(f"{file} is neither a list of rows nor COCO-style: expected {_LAYOUT}")


def _csv(file: Path, text: str) -> dict[str, Any]:
    reader, rows = csv.DictReader(io.StringIO(text, newline="")), dict[str, Any]()
    try:
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            if None in row or None in row.values():
                raise InputError(f"{where}: not as many cells as the header has: quote commas")
            if str(row.get("mask")).lstrip()[:1] in ("{", "["):
                row["mask"] = _json(f"{where}, mask", str(row["mask"]))
            rows[where] = row
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: {error}") from error
    return rows


def _coco(file: Path, whole: Mapping[str, Any]) -> dict[str, Any]:
    images, annotations = whole.get("images"), whole.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise InputError(f"{file} has no lists of images and annotations, as COCO's JSON has")
    folder = "images/" if (file.parent / "images").is_dir() else ""
    rows = {}
    try:
        photos = {image["id"]: image for image in images}
        for number, annotation in enumerate(annotations):
            photo = photos[annotation["image_id"]]
            rows[f"{file}, annotations[{number}]"] = {
                **({"split": photo["split"]} if "split" in photo else {}),
                **annotation,
                "image": folder + photo["file_name"],
                "mask": annotation.get("segmentation"),
            }
    except (KeyError, TypeError) as error:
        raise InputError(f"{file}: images and annotations do not fit, no {error}") from error
    return rows


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON: {error}") from error


def _text(file: Path) -> str:
    try:
        return read_file(file, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no text in UTF-8: {error}") from error


def _ref(number: int, where: str, row: Row, folder: Path, objects: dict[str, str]) -> Ref:
    """A row as a ref; rows with one mask in one image mean one object."""
    image, mask = row.get("image"), row.get("mask")
    if not isinstance(image, str) or not image:
        raise InputError(f"image: {shortened(image)} is no path")
    size_px, turned = header(folder / image)
    if turned != 1:
        raise InputError(
            f"image: {image} has the EXIF orientation {turned}, and its mask may lie either way: "
            "store the photo upright, without it"
        )
    segmentation: Any = mask
    if isinstance(mask, str) and mask:
        segmentation = FileImage(str(folder / mask))
        if not os.path.isfile(segmentation.path):
            raise InputError(f"mask: no such file: {segmentation}")
    elif isinstance(mask, list | dict) and mask:
        _not_shares(mask)
    else:
        raise InputError(f"mask: {shortened(mask)} is no path, run lengths or list of polygons")
    spelled = json.dumps([image, mask], sort_keys=True)
    ann_id = objects.setdefault(spelled, f"{where.removeprefix(f'{folder}/')}, mask")
    sentences = tuple(Sentence(index, text, text) for index, text in enumerate(_texts(row)))
    photo = FileImage(str(folder / image))
    return Ref(number, (Target(ann_id, segmentation),), image, size_px, photo, sentences)


def _texts(row: Row) -> list[str]:
    name = "expressions" if "expressions" in row else "expression"
    texts = row.get(name)
    texts = texts if isinstance(texts, list) else [texts]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"{name}: {shortened(row.get(name))} is no text or list of texts")
    return texts


def _not_shares(mask: Any) -> None:
    """Polygons in shares of the image's sides would be a mask of a pixel."""
    parts = mask if isinstance(mask, list) else []
    values = [value for part in parts for value in (part if isinstance(part, list) else [part])]
    if values and all(isinstance(value, int | float) and 0 <= value <= 1 for value in values):
        raise InputError("mask: all coordinates are between 0 and 1: give pixels")
