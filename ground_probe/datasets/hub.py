"""RefCOCO from the hub's Parquet files, at a pinned revision: photos, polygons and ids in one."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ground_probe.datasets.refcoco import COLLECTIONS
from ground_probe.datasets.referent import Ref, make_ref
from ground_probe.datasets.sources import ParquetImage, check_room
from ground_probe.errors import InputError

REPO = "jxu124/refcoco-benchmark"
REVISION = "2f2f892835bbf44b4db81f1c4ad6d46a3e9e4359"
MAX_ROWS = 200_000
MAX_TEXT_BYTES = 2**27  # of a row group without its photos
IMAGE_BYTES = 170_000  # mean size of a photo in these files


def find(root: Path, dataset: str, split: str) -> list[Path]:
    """The split's Parquet files in a folder or its `data/`, or the file itself; may be none.

    Raises:
        InputError: some of the files "…-00000-of-00002.parquet" are there and some are not.
    """
    if root.suffix == ".parquet" and os.path.isfile(root):
        return [root]
    if not os.path.isdir(root):
        return []
    pattern = f"{COLLECTIONS[dataset].hub}_{split}-*.parquet"
    paths = sorted(root.glob(pattern)) or sorted(root.glob(f"data/{pattern}"))
    paths = [path for path in paths if path.is_file()]  # no FIFOs
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
            _check_layout(path, file)
            for group in range(file.num_row_groups):
                check_room(file.metadata, group, "ref_list", MAX_TEXT_BYTES, MAX_TEXT_BYTES)
                check_room(file.metadata, group, "image_info", MAX_TEXT_BYTES, MAX_TEXT_BYTES)
                rows = file.read_row_group(group, columns=["ref_list", "image_info"]).to_pylist()
                for number, row in enumerate(rows):
                    image = ParquetImage(str(path), group, number)
                    if wrong := {ref["ref_info"]["split"] for ref in row["ref_list"]} - {split}:
                        raise InputError(f"{path} holds refs of {sorted(wrong)}, not of {split!r}")
                    refs += [
                        make_ref(each["ref_info"], each["ann_info"], row["image_info"], image)
                        for each in row["ref_list"]
                    ]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, pa.ArrowException, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged: {type(error).__name__}: {error}; fetch it again"
        ) from error
    return refs


def _check_layout(path: Path, file: pq.ParquetFile) -> None:
    columns = file.schema_arrow.names
    if not {"ref_list", "image_info", "image"} <= set(columns):
        raise InputError(
            f"it is of an unknown layout, with the columns {', '.join(columns[:12])}; expected "
            f"ref_list, image_info and image, as in {REPO}, a REFER folder, or data of one's own"
        )
    if file.metadata.num_rows > MAX_ROWS:
        raise InputError(f"it has {file.metadata.num_rows:,} rows, no split more than {MAX_ROWS:,}")
