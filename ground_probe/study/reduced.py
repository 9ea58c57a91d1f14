"""What is kept of one run on one example: tokens, attention, inputs, visible change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ground_probe.capture import Trace, trace
from ground_probe.capture.calls import replaced_inputs
from ground_probe.datasets.example import RefExample
from ground_probe.editors import Editor
from ground_probe.geometry import Geometry
from ground_probe.probes import hard_labels, pointing_hit
from ground_probe.study.causal import Plan
from ground_probe.study.samples import MAPS
from ground_probe.study.spec import Spec
from ground_probe.study.tokens import KeepSampled, Tokens, sample_tokens
from ground_probe.study.visible import VIEWS, change_maps, denoiser_inputs

Arrays = dict[str, np.ndarray]
_RGB_CELLS = 4


def reduced(editor: Editor, example: RefExample, plan: Plan, spec: Spec) -> tuple[Arrays, dict]:
    """What is kept of one example: arrays by name, and what they are about."""
    geometry = editor.geometry(example.image)
    tokens = sample_tokens(geometry, example, spec.tokens)
    with (
        denoiser_inputs(editor.denoiser) as given,
        replaced_inputs(editor.denoiser, plan.inputs),
    ):
        traced = trace(
            editor,
            example.image,
            *plan.told,
            steps=spec.steps,
            num_steps=spec.num_steps,
            attention=True if spec.heads else "mean",
            reduce=KeepSampled(tokens, spec.width),
            prediction=spec.visible,
            edit=plan.changes,
            seed=spec.noise_seed(example.key),
        )
    arrays, about = packed(traced, tokens, example.key, example.image_id)
    if spec.heads:
        arrays["pointing"] = _pointing(traced, example)
    arrays["rgb"] = _patches(example, geometry)[tokens.place]
    inputs = list(given.values())
    if traced.layout.joint:
        reference = inputs[0][0, traced.layout.within_image("reference")]
        arrays["vae_latent"] = reference[torch.from_numpy(tokens.place)].float().cpu().numpy()
    if spec.visible:
        arrays |= _visible(editor, example, traced, inputs, tokens)
    about |= {"expression": example.expression, "instruction": plan.told[0]}
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
        "hidden": _stacked(hidden, -1, 0.0).unflatten(1, (len(streams), -1)).numpy(),
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
    found: dict[str, list[np.ndarray]] = {name: [] for name in MAPS}
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
        [
            _stacked(maps, 0, torch.nan).unflatten(0, shape).numpy()
            for maps in found.values()
            if maps
        ]
    )


def _pointing(
    traced: Trace, example: RefExample
) -> Float[np.ndarray, "maps blocks streams steps heads labels"]:
    """Whether each map's highest token is the referent's: of the whole grid, and of all objects.

    The mean over the heads stands before the heads.
    """
    hits: list[list[Tensor]] = [[] for _ in range(2 if traced.layout.joint else 1)]
    for block in traced.blocks:
        for stream in traced.layout.grids:
            at, geometry = traced.image_tokens(stream), traced.grid(stream, block)
            target = hard_labels(geometry.soft_labels(example.mask))[0]
            others = [hard_labels(geometry.soft_labels(mask))[0] for mask in example.distractors]
            others = np.any([np.zeros_like(target), *others], axis=0) & ~target
            for step in traced.steps:
                maps = [traced.attention[block, step][:, at].sum(-1)]
                if traced.layout.joint:
                    maps.append(traced.attention_from_text[block, step][..., at].mean(1))
                for kept, heads in zip(hits, maps, strict=True):
                    heads = torch.cat([heads.mean(0, keepdim=True), heads]).float().cpu().numpy()
                    of = [_hits(head.reshape(geometry.grid), target, others) for head in heads]
                    kept.append(torch.tensor(of))
    shape = (len(traced.blocks), len(traced.layout.grids), len(traced.steps))
    return np.stack([_stacked(of, 0, torch.nan).unflatten(0, shape).numpy() for of in hits])


def _hits(
    score: Float[np.ndarray, "rows cols"],
    target: Bool[np.ndarray, "rows cols"],
    others: Bool[np.ndarray, "rows cols"],
) -> tuple[float, float]:
    """Of separability and of grounding, as `stack.LABELS`."""
    among = np.where(target | others, score, score.min() - 1)
    grounding = pointing_hit(among, target) if others.any() else np.nan
    return pointing_hit(score, target), grounding


def _stacked(parts: Sequence[Tensor], axis: int, fill: float) -> Tensor:
    """Parts on top of each other; the levels of a UNet differ in width and in heads."""
    longest = max(part.shape[axis] for part in parts)
    whole = []
    for part in parts:
        shape = list(part.shape)
        shape[axis] = longest - shape[axis]
        whole.append(torch.cat([part, part.new_full(shape, fill)], dim=axis))
    return torch.stack(whole)


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
