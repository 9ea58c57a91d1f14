"""Digests of values; files read within bounds, and written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ground_probe.errors import InputError

_ABANDONED_SECONDS = 3600


def canonical_json(value: Any) -> str:
    """JSON with one spelling for one value, the text that digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any, length: int = 12) -> str:
    """Hexadecimal SHA-256 of the canonical JSON of `value`, shortened to `length` digits.

    >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    True
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def seed_of(key: str, seed: int = 0) -> int:
    """The seed of an example's noise, everywhere: the example's own, whatever the order of a run.

    Args:
        key: of the example.
        seed: of the run.

    >>> seed_of("scenes/test/0/17") == seed_of("scenes/test/0/17", 0) != seed_of("scenes/test/0/18")
    True
    """
    return int(digest([seed, key], length=8), 16) >> 1


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Write a file whole or not at all: `with whole_file(path) as part: part.write_text(...)`.

    What is written to `part`, a hidden name in the same folder, is flushed to the disk and then
    renamed. However the process ends, `path` is the old file or the new one. A part that a killed
    process left behind is removed when the same file is next written.

    Args:
        path: what to write; a link is replaced, not followed.

    Raises:
        InputError: it cannot be written; the old file is as it was.
    """
    path = Path(path)
    name = path.name[:40]  # the whole name may be as long as the file system allows
    part = path.with_name(f".{name}.{secrets.token_hex(4)}.part")
    try:
        _remove_abandoned(path.parent, name)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write {path}: {reason}; choose another place") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def read_file(path: Path | str, max_bytes: int) -> bytes:
    """The contents of a regular file; a FIFO, a device and a folder are refused unopened.

    Raises:
        InputError: there is no such file, it is not regular or larger than that, or cannot be read.
    """
    if not os.path.isfile(path):
        there = os.path.exists(path)
        raise InputError(f"{path} is no regular file" if there else f"no such file: {path}")
    if (size := os.path.getsize(path)) > max_bytes:
        raise InputError(f"{path} is of {size:,} bytes, at most {max_bytes:,}")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def writable_folder(path: Path | str) -> Path:
    """Make a folder of results and return its absolute path.

    Raises:
        InputError: it has no name, or cannot be made or written into.
    """
    if not str(path).strip():
        raise InputError("the output folder has no name: give one, such as runs/first")
    folder = Path(path).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the output folder {folder}: {error.strerror}; choose another"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"cannot write into the output folder {folder}: choose another")
    return folder


def _remove_abandoned(folder: Path, name: str) -> None:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(f".{name}.") and entry.name.endswith(".part"):
                with suppress(OSError):
                    if time.time() - entry.stat().st_mtime > _ABANDONED_SECONDS:
                        os.unlink(entry.path)
