"""The hub's Parquet files at a pinned revision: photos, masks and ids in one, a row an image.

jxu124/refcoco-benchmark   image {bytes, path}, image_info {id, height, width, ...}, ref_list
                           [{ref_info as in REFER, ann_info {segmentation, ...}}, ...]
moondream/refcoco-m        image, image_id, file_name, samples [{id, sentences ["left man", ...],
                           mask {counts, size}, bbox, category, ...}, ...]; see its dataset card
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ground_probe.datasets.refcoco import COLLECTIONS
from ground_probe.datasets.referent import Ref, Sentence, Target, make_ref
from ground_probe.datasets.sources import ParquetImage
from ground_probe.errors import InputError

COLUMNS = (("ref_list", "image_info", "image"), ("samples", "image_id", "image"))
"""Of the two layouts."""
IMAGE_BYTES = 170_000  # mean size of a photo in these files
LARGE_BYTES = 512_000  # in those of RefCOCO-M


def find(root: Path, dataset: str, split: str) -> list[Path]:
    """The split's Parquet files in a folder or its `data/`, or the file itself; may be none."""
    if root.suffix == ".parquet" and os.path.isfile(root):
        return [root]
    if not os.path.isdir(root) or not COLLECTIONS[dataset].hub:
        return []
    pattern = f"{_files(dataset, split)}.parquet"
    paths = sorted(root.glob(pattern)) or sorted(root.glob(f"data/{pattern}"))
    return paths


def cached(dataset: str, split: str, download: bool = False) -> list[Path]:
    """The split's files in the local cache; from the hub only when `download` says so.

    Raises:
        InputError: the download failed.
    """
    collection = COLLECTIONS[dataset]
    if not collection.hub:
        return []
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            collection.repo,
            repo_type="dataset",
            revision=collection.revision,
            allow_patterns=[f"data/{_files(dataset, split)}"],
            local_files_only=not download,
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if download:
            message = str(error).strip().splitlines()[0]
            raise InputError(f"{collection.repo} cannot be downloaded: {message}") from error
        return []
    return find(Path(folder), dataset, split)


def command(dataset: str, split: str) -> str:
    """The shell command that puts the split's files into the local cache."""
    collection = COLLECTIONS[dataset]
    return (
        f"hf download {collection.repo} --repo-type dataset --revision {collection.revision} "
        f'--include "data/{_files(dataset, split)}"'
    )


def gigabytes(dataset: str, split: str) -> float:
    """About how big the split's files are."""
    images = COLLECTIONS[dataset].splits[split].images or 0
    return images * (LARGE_BYTES if dataset == "refcoco-m" else IMAGE_BYTES) / 1e9


def _files(dataset: str, split: str) -> str:
    return f"{COLLECTIONS[dataset].hub.format(split)}-*"


def read(paths: list[Path], split: str) -> list[Ref]:
    """The refs of a split's files, photos and masks not yet decoded.

    Raises:
        InputError: a file is damaged, or has another schema or another split's refs.
    """
    return [ref for path in paths for ref in _read_file(path, split)]


def _read_file(path: Path, split: str) -> list[Ref]:
    refs: list[Ref] = []
    try:
        with pq.ParquetFile(path) as file:
            columns = _layout(path, file)
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=columns[:2]).to_pylist()
                for number, row in enumerate(rows):
                    image = ParquetImage(str(path), group, number)
                    refs += (
                        _of_samples(row, image)
                        if "samples" in row
                        else _of_row(path, row, split, image)
                    )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, pa.ArrowException, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged: {type(error).__name__}: {error}; fetch it again"
        ) from error
    return refs


def _of_row(path: Path, row: Mapping[str, Any], split: str, image: ParquetImage) -> Iterator[Ref]:
    if wrong := {ref["ref_info"]["split"] for ref in row["ref_list"]} - {split}:
        raise InputError(f"{path} holds refs of {sorted(wrong)}, not of {split!r}")
    for each in row["ref_list"]:
        target = Target(each["ref_info"]["ann_id"], each["ann_info"].get("segmentation"))
        yield make_ref(each["ref_info"], [target], row["image_info"], image)


def _of_samples(row: Mapping[str, Any], image: ParquetImage) -> Iterator[Ref]:
    for each in row["samples"]:
        height, width = each["mask"]["size"]
        yield Ref(
            ref_id=each["id"],
            targets=(Target(each["id"], each["mask"]),),
            image_id=row["image_id"],
            image_size_px=(height, width),
            image=image,
            sentences=tuple(
                Sentence(number, text, text) for number, text in enumerate(each["sentences"])
            ),
        )


def _layout(path: Path, file: pq.ParquetFile) -> list[str]:
    columns = file.schema_arrow.names
    known = [list(names) for names in COLUMNS if set(names) <= set(columns)]
    if not known:
        raise InputError(
            f"it is of an unknown layout, with the columns {', '.join(columns[:12])}; expected "
            f"{' or '.join(', '.join(names) for names in COLUMNS)}, a REFER folder, or data of "
            "one's own"
        )
    return known[0]
