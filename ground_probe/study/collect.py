"""Run an editor over a split and keep a small sample of every cell, one file an image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors.numpy import save_file
from tqdm import tqdm

from ground_probe.datasets.example import RefExample, Split
from ground_probe.editors import Editor, encoded_once
from ground_probe.errors import IncompleteError
from ground_probe.io import digest, whole_file, writable_folder
from ground_probe.study.causal import intervene
from ground_probe.study.reduced import reduced
from ground_probe.study.samples import Samples
from ground_probe.study.spec import Spec
from ground_probe.study.workers import each_image

FORMAT = 2
"""Of a sample's file; since 2 it holds the pointing game of the whole grid."""


def collect(
    editor: Editor,
    split: Split,
    spec: Spec,
    folder: Path | str,
    *,
    control: str = "",
    workers: int = 0,
) -> Samples:
    """Sample every cell (block, stream, step) of an editor on every example of a split.

    Images are streamed: each leaves one file, written whole or not at all, and is skipped when it
    is there. Files are keyed by the editor, the data, the spec and the instruction.

    Args:
        editor: from `load_editor`.
        split: from `load_split`.
        spec: every choice.
        folder: where the samples lie; shared by all collections of a study.
        control: name of what this collection is a control for, by default the spec's condition.
        workers: processes, 0 for as many as there are cores; the samples are the same.

    Raises:
        IncompleteError: no example offers the spec's condition.
    """
    (samples,) = collect_each(editor, split, {control or spec.condition: spec}, folder, workers)
    return samples


def collect_each(
    editor: Editor,
    split: Split,
    specs: Mapping[str, Spec],
    folder: Path | str,
    workers: int = 0,
) -> list[Samples]:
    """What `collect` gives for each of several specs by the name of the control, image by image.

    An image is encoded once for all of them.
    """
    common = {
        "format": FORMAT,
        "editor": editor.revision,
        "data": [split.dataset, split.split, split.revision],
    }
    places = [_place(folder, common | {"spec": asdict(spec)}) for spec in specs.values()]
    expressions, keys = split.expressions, split.keys

    def paths(position: int) -> list[Path]:
        names = (digest([keys[position], _asked(expressions, spec)]) for spec in specs.values())
        return [place / f"{name}.safetensors" for place, name in zip(places, names, strict=True)]

    def keep(position: int) -> None:
        with encoded_once(editor):
            for spec, path in zip(specs.values(), paths(position), strict=True):
                if not path.exists():
                    _keep(editor, split[position], expressions, spec, path)

    title = f"{split.split}: {', '.join(specs) if len(specs) < 4 else f'{len(specs)} runs each'}"
    missing = [at for at in range(len(keys)) if not all(path.exists() for path in paths(at))]
    done = each_image(editor, keep, missing, workers)
    for _ in tqdm(done, desc=title, unit="image", leave=False, total=len(missing)):
        pass
    collections = []
    files = zip(*(paths(position) for position in range(len(keys))), strict=True)
    for (control, spec), of in zip(specs.items(), files, strict=True):
        kept = [path for path in of if path.exists()]
        if not kept:
            raise IncompleteError(
                f"no example of {split.dataset} {split.split} has {spec.condition!r}"
            )
        side = "val" if split.split == "val" else "test"
        collections.append(Samples.open(kept, split=side, control=control, seed=spec.seed))
    return collections


def _asked(expressions: Sequence[str], spec: Spec) -> Sequence[str]:
    """What an example's instruction depends on besides the example: the split, when shuffled."""
    return expressions if spec.condition == "shuffled" else ()


def _place(folder: Path | str, settings: dict) -> Path:
    """The folder of some settings' samples, which also says what they are."""
    place = writable_folder(Path(folder) / digest(settings))
    with whole_file(place / "settings.json") as part:
        part.write_text(json.dumps(settings, indent=2))
    return place


def _keep(
    editor: Editor, example: RefExample, expressions: Sequence[str], spec: Spec, path: Path
) -> None:
    """Run the editor on one example and write its file, unless there is nothing to ask."""
    instruction = spec.instruction(example, expressions)
    plan = instruction and intervene(editor, example, instruction, spec)
    if not plan:
        return
    arrays, about = reduced(editor, example, plan, spec)
    with whole_file(path) as part:
        save_file(arrays, part, metadata={"about": json.dumps(about)})
