"""Traces on disk, one safetensors file each, with a manifest: an interrupted collection goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from ground_probe.capture.layout import Layout
from ground_probe.capture.sites import Captured
from ground_probe.capture.trace import Trace
from ground_probe.errors import IncompleteError, unknown
from ground_probe.geometry import Geometry

_TENSORS = (
    "hidden", "attention", "attention_from_text", "attention_output", "propagated", "affinity",
    "key_mass", "prediction",
)  # fmt: skip


class TraceStore:
    """A folder of traces by key. A trace is in the manifest once its file is whole.

    Args:
        folder: made if it does not exist.

    Raises:
        IncompleteError: the manifest names a file that is not there, or not of its size.

    ```python
    store = TraceStore("runs/traces")
    for example in split:
        if example.key not in store:
            store.write(example.key, gp.trace(editor, example.image, ...))
    ```
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._manifest = self.folder / "manifest.jsonl"
        self._rows: dict[str, dict[str, Any]] = {}
        lines = self._manifest.read_text().split("\n") if self._manifest.is_file() else []
        # What follows the last line break was cut off while it was written.
        for line in lines[:-1]:
            row = json.loads(line)
            path = self.folder / row["file"]
            if not path.is_file() or path.stat().st_size != row["bytes"]:
                raise IncompleteError(
                    f"{path} is missing or not of the {row['bytes']} bytes that {self._manifest} "
                    "says: delete its line to have it captured again"
                )
            self._rows[row["key"]] = row
        if lines and lines[-1]:
            self._manifest.write_text("".join(f"{line}\n" for line in lines[:-1]))

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def write(self, key: str, trace: Trace, **extra: Any) -> None:
        """Store a trace.

        Args:
            key: what it is found by.
            trace: from `gp.trace`.
            extra: JSON values for the manifest, such as the instruction.
        """
        name = hashlib.sha256(key.encode()).hexdigest()[:16] + ".safetensors"
        part = self.folder / f"{name}.part"
        tensors = {
            _spell(kind, site): tensor.contiguous()
            for kind in _TENSORS
            for site, tensor in getattr(trace, kind).items()
        }
        if trace.reference is not None:
            tensors["reference"] = trace.reference.contiguous()
        save_file(tensors, part, {"trace": json.dumps(_facts(trace))})
        os.replace(part, self.folder / name)
        row = {"key": key, "file": name, "bytes": (self.folder / name).stat().st_size, **extra}
        with self._manifest.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._rows[key] = row

    def read(self, key: str) -> Trace:
        """The trace of a key.

        Raises:
            UnknownNameError: there is none.
        """
        if key not in self._rows:
            raise unknown("trace", key, self._rows)
        parts: dict[str, Any] = {kind: Captured() for kind in _TENSORS}
        with safe_open(self.folder / self._rows[key]["file"], "pt") as file:
            facts = json.loads(file.metadata()["trace"])
            for name in file.keys():  # noqa: SIM118 - not a mapping
                kind, *site = name.split("|")
                if kind == "reference":
                    parts[kind] = file.get_tensor(name)
                    continue
                where = tuple(int(s) if place == 1 else s for place, s in enumerate(site))
                parts[kind][int(site[0]) if kind == "prediction" else where] = file.get_tensor(name)
        return Trace(**parts | _understood(facts))


def _spell(kind: str, site: Any) -> str:
    return "|".join(map(str, (kind, *(site if isinstance(site, tuple) else (site,)))))


def _facts(trace: Trace) -> dict[str, Any]:
    named = {part.name: getattr(trace, part.name) for part in fields(trace)}
    plain = {name: named[name] for name in named if name not in (*_TENSORS, "reference")}
    return plain | {
        "device": str(trace.device),
        "layout": asdict(trace.layout),
        "geometry": trace.geometry and asdict(trace.geometry),
    }


def _understood(facts: dict[str, Any]) -> dict[str, Any]:
    facts = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
    grids = {s: tuple(map(tuple, grids)) for s, grids in facts["layout"]["grids"].items()}
    geometry = facts["geometry"]
    return facts | {
        "sigmas": {int(step): sigma for step, sigma in facts["sigmas"].items()},
        "timesteps": {int(step): timestep for step, timestep in facts["timesteps"].items()},
        "layout": Layout(**facts["layout"] | {"grids": grids}),
        "geometry": geometry and Geometry(**{k: _tuple(v) for k, v in geometry.items()}),
    }


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
