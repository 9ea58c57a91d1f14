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
from ground_probe.editors.hub import repository
from ground_probe.editors.weights import TINY
from ground_probe.errors import InputError
from ground_probe.study.plan.facts import FACTS


@dataclass(frozen=True)
class Parts:
    """An editor whose modules have shapes and no weights.

    Args:
        editor: of the pipeline's real class.
        source: where the configurations come from.
        folder: that holds them, if any.
        missing: modules of the pipeline whose configuration is not there.
    """

    editor: Editor = field(repr=False)
    source: str
    folder: Path | None
    missing: tuple[str, ...]

    def modules(self) -> dict[str, nn.Module]:
        """The pipeline's modules by name."""
        components = self.editor.pipeline.components.items()
        return {name: part for name, part in components if isinstance(part, nn.Module)}


def build(model: str, config: str | Path | None = None) -> Parts:
    """Build an editor on the `meta` device.

    Args:
        model: "tiny", a folder, a hub id, or the last part of one that the registry knows.
        config: a folder of component configurations to use, where the model's own are gated.

    Raises:
        InputError: no configuration is here; the message says what is missing.
    """
    name = repository(model)
    folder = _folder(name, config)
    family = _family(name, folder)
    import diffusers

    pipeline_class = getattr(diffusers, family.pipeline)
    classes = {
        part: classes[0]
        for part, classes in pipeline_class._get_signature_types().items()
        if isinstance(classes[0], type) and issubclass(classes[0], nn.Module)
    }
    modules, missing = {}, []
    for part, cls in classes.items():
        if part in ("safety_checker", "image_encoder"):  # never run by an edit
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
    source = str(folder) if folder else "the package's facts about this family"
    pipeline = _assembled(pipeline_class, modules)
    return Parts(Editor(pipeline, family, name), source, folder, tuple(missing))


def _folder(name: str, config: str | Path | None) -> Path | None:
    """Where the configurations are: the named folder, the model's, or the hub's local cache."""
    chosen = Path(config or (TINY if name == "tiny" else name)).expanduser()
    if (chosen / "model_index.json").is_file():
        return chosen
    if config is not None or chosen.is_dir():
        raise InputError(f"{chosen} has no model_index.json: give the folder of a pipeline")
    if name.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(name, "model_index.json")
    return Path(index).parent if isinstance(index, str) else None


def _family(name: str, folder: Path | None) -> Family:
    for family in FAMILIES:
        if family.weights == name:
            return family
    index = json.loads((folder / "model_index.json").read_text()) if folder else {}
    for family in FAMILIES:
        if family.pipeline == index.get("_class_name"):
            return family
    known = ", ".join(family.weights.split("/")[-1] for family in FAMILIES)
    raise InputError(f"{name} is no model of a known family, or is not here: choose from {known}")


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
