"""RefCOCO from the hub's Parquet files, at a pinned revision: photos, polygons and ids in one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ground_probe.datasets.refcoco import COLLECTIONS, Ref, Sentence
from ground_probe.datasets.sources import ParquetImage
from ground_probe.errors import InputError

REPO = "jxu124/refcoco-benchmark"
REVISION = "2f2f892835bbf44b4db81f1c4ad6d46a3e9e4359"
IMAGE_BYTES = 170_000  # mean size of a photo in these files


def find(root: Path, dataset: str, split: str) -> list[Path]:
    """The split's Parquet files in a folder or its `data/`, or the file itself; may be none.

    Raises:
        InputError: some of the files "…-00000-of-00002.parquet" are there and some are not.
    """
    if root.is_file() and root.suffix == ".parquet":
        return [root]
    pattern = f"{COLLECTIONS[dataset].hub}_{split}-*.parquet"
    paths = sorted(root.glob(pattern)) or sorted(root.glob(f"data/{pattern}"))
    if paths and (whole := re.search(r"-of-(\d+)", paths[0].name)) and len(paths) != int(whole[1]):
        raise InputError(f"{paths[0].parent} holds {len(paths)} of {int(whole[1])} files {pattern}")
    return paths


def cached(dataset: str, split: str, download: bool = False) -> list[Path]:
    """The split's files in the local cache; from the hub only when `download` says so.

    Raises:
        InputError: the download failed.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    pattern = f"data/{COLLECTIONS[dataset].hub}_{split}-*"
    try:
        folder = snapshot_download(
            REPO,
            repo_type="dataset",
            revision=REVISION,
            allow_patterns=[pattern],
            local_files_only=not download,
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if download:
            message = str(error).strip().splitlines()[0]
            raise InputError(f"{REPO} cannot be downloaded: {message}") from error
        return []
    return find(Path(folder), dataset, split)


def command(dataset: str, split: str) -> str:
    """The shell command that puts the split's files into the local cache."""
    include = f"data/{COLLECTIONS[dataset].hub}_{split}-*"
    return f'hf download {REPO} --repo-type dataset --revision {REVISION} --include "{include}"'


def gigabytes(dataset: str, split: str) -> float:
    """About how big the split's files are."""
    return COLLECTIONS[dataset].splits[split].images * IMAGE_BYTES / 1e9


def read(paths: list[Path], split: str) -> list[Ref]:
    """The refs of a split's files, photos and masks not yet decoded.

    Raises:
        InputError: a file is damaged, or has another schema or another split's refs.
    """
    return [ref for path in paths for ref in _read_file(path, split)]


def _read_file(path: Path, split: str) -> list[Ref]:
    refs = []
    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=["ref_list", "image_info"]).to_pylist()
                for number, row in enumerate(rows):
                    image = ParquetImage(str(path), group, number)
                    refs += [_ref(each, row["image_info"], image) for each in row["ref_list"]]
                    if wrong := {ref["ref_info"]["split"] for ref in row["ref_list"]} - {split}:
                        raise InputError(f"{path} holds refs of {sorted(wrong)}, not of {split!r}")
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is damaged or not a file of {REPO} ({type(error).__name__}: {error})"
        ) from error
    return refs


def _ref(entry: Any, image_info: Any, image: ParquetImage) -> Ref:
    ref, annotation = entry["ref_info"], entry["ann_info"]
    return Ref(
        ref_id=ref["ref_id"],
        ann_id=ref["ann_id"],
        image_id=ref["image_id"],
        image_size_px=(image_info["height"], image_info["width"]),
        image=image,
        segmentation=annotation["segmentation"],
        sentences=tuple(
            Sentence(each["sent_id"], each["sent"], each["raw"]) for each in ref["sentences"]
        ),
    )
