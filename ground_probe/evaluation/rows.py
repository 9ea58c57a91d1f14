"""The events of an evaluation, one JSON line each: what is written, and what is believed.

`ok` holds counted pixels and the mask, `error` a message. `started` is written before a sentence is
run in this process, `stopped` where somebody ended the process in peace. A `started` without an end
is a process that died of its sentence.
"""

from __future__ import annotations

import json
import traceback
import warnings
from collections.abc import Mapping
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
        raise InputError(f"{row['example']}: no mask, for it failed or is a baseline's")
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
    lines = traceback.format_exception(error, limit=-6)
    text = "".join(lines).encode(errors="backslashreplace").decode()
    return about | {"error": one_line(error), "traceback": text[-4000:]}


def kind_of(row: Row) -> str | None:
    """The class of a row's error and the line that raised it; None where it has none."""
    if row["status"] == "ok":
        return None
    places = [x for x in row.get("traceback", "").splitlines() if x.startswith("  File ")]
    return " ".join([row["error"].partition(":")[0], *places[-1:]])


def one_line(error: BaseException | str) -> str:
    """A message that a table, a terminal and a file can hold."""
    if isinstance(error, BaseException):
        error = f"{type(error).__name__}: {error}"
    line = " ".join(error.split())[:500]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def whole_lines(path: Path) -> tuple[list[Row], int]:
    """The events of a file and the bytes that they take, without what an interrupted write left.

    Raises:
        InputError: it cannot be read; or a damaged line is followed by sound ones, or a whole line
            is no event: no interrupted write does that.
    """
    rows: list[Row] = []
    size, torn = 0, None
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                row = _parsed(line)
                if row is None:
                    torn = torn or number
                elif torn or not _is_sound(row):
                    raise InputError(
                        f"{path} is damaged at line {torn or number}: restore or remove the file"
                    )
                else:
                    rows.append(row)
                    size += len(line)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return rows, size


def _parsed(line: bytes) -> Any:
    """A line's value; None where the write of it did not end."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None


def _is_sound(event: Any) -> bool:
    """Whether a value is an event, and its pixels add up."""
    match event:
        case {"status": "stopped"} | {"status": "started", "keys": list()}:
            return True
        case {"status": "error", "key": str(), "error": str(), "seconds": int() | float()}:
            return True
        case {"status": "ok", "key": str(), "seconds": int() | float(), "inter_px": int(inter),
              "union_px": int(union), "pred_px": int(pred), "gold_px": int(gold)}:  # fmt: skip
            box_inter, box_union = (event.get(name, 0) for name in BOXES)
            added = 0 <= inter <= min(pred, gold) and union == pred + gold - inter
            return added and 0 <= box_inter <= box_union
    return False
