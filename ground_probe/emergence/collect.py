"""Run an editor over a split and keep a small sample of every cell, one file an image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.numpy import save_file
from tqdm import tqdm

from ground_probe.datasets.example import RefExample
from ground_probe.editors import Editor
from ground_probe.emergence.causal import intervene
from ground_probe.emergence.conditions import Spec
from ground_probe.emergence.reduced import reduced
from ground_probe.emergence.samples import Samples
from ground_probe.errors import IncompleteError, InputError
from ground_probe.run_record import digest, whole_file, writable_folder


def collect(
    editor: Editor,
    split: Sequence[RefExample],
    spec: Spec,
    folder: Path | str,
    *,
    control: str = "",
) -> Samples:
    """Sample every cell (block, stream, step) of an editor on every example of a split.

    Images are streamed: each leaves one file, written whole or not at all, and is skipped when it
    is there. Files are keyed by the editor, the data, the spec and what the editor was told.

    Args:
        editor: from `load_editor`.
        split: from `load_split`.
        spec: every choice.
        folder: where the samples lie; shared by all collections of a study.
        control: name of what this collection is a control for, by default the spec's condition.

    Raises:
        InputError: the folder holds other choices under the same name.
        IncompleteError: no example offers the spec's condition.
    """
    settings = {
        "editor": [editor.name, editor.revision, fingerprint(editor)],
        "data": [split.dataset, split.split, split.revision],
        "spec": asdict(spec),
    }
    place = _settled(writable_folder(folder), json.loads(json.dumps(settings)))
    expressions = split.expressions
    files = []
    title = " ".join([split.split, control or spec.condition, f"seed {spec.seed}"])
    for position, key in enumerate(tqdm(split.keys, desc=title, unit="image", leave=False)):
        path = place / f"{digest([key, _asked(expressions, spec)])}.safetensors"
        if not path.exists() and not _keep(editor, split[position], expressions, spec, path):
            continue
        files.append(path)
    if not files:
        raise IncompleteError(f"no example of {split.dataset} {split.split} has {spec.condition!r}")
    return Samples.open(
        files,
        split="val" if split.split == "val" else "test",
        control=control or spec.condition,
        seed=spec.seed,
    )


def fingerprint(editor: Editor) -> str:
    """Hexadecimal digits that change with a denoiser's weights: of a few values of each."""
    few = [w.detach().flatten()[:8].float().cpu() for w in editor.denoiser.parameters()]
    return sha256(torch.cat(few).numpy().tobytes()).hexdigest()[:12]


def _asked(expressions: Sequence[str], spec: Spec) -> Sequence[str]:
    """What an example's instruction depends on besides the example: the split, when shuffled."""
    return expressions if spec.condition == "shuffled" else ()


def _settled(folder: Path, settings: dict) -> Path:
    place = writable_folder(folder / digest(settings))
    said = place / "settings.json"
    if not said.exists():
        with whole_file(said) as part:
            part.write_text(json.dumps(settings, indent=2))
    elif json.loads(said.read_text()) != settings:
        raise InputError(f"{place} holds samples of other choices: move it away")
    return place


def _keep(
    editor: Editor, example: RefExample, expressions: Sequence[str], spec: Spec, path: Path
) -> bool:
    """Run the editor on one example and write its file; False where there is nothing to ask."""
    told = spec.instruction(example, expressions)
    planned = told and intervene(editor, example, told, spec)
    if not planned:
        return False
    arrays, about = reduced(editor, example, *planned, spec)
    with whole_file(path) as part:
        save_file(arrays, part, metadata={"about": json.dumps(about)})
    return True
