"""A trace as one safetensors file: tensors by site, and everything else in its header."""

from __future__ import annotations

import json
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
from ground_probe.io import whole_file

_TENSORS = (
    "hidden", "attention", "attention_from_text", "attention_output", "propagated", "affinity",
    "key_mass", "prediction",
)  # fmt: skip


def save_trace(trace: Trace, path: str | Path) -> None:
    """Write a trace to a file, whole or not at all; its folder exists."""
    tensors = {
        "|".join(map(str, (kind, *(site if isinstance(site, tuple) else (site,))))): tensor
        for kind in _TENSORS
        for site, tensor in getattr(trace, kind).items()
    }
    if trace.reference is not None:
        tensors["reference"] = trace.reference
    apart = (*_TENSORS, "reference", "inputs")  # a graph cannot be written
    plain = {part.name: getattr(trace, part.name) for part in fields(trace)}
    facts = {name: value for name, value in plain.items() if name not in apart} | {
        "device": str(trace.device),
        "dtype": str(trace.dtype).removeprefix("torch."),
        "layout": asdict(trace.layout),
        "geometry": trace.geometry and asdict(trace.geometry),
    }
    held = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as part:
        save_file(held, part, {"trace": json.dumps(facts)})


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
            facts = _understood(json.loads(file.metadata()["trace"]))
            for name in file.keys():  # noqa: SIM118 - not a mapping
                kind, *site = name.split("|")
                key = tuple(int(part) if part.isdigit() else part for part in site)
                if kind == "reference":
                    parts[kind] = file.get_tensor(name)
                else:
                    parts[kind][key if len(key) > 1 else key[0]] = file.get_tensor(name)
        facts["layout"] = Layout(**facts["layout"])
        facts["geometry"] = facts["geometry"] and Geometry(**facts["geometry"])
        return Trace(**parts | facts)
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise InputError(f"{path} is no trace that `Trace.save` wrote: {error}") from error


def _understood(value: Any) -> Any:
    """What JSON made of tuples, and of steps as keys."""
    if isinstance(value, list):
        return tuple(map(_understood, value))
    if isinstance(value, dict):
        return {int(k) if k.isdigit() else k: _understood(v) for k, v in value.items()}
    return value
