"""An editor's parts without its weights: the real classes, from configurations, on `meta`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from ground_probe.editors import FAMILIES, Editor, Family
from ground_probe.editors.hub import cached_index, repository
from ground_probe.editors.weights import TINY
from ground_probe.errors import InputError
from ground_probe.study.plan.facts import FACTS


@dataclass(frozen=True)
class Parts:
    """An editor whose modules have shapes and no weights.

    `folder` holds the configurations, None for the package's own facts; `missing` are modules whose
    configuration is not there.
    """

    editor: Editor = field(repr=False)
    modules: Mapping[str, nn.Module] = field(repr=False)
    folder: Path | None
    missing: tuple[str, ...]


def build(model: str, config: str | Path | None = None) -> Parts:
    """Build an editor on the `meta` device; see `plan`."""
    import diffusers

    name = repository(model)
    folder = _folder(name, config)
    family = _family(name, folder)
    pipeline_class = getattr(diffusers, family.pipeline)
    modules, missing = {}, []
    for part, (cls, *_) in pipeline_class._get_signature_types().items():
        is_module = isinstance(cls, type) and issubclass(cls, nn.Module)
        if not is_module or part in ("safety_checker", "image_encoder"):  # never run by an edit
            continue
        given = _given(part, family, folder)
        if given is None:
            missing.append(part)
        else:
            modules[part] = _module(cls, given)
    if not {"transformer", "unet"} & set(modules):
        raise InputError(
            f"no configuration of {name} is here: fetch its files without the weights, "
            f"hf download {name} --include '*.json', or name a folder that has them "
            "(`plan` --config DIR)"
        )
    pipeline = _assembled(pipeline_class, modules)
    return Parts(Editor(pipeline, family, name), modules, folder, tuple(missing))


def _folder(name: str, config: str | Path | None) -> Path | None:
    """Where the configurations are: the named folder, the model's, or the hub's local cache."""
    chosen = Path(config or (TINY if name == "tiny" else name)).expanduser()
    if (chosen / "model_index.json").is_file():
        return chosen
    if config is not None or chosen.is_dir():
        raise InputError(f"{chosen} has no model_index.json: give the folder of a pipeline")
    index = cached_index(name) if name.count("/") == 1 else None
    return index and index.parent


def _family(name: str, folder: Path | None) -> Family:
    index = json.loads((folder / "model_index.json").read_text()) if folder else {}
    by_name = {family.weights: family for family in FAMILIES}
    by_class = {family.pipeline: family for family in FAMILIES}
    family = by_name.get(name) or by_class.get(index.get("_class_name", ""))
    if family is None:
        known = ", ".join(family.weights.split("/")[-1] for family in FAMILIES)
        raise InputError(
            f"{name} is no model of a known family, or is not here: choose from {known}"
        )
    return family


def _given(part: str, family: Family, folder: Path | None) -> Path | Mapping[str, Any] | None:
    """A part's configuration: a folder, or what differs from its class's defaults."""
    if folder is None:
        return FACTS.get(family.name, {}).get(part)
    return folder / part if (folder / part / "config.json").is_file() else None


def _module(cls: Any, given: Path | Mapping[str, Any]) -> nn.Module:
    with torch.device("meta"):
        if hasattr(cls, "load_config"):  # diffusers
            config = cls.load_config(given) if isinstance(given, Path) else dict(given)
            return cls.from_config(config).eval()
        if isinstance(given, Path):
            return cls(cls.config_class.from_pretrained(given)).eval()
        return cls(cls.config_class(**given)).eval()


def _assembled(pipeline_class: Any, modules: Mapping[str, nn.Module]) -> Any:
    """The pipeline, with None for what is not a module; some read their processor's image part."""
    empty = SimpleNamespace(image_processor=None)
    names = pipeline_class._get_signature_keys(pipeline_class)[0]
    parts = {name: empty if name.endswith("_processor") else None for name in names}
    given = {"requires_safety_checker": False} if "safety_checker" in parts else {}
    return pipeline_class(**parts | dict(modules), **given)
