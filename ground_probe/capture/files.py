"""A trace as one safetensors file: tensors by site, and everything else in its header."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ground_probe.capture.layout import Layout
from ground_probe.capture.sites import Captured
from ground_probe.capture.traces import Trace
from ground_probe.errors import InputError
from ground_probe.geometry import Geometry

_TENSORS = (
    "hidden", "attention", "attention_from_text", "attention_output", "propagated", "affinity",
    "key_mass", "prediction",
)  # fmt: skip


def save_trace(trace: Trace, path: str | Path) -> None:
    """Write a trace to a file, whole or not at all.

    Args:
        trace: from `gp.trace` or `gp.capture`.
        path: of the file; its folder exists.
    """
    path = Path(path)
    tensors = {
        _spell(kind, site): tensor.detach().contiguous()
        for kind in _TENSORS
        for site, tensor in getattr(trace, kind).items()
    }
    if trace.reference is not None:
        tensors["reference"] = trace.reference.contiguous()
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, part, {"trace": json.dumps(_facts(trace))})
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_trace(path: str | Path) -> Trace:
    """The trace in a file that `Trace.save` wrote.

    ```python
    trace.save("seen.pt")
    gp.load_trace("seen.pt")
    ```

    Raises:
        InputError: not such a file.
    """
    parts: dict[str, Any] = {kind: Captured() for kind in _TENSORS} | {"prediction": {}}
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["trace"])
            for name in file.keys():  # noqa: SIM118 - not a mapping
                kind, *site = name.split("|")
                if kind == "reference":
                    parts[kind] = file.get_tensor(name)
                    continue
                key = tuple(int(s) if place == 1 else s for place, s in enumerate(site))
                parts[kind][int(site[0]) if kind == "prediction" else key] = file.get_tensor(name)
            return Trace(**parts | _understood(facts))
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise InputError(f"{path} is no trace that `Trace.save` wrote: {error}") from error


def _spell(kind: str, site: Any) -> str:
    return "|".join(map(str, (kind, *(site if isinstance(site, tuple) else (site,)))))


def _facts(trace: Trace) -> dict[str, Any]:
    named = {part.name: getattr(trace, part.name) for part in fields(trace)}
    tensors = (*_TENSORS, "reference", "inputs")  # a graph cannot be written
    plain = {name: named[name] for name in named if name not in tensors}
    return plain | {
        "device": str(trace.device),
        "dtype": str(trace.dtype).removeprefix("torch."),
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
