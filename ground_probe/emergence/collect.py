"""Run an editor over a split and keep a small sample of every cell, one file an image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.numpy import save_file
from tqdm import tqdm

from ground_probe.capture import Trace, trace
from ground_probe.datasets.example import RefExample
from ground_probe.editors import Editor
from ground_probe.emergence.causal import Told, intervene
from ground_probe.emergence.conditions import Spec
from ground_probe.emergence.samples import MAPS, Samples
from ground_probe.emergence.tokens import KeepSampled, Tokens, sample_tokens
from ground_probe.emergence.visible import VIEWS, change_maps, denoiser_inputs
from ground_probe.errors import IncompleteError, InputError
from ground_probe.geometry import Geometry
from ground_probe.run_record import digest, whole_file, writable_folder

Arrays = dict[str, np.ndarray]
_RGB_CELLS = 4


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


def reduced(
    editor: Editor, example: RefExample, told: Told, changes: Sequence[Any], spec: Spec
) -> tuple[Arrays, dict]:
    """What is kept of one example: arrays by name, and what they are about."""
    tokens = sample_tokens(editor.geometry(example.image), example, spec.tokens)
    with denoiser_inputs(editor.denoiser) as given:
        traced = trace(
            editor,
            example.image,
            *told,
            steps=spec.steps,
            num_steps=spec.num_steps,
            attention=True if spec.heads else "mean",
            keep=KeepSampled(tokens, spec.width),
            prediction=spec.visible,
            interventions=changes,
            seed=spec.noise_seed(example.key),
        )
    arrays, about = packed(traced, tokens, example.key, example.image_id)
    arrays["rgb"] = _patches(example, traced.geometry)[tokens.place]
    inputs = list(given.values())
    if traced.layout.joint:
        reference = inputs[0][0, traced.layout.within_image("reference")]
        arrays["vae_latent"] = reference[torch.from_numpy(tokens.place)].float().cpu().numpy()
    if spec.visible:
        arrays |= _visible(editor, example, traced, inputs, tokens)
    about |= {"expression": example.expression, "instruction": told[0]}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}, about


def packed(traced: Trace, tokens: Tokens, key: str, image_id: str) -> tuple[Arrays, dict]:
    """Labels, hidden states and attention at the tokens, and what they are about.

    Args:
        traced: whose hidden states are those of the tokens already.
        tokens: which were kept.
        key: of the example.
        image_id: of its image.
    """
    streams, steps = tuple(traced.layout.grids), traced.steps
    hidden = [
        torch.stack([traced.hidden[block, step, stream] for stream in streams for step in steps])
        for block in traced.blocks
    ]
    labels = {name: getattr(tokens, name) for name in ("place", "target", "distractor", "rest")}
    arrays = labels | {
        "hidden": torch.stack(hidden).unflatten(1, (len(streams), -1)).numpy(),
        "attention": _attention(traced, tokens),
    }
    about = {
        "key": key,
        "image_id": image_id,
        "grid": tokens.grid,
        "blocks": traced.blocks,
        "streams": streams,
        "steps": steps,
        "sigmas": [traced.sigmas[step] for step in steps],
    }
    return arrays, about


def _attention(
    traced: Trace, tokens: Tokens
) -> Float[np.ndarray, "maps blocks streams steps heads kept"]:
    """Attention mass to the phrase, and mean attention from it, on the sampled tokens."""
    found = {name: [] for name in MAPS}
    for block in traced.blocks:
        for stream in traced.layout.grids:
            at = traced.image_tokens(stream)
            for step in traced.steps:
                maps = traced.attention[block, step][:, at].sum(-1)
                found["attention"].append(maps[:, tokens.on(maps.shape[1])])
                if traced.layout.joint:
                    maps = traced.attention_from_text[block, step][..., at].mean(1)
                    found["attention_from_text"].append(maps[:, tokens.on(maps.shape[1])])
    shape = (len(traced.blocks), len(traced.layout.grids), len(traced.steps))
    return np.stack(
        [torch.stack(maps).unflatten(0, shape).numpy() for maps in found.values() if maps]
    )


def _patches(example: RefExample, geometry: Geometry) -> Float[np.ndarray, "tokens values"]:
    """The colours of each token: area means of 4 x 4 parts of it, 0 to 1."""
    rows, cols = geometry.grid
    fine = replace(geometry, grid=(rows * _RGB_CELLS, cols * _RGB_CELLS))
    colours = fine.soft_labels(np.moveaxis(np.asarray(example.image) / 255, -1, 0))
    parts = colours.reshape(3, rows, _RGB_CELLS, cols, _RGB_CELLS)
    return parts.transpose(1, 3, 0, 2, 4).reshape(rows * cols, -1).astype(np.float32)


def _visible(
    editor: Editor, example: RefExample, traced: Trace, inputs: list[torch.Tensor], tokens: Tokens
) -> Arrays:
    """Change at the sampled tokens, and its mean over the referent, other objects and the rest."""
    noise = traced.layout.within_image("noise")
    reference = inputs[0][0, traced.layout.within_image("reference")]
    views = [inputs[step][0, noise].float() for step in traced.steps]
    views += [traced.prediction[step][0].to(editor.device) for step in traced.steps]
    maps = change_maps(editor, reference.float(), torch.stack(views), tokens.grid)
    maps = maps.reshape(len(VIEWS), len(traced.steps), -1)
    geometry = traced.grid("noise")
    inside = geometry.soft_labels(example.mask).ravel()
    others = (
        geometry.soft_labels(np.any([example.mask, *example.distractors], axis=0)).ravel() - inside
    )
    weights = np.stack([inside, others, 1 - inside - others])
    total = weights.sum(1)
    means = np.einsum("vst,wt->vsw", maps, weights) / np.where(total > 0, total, np.nan)
    return {
        "change": maps[..., tokens.place].astype(np.float32),
        "change_means": means.astype(np.float32),
    }
