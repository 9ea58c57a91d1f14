"""What is kept of one run on one example: tokens, attention, inputs, visible change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ground_probe.capture import Trace, keep_half, keep_projection, trace
from ground_probe.capture.calls import replaced_inputs
from ground_probe.datasets.example import RefExample
from ground_probe.editors import Editor
from ground_probe.geometry import Geometry
from ground_probe.probes import hard_labels, pointing_hit
from ground_probe.probes.table import on_level, token_labels
from ground_probe.study.causal import Plan
from ground_probe.study.spec import Spec, chance
from ground_probe.study.visible import VIEWS, Calls, change_maps

Arrays = dict[str, np.ndarray]
_RGB_CELLS = 4


@dataclass(frozen=True, eq=False)
class Tokens:
    """A balanced sample of an image's tokens, by their ascending places on the grid, row by row.

    What is drawn as `rest` is of everything that is not the referent, as it comes.
    """

    place: Int[np.ndarray, " kept"]
    target: Bool[np.ndarray, " kept"]
    distractor: Bool[np.ndarray, " kept"]
    rest: Bool[np.ndarray, " kept"]
    grid: tuple[int, int]

    def on(self, tokens: int) -> Int[np.ndarray, " kept"]:
        """Where the same places lie on a level of a UNet with so many tokens."""
        return on_level(self.place, self.grid, tokens)


def sample_tokens(geometry: Geometry, example: RefExample, count: int) -> Tokens:
    """Draw at most `count` tokens of the referent, of the other objects and of the rest.

    `token_labels` says which they are. The draw depends on the example's key alone, so that all
    steps, conditions and editors of one grid are asked about the same tokens.
    """
    target, distractor, rest = token_labels(geometry, example.mask, example.distractors)
    rng = np.random.default_rng(chance(example.key, "tokens"))
    drawn = []
    for pool in (target, distractor, rest):
        chosen = np.zeros_like(pool)
        chosen[rng.permutation(np.flatnonzero(pool))[:count]] = True
        drawn.append(chosen)
    place = np.flatnonzero(np.any(drawn, axis=0))
    # A token of the rest that lies on another object is a distractor as well.
    return Tokens(place, drawn[0][place], distractor[place], drawn[2][place], geometry.grid)


@dataclass(frozen=True, eq=False)
class KeepSampled:
    """The reducer: sampled tokens, projected where they are wide, in half precision."""

    tokens: Tokens
    width: int

    def __call__(self, hidden: Float[Tensor, "tokens dim"]) -> Float[Tensor, "kept width"]:
        """Reduce a hidden state on its device."""
        kept = hidden[torch.from_numpy(self.tokens.on(len(hidden))).to(hidden.device)]
        return keep_half(keep_projection(self.width)(kept) if kept.shape[1] > self.width else kept)


def reduced(editor: Editor, example: RefExample, plan: Plan, spec: Spec) -> tuple[Arrays, dict]:
    """What is kept of one example: arrays by name, and what they are about."""
    geometry = editor.geometry(example.image)
    tokens = sample_tokens(geometry, example, spec.tokens)
    with (
        Calls().of(editor.denoiser) as calls,
        replaced_inputs(editor.denoiser, plan.inputs),
    ):
        traced = trace(
            editor,
            example.image,
            *plan.instruction,
            steps=spec.steps,
            num_steps=spec.num_steps,
            attention=True if spec.heads else "mean",
            reduce=KeepSampled(tokens, spec.width),
            prediction=spec.visible,
            edit=plan.changes,
            seed=spec.noise_seed(example.key),
        )
    arrays = {name: getattr(tokens, name) for name in ("place", "target", "distractor", "rest")}
    arrays["hidden"] = _of_sites(traced, [traced.hidden[b, t, s] for b, s, t in _sites(traced)], -1)
    arrays["attention"] = _attention(traced, tokens)
    if spec.heads:
        arrays["pointing"] = _pointing(traced, example)
    arrays["rgb"] = _patches(example, geometry)[tokens.place]
    if traced.layout.joint:
        first = next(iter(calls.samples.values()))
        reference = first[0, traced.layout.within_image("reference")]
        arrays["vae_latent"] = reference[torch.from_numpy(tokens.place)].float().cpu().numpy()
    if spec.visible:
        arrays |= _visible(editor, example, plan.instruction[0], traced, calls, tokens)
    about = {
        "key": example.key,
        "image_id": example.image_id,
        "grid": tokens.grid,
        "blocks": traced.blocks,
        "streams": tuple(traced.layout.grids),
        "steps": traced.steps,
        "sigmas": [traced.sigmas[step] for step in traced.steps],
        "expression": example.expression,
        "instruction": plan.instruction[0],
    }
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}, about


def _sites(traced: Trace) -> Iterator[tuple[str, str, int]]:
    return product(traced.blocks, traced.layout.grids, traced.steps)


def _of_sites(
    traced: Trace, parts: Sequence[Tensor], axis: int, fill: float = 0.0
) -> Float[np.ndarray, "blocks streams steps ..."]:
    """What there is of each site; the levels of a UNet differ in width and in heads."""
    longest = max(part.shape[axis] for part in parts)
    whole = []
    for part in parts:
        shape = list(part.shape)
        shape[axis] = longest - shape[axis]
        whole.append(torch.cat([part, part.new_full(shape, fill)], dim=axis))
    sites = len(traced.blocks), len(traced.layout.grids), len(traced.steps)
    return torch.stack(whole).unflatten(0, sites).numpy()


def _maps(traced: Trace, block: str, stream: str, step: int) -> Iterator[Tensor]:
    """Attention mass to the phrase, and mean attention from it where text attends to the image."""
    at = traced.image_tokens(stream)
    yield traced.attention[block, step][:, at].sum(-1)
    if traced.layout.joint:
        yield traced.attention_from_text[block, step][..., at].mean(1)


def _attention(
    traced: Trace, tokens: Tokens
) -> Float[np.ndarray, "maps blocks streams steps heads kept"]:
    """Each kind of map on the sampled tokens."""
    parts = [
        [maps[:, tokens.on(maps.shape[1])] for maps in _maps(traced, *site)]
        for site in _sites(traced)
    ]
    kinds = zip(*parts, strict=True)
    return np.stack([_of_sites(traced, kind, 0, torch.nan) for kind in kinds])


def _pointing(
    traced: Trace, example: RefExample
) -> Float[np.ndarray, "maps blocks streams steps heads labels"]:
    """Whether each map's highest token is the referent's: of the whole grid, and of all objects.

    The mean over the heads stands before the heads.
    """
    parts = []
    for block, stream, step in _sites(traced):
        geometry = traced.grid(stream, block)
        target = hard_labels(geometry.soft_labels(example.mask))[0]
        others = [hard_labels(geometry.soft_labels(mask))[0] for mask in example.distractors]
        others = np.any([np.zeros_like(target), *others], axis=0) & ~target
        hits = []
        for maps in _maps(traced, block, stream, step):
            heads = torch.cat([maps.mean(0, keepdim=True), maps]).float().cpu().numpy()
            of_heads = [_hits(head.reshape(geometry.grid), target, others) for head in heads]
            hits.append(torch.tensor(of_heads))
        parts.append(hits)
    return np.stack([_of_sites(traced, kind, 0, torch.nan) for kind in zip(*parts, strict=True)])


def _hits(
    score: Float[np.ndarray, "rows cols"],
    target: Bool[np.ndarray, "rows cols"],
    others: Bool[np.ndarray, "rows cols"],
) -> tuple[float, float]:
    """Of separability and of grounding, as `stack.LABELS`."""
    among = np.where(target | others, score, score.min() - 1)
    grounding = pointing_hit(among, target) if others.any() else np.nan
    return pointing_hit(score, target), grounding


def _patches(example: RefExample, geometry: Geometry) -> Float[np.ndarray, "tokens values"]:
    """The colors of each token: area means of 4 x 4 parts of it, 0 to 1."""
    rows, cols = geometry.grid
    fine = replace(geometry, grid=(rows * _RGB_CELLS, cols * _RGB_CELLS))
    colors = fine.soft_labels(np.moveaxis(np.asarray(example.image) / 255, -1, 0))
    parts = colors.reshape(3, rows, _RGB_CELLS, cols, _RGB_CELLS)
    return parts.transpose(1, 3, 0, 2, 4).reshape(rows * cols, -1).astype(np.float32)


def _visible(
    editor: Editor,
    example: RefExample,
    instruction: str,
    traced: Trace,
    calls: Calls,
    tokens: Tokens,
) -> Arrays:
    """Change at the sampled tokens, and its mean over the referent, other objects and the rest."""
    noise, inputs = traced.layout.within_image("noise"), list(calls.samples.values())
    views = [inputs[step][0, noise].float().cpu() for step in traced.steps]
    views += [traced.prediction[step][0] for step in traced.steps]
    maps = change_maps(
        editor, example.image, instruction, traced.reference, torch.stack(views), calls.output
    )
    maps = maps.reshape(len(VIEWS), len(traced.steps), -1)
    geometry = traced.grid("noise")
    inside = geometry.soft_labels(example.mask).ravel()
    objects = geometry.soft_labels(np.any([example.mask, *example.distractors], axis=0)).ravel()
    weights = np.stack([inside, objects - inside, 1 - objects])
    total = weights.sum(1)
    means = np.einsum("vst,wt->vsw", maps, weights) / np.where(total > 0, total, np.nan)
    return {
        "change": maps[..., tokens.place].astype(np.float32),
        "change_means": means.astype(np.float32),
    }
