"""The events of an evaluation, one JSON line each: what is written, and what is believed.

`ok` holds counted pixels and the mask, `error` a message. `started` is written before a sentence is
run in this process, `stopped` where somebody ended it in peace. A `started` without an end is a
process that died of its sentence.
"""

from __future__ import annotations

import json
import os
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from ground_probe.datasets.example import Mask
from ground_probe.errors import InputError

Row = dict[str, Any]
COUNTS = ("inter_px", "union_px", "pred_px", "gold_px")
BOXES = ("box_inter_px", "box_union_px")
"""Of the boxes around the masks; rows from before they were counted have none."""


def row(key: str, counts: Mapping[str, int], seconds: float, mask: Mask | None = None) -> Row:
    """One result: pixels counted, from which every score is derived, and the mask if it is kept."""
    about = {"key": key, "status": "ok", **counts, "seconds": round(seconds, 4)}
    if mask is None:
        return about
    code = coco.encode(np.asfortranarray(mask, np.uint8))
    return about | {"mask": {"size": list(mask.shape), "counts": code["counts"].decode()}}


def mask_of(row: Mapping[str, Any]) -> Mask:
    """The predicted mask of a row of `rows.parquet`, at the image's size.

    Raises:
        InputError: the row has none, or it is not the mask that was counted.
    """
    if not isinstance(row["mask"], str):
        raise InputError(f"{row['example']}: no mask, for it failed or masks were not kept")
    try:
        with warnings.catch_warnings():  # pycocotools 2.0.11 has no `copy` in its __array__
            warnings.simplefilter("ignore", DeprecationWarning)
            mask = coco.decode(json.loads(row["mask"])).astype(bool)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{row['example']}: the mask cannot be decoded ({error})") from error
    if np.count_nonzero(mask) != row["pred_px"]:
        raise InputError(f"{row['example']}: the mask is not the one that was counted: damaged")
    return mask


def error_row(key: str, error: BaseException | str, seconds: float = 0.0) -> Row:
    """One failure: its class and its message on one line, and its traceback if it has one."""
    about = {"key": key, "status": "error", "seconds": round(seconds, 4)}
    if isinstance(error, str):
        return about | {"error": one_line(error)}
    lines = traceback.format_exception(error, limit=-12)
    text = "".join(lines).encode(errors="backslashreplace").decode()
    return about | {"error": one_line(error), "traceback": text[-8000:]}


def one_line(error: BaseException | str) -> str:
    """A message that a table, a terminal and a file can hold."""
    if isinstance(error, BaseException):
        error = f"{type(error).__name__}: {error}"
    line = " ".join(error.split())[:500]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def regular_file(path: Path) -> None:
    """Raise OSError for a link, a folder, a pipe or a device."""
    if path.is_symlink():
        raise OSError("a link to another file: remove it")
    if not path.is_file():
        raise OSError("not a file")


def whole_lines(path: Path) -> Iterator[tuple[Row, bytes]]:
    """Every row of a file up to a torn tail, with its bytes.

    Raises:
        InputError: no plain file; or a damaged line is followed by sound ones, or a whole line is
            no row: no interrupted write does that.
    """
    damaged = None
    try:
        if os.path.lexists(path):
            regular_file(path)
        with suppress(FileNotFoundError), path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                parsed = _parsed(line)
                if parsed is None:
                    damaged = damaged or number
                elif damaged:
                    raise InputError(f"{path} is damaged at line {damaged}: restore or remove it")
                elif problem := _problem(parsed):
                    raise InputError(
                        f"{path} line {number} is no row of an evaluation ({problem}): restore or "
                        "remove the file"
                    )
                else:
                    yield parsed, line
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _parsed(line: bytes) -> Row | None:
    if not line.endswith(b"\n"):
        return None
    try:
        parsed = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _problem(row: Row) -> str | None:
    """What is wrong with a row, if anything."""
    status = row.get("status")
    if status == "stopped":
        return None
    if status == "started":
        keys = row.get("keys")
        sound = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
        return None if sound else "keys that are no list of texts"
    if status not in ("ok", "error"):
        return f"status {str(status)[:40]!r}"
    if not isinstance(row.get("key"), str):
        return "no key"
    if not _is_time(row.get("seconds")):
        return "seconds that are no time"
    if status == "error":
        texts = (row.get("error", None), row.get("traceback", ""))
        return None if all(map(_is_text, texts)) else "an error without a message"
    if not all(_is_count(row.get(name)) for name in COUNTS):
        return "pixels that are no whole numbers"
    inter, union, pred, gold = (row[name] for name in COUNTS)
    if inter > min(pred, gold) or union != pred + gold - inter:
        return "pixels that do not add up"
    boxes = [row[name] for name in BOXES if name in row]
    if boxes and not (len(boxes) == 2 and all(map(_is_count, boxes)) and boxes[0] <= boxes[1]):
        return "boxes that do not add up"
    return None if _is_mask(row.get("mask")) else "a mask that is no run lengths"


def _is_time(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < 1e9


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40


def _is_text(value: Any) -> bool:
    """Whether a file can hold it: a text without half a pair of surrogates."""
    return isinstance(value, str) and value == value.encode(errors="replace").decode()


def _is_mask(value: Any) -> bool:
    """Whether it is a mask as COCO writes it, or none."""
    if value is None:
        return True
    size = value.get("size") if isinstance(value, dict) else None
    sides = isinstance(size, list) and len(size) == 2 and all(map(_is_count, size))
    return sides and _is_text(value.get("counts"))
