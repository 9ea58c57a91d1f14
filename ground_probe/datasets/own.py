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
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from ground_probe.datasets.refcoco import COLLECTIONS
from ground_probe.datasets.referent import Ref, Sentence, Target, shortened
from ground_probe.datasets.refs import MAX_CHARACTERS
from ground_probe.datasets.sources import FileImage
from ground_probe.errors import InputError, unknown
from ground_probe.images import orientation
from ground_probe.io import read_file

SUFFIXES = (".jsonl", ".csv", ".json")
NAMED = ("train", "val", "test")
MAX_BYTES = 2**30
Row = tuple[str, Mapping[str, Any]]
"""Where a row stands, as messages say it, and its fields."""

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
    file, rows = _labelled(path, split)
    names = dict.fromkeys(str(row["split"]) for _, row in rows)
    if split not in names:
        raise unknown(f"split of {file}", split, names)
    objects: dict[str, str] = {}
    return [
        _ref(number, where, row, file.parent, objects)
        for number, (where, row) in enumerate(rows, start=1)
        if row["split"] == split
    ]


def splits(path: Path) -> tuple[str, ...]:
    """The splits that there are; none where the data cannot be read."""
    names: dict[str, None] = {}
    for name in NAMED:
        with suppress(InputError):
            names |= dict.fromkeys(str(row["split"]) for _, row in _labelled(path, name)[1])
    return tuple(names)


def _labelled(path: Path, split: str) -> tuple[Path, list[Row]]:
    """A file and its rows, each with a split."""
    file, rows = _rows(path, split)
    if not rows:
        raise InputError(f"{file} holds no rows: expected {_LAYOUT}")
    named = file.stem if file.stem in NAMED else "test"
    return file, [(where, {"split": named} | dict(row)) for where, row in rows]


def _rows(path: Path, split: str) -> tuple[Path, list[Row]]:
    """The file that holds a split, or stands for a folder's files, and its rows."""
    if not os.path.isdir(path):
        return path, list(_parsed(path))
    named = [path / f"{split}{suffix}" for suffix in SUFFIXES]
    files = [file for file in named if file.is_file()]
    files = files or sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if len(files) == 1:
        return files[0], list(_parsed(files[0]))
    if files:
        names = ", ".join(file.name for file in files[:5])
        raise InputError(f"{path} holds {names}: name the file, or call it {split}.jsonl")
    for folder, name in ((path / split, split), (path, "test")):
        if (folder / "images").is_dir():
            return folder / name, list(_files(folder))
    raise InputError(f"{path} holds no data: expected rows of {_LAYOUT}")


def _files(folder: Path) -> Iterator[Row]:
    for photo in sorted((folder / "images").iterdir()):
        text = folder / "expressions" / f"{photo.stem}.txt"
        try:
            lines = read_file(text, MAX_BYTES).decode().splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{text} is no text in UTF-8: {error}") from error
        yield (
            str(photo),
            {
                "image": f"images/{photo.name}",
                "expressions": [line for line in lines if line.strip()],
                "mask": f"masks/{photo.stem}.png",
            },
        )


def _parsed(file: Path) -> Iterator[Row]:
    if file.suffix not in SUFFIXES:
        raise InputError(f"{file}: its name must end in {', '.join(SUFFIXES)}, or be a folder's")
    try:
        text = read_file(file, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no text in UTF-8: {error}") from error
    if file.suffix == ".csv":
        yield from _csv(file, text)
    elif file.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield _row(f"{file}, line {number}", _json(f"{file}, line {number}", line))
    else:
        whole = _json(str(file), text)
        if isinstance(whole, Mapping):
            yield from _coco(file, whole)
        elif isinstance(whole, list):
            for number, row in enumerate(whole):
                yield _row(f"{file}, [{number}]", row)
        else:
            raise InputError(f"{file} is neither a list of rows nor COCO-style: expected {_LAYOUT}")


def _csv(file: Path, text: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            if None in row or None in row.values():
                raise InputError(f"{where}: not as many cells as the header has: quote commas")
            if str(row.get("mask")).lstrip()[:1] in ("{", "["):
                row["mask"] = _json(f"{where}, mask", str(row["mask"]))
            yield _row(where, row)
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: {error}") from error


def _coco(file: Path, whole: Mapping[str, Any]) -> Iterator[Row]:
    images, annotations = whole.get("images"), whole.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise InputError(f"{file} has no lists of images and annotations, as COCO's JSON has")
    folder = "images/" if (file.parent / "images").is_dir() else ""
    try:
        photos = {image["id"]: image for image in images}
        names = {key: folder + image["file_name"] for key, image in photos.items()}
    except (KeyError, TypeError) as error:
        raise InputError(f"{file}, images: an image without {error}") from error
    for number, annotation in enumerate(annotations):
        where = f"{file}, annotations[{number}]"
        _, annotation = _row(where, annotation)
        image_id = annotation.get("image_id")
        if not isinstance(image_id, int | str) or image_id not in photos:
            raise InputError(f"{where}, image_id: {shortened(image_id)} is not among the images")
        split = annotation.get("split", photos[image_id].get("split"))
        row = {**annotation, "image": names[image_id], "mask": annotation.get("segmentation")}
        yield where, row | ({} if split is None else {"split": split})


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON: {error}") from error


def _row(where: str, row: Any) -> Row:
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: {shortened(row)} is no row: expected {_LAYOUT}")
    return where, row


def _ref(
    number: int, where: str, row: Mapping[str, Any], folder: Path, objects: dict[str, str]
) -> Ref:
    """A row as a ref; rows with one mask in one image mean one object."""
    image, mask = row.get("image"), row.get("mask")
    if not isinstance(image, str) or not image:
        raise InputError(f"{where}, image: {shortened(image)} is no path")
    if isinstance(mask, str) and mask:
        segmentation: Any = FileImage(str(folder / mask))
        read_file(segmentation.path, MAX_BYTES)
    elif isinstance(mask, list | dict) and mask:
        segmentation = mask
        _not_shares(where, mask)
    else:
        raise InputError(
            f"{where}, mask: {shortened(mask)} is no path, run lengths or list of polygons"
        )
    spelled = json.dumps([image, mask], sort_keys=True)
    ann_id = objects.setdefault(spelled, f"{where.removeprefix(f'{folder}/')}, mask")
    return Ref(
        ref_id=number,
        targets=(Target(ann_id, segmentation),),
        image_id=image,
        image_size_px=_size_px(where, folder / image),
        image=FileImage(str(folder / image)),
        sentences=tuple(
            Sentence(index, text, text) for index, text in enumerate(_texts(where, row))
        ),
    )


def _texts(where: str, row: Mapping[str, Any]) -> list[str]:
    name = "expressions" if "expressions" in row else "expression"
    texts = row.get(name)
    texts = texts if isinstance(texts, list) else [texts]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"{where}, {name}: {shortened(row.get(name))} is no text or list of texts")
    if any(len(text) > MAX_CHARACTERS for text in texts):
        raise InputError(
            f"{where}, {name}: {shortened(row.get(name))}, expected a text of at most "
            f"{MAX_CHARACTERS:,} characters"
        )
    return texts


def _not_shares(where: str, mask: Any) -> None:
    """Polygons in shares of the image's sides would be a mask of a pixel."""
    parts = mask if isinstance(mask, list) else []
    values = [value for part in parts for value in (part if isinstance(part, list) else [part])]
    if values and all(isinstance(value, int | float) and 0 <= value <= 1 for value in values):
        raise InputError(f"{where}, mask: all coordinates are between 0 and 1: give pixels")


def _size_px(where: str, path: Path) -> tuple[int, int]:
    """(height, width) of a photo by its header, which must lie as its mask does."""
    encoded = io.BytesIO(_bytes(where, path))
    try:
        with Image.open(encoded) as image:
            size_px, turned = (image.height, image.width), orientation(image)
    except Exception as error:  # damaged files raise nearly anything
        raise InputError(f"{where}, image: {path} is no sound image: {error}") from error
    if turned != 1:
        raise InputError(
            f"{where}, image: {path} has the EXIF orientation {turned}, and its mask may lie "
            "either way: store the photo upright, without it"
        )
    return size_px


def _bytes(where: str, path: Path) -> bytes:
    try:
        return read_file(path, MAX_BYTES)
    except InputError as error:
        raise InputError(f"{where}, image: {error}") from error
