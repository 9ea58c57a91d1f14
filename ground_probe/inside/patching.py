"""Activation patching: which states of one instruction's run move the edit to another's?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from PIL import Image
from torch import Tensor

from ground_probe.capture import trace
from ground_probe.capture.calls import each_call, replaced_inputs
from ground_probe.capture.sites import Captured, blocks_of, resolve
from ground_probe.editors import Editor
from ground_probe.errors import InputError
from ground_probe.inside.running import Patch, Place, require_prediction, same_draws

INPUT = "input"
"""Where the words enter the denoiser, before any block: as text rows and, in some, pooled."""

_ENTERS = {"text": "encoder_hidden_states", "pooled": "pooled_projections"}
_AT_BLOCKS = "text_encoder_layers"  # words that every block is given anew have no one entrance


def activation_patching(
    editor: Editor,
    image: Image.Image,
    instruction: str,
    other: str,
    *,
    blocks: str | Sequence[str] = "all",
    steps: int | Sequence[int] = (0,),
    streams: str | Sequence[str] = ("noise", "reference", "text"),
    together: Sequence[Sequence[Place]] = (),
    seed: int = 0,
    num_steps: int | None = None,
    pipeline_kwargs: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """What moves the edit: states of `other`'s run, patched into `instruction`'s, site by site.

    ```python
    table = gp.activation_patching(
        editor, image, "make the left circle blue", "make the right circle blue"
    )
    table.pivot(index="block", columns="stream", values="effect")
    ```

    With the predictions P of the clean latents at the last of `steps`, without a patch (P), of the
    other instruction (Q) and with a patch (R), effect = <R - P, Q - P> / <Q - P, Q - P>: 0 where
    nothing moves, 1 where the other's edit comes about. `left` = |R - Q| / |P - Q| says how much of
    the difference is left, in any direction. Meng et al. 2022 (arXiv 2202.05262), and Zhang and
    Nanda 2024 (arXiv 2309.16042) on denoising as against noising: this is the first.

    A patch of a block's output reaches the blocks after it. Of the last block's, only the noise
    reaches anything. The block "input" is where the words enter: its text rows, and the pooled
    vector where the denoiser takes one, at every step. Where every block is given them anew (FIBO),
    there is no such row.

    Args:
        instruction: the run that is patched.
        other: the run that states are taken from.
        steps: denoising steps, from 0. Effects are on what the last of them predicts.
        streams: those of them that the blocks hand on are patched.
        together: sets of (block, step, stream), each patched at once as one more row.
        editor, image, blocks, seed, num_steps, pipeline_kwargs: as of `trace`.

    Returns:
        a row for each site, those of "input" first, with effect and left; a row of `together` has
        "together" for its block, its number for its step and "" for its stream.

    Raises:
        InputError: the instructions predict the same, a site that is not there, or, where text is
            patched, instructions of other lengths.
    """
    require_prediction(editor)
    steps = (steps,) if isinstance(steps, int) else tuple(steps)
    wanted = (streams,) if isinstance(streams, str) else tuple(streams)
    asked = [stream for stream in editor.family.streams if stream in wanted]
    names = resolve(blocks_of(editor.denoiser), blocks)
    more = {block for sites in together for block, _, _ in sites if block not in (INPUT, *names)}
    options: dict[str, Any] = {
        "steps": steps, "attention": False, "prediction": True, "seed": seed,
        "num_steps": num_steps, "pipeline_kwargs": pipeline_kwargs,
    }  # fmt: skip
    captured = {"blocks": (*names, *more), "streams": editor.family.streams if together else asked}
    (joint, states, before), (_, other_states, after) = (
        _run(editor, image, text, options | captured) for text in (instruction, other)
    )
    distance = float((after - before).norm())
    if not distance:
        raise InputError(
            f"{instruction!r} and {other!r} predict the same at step {steps[-1]}: choose "
            "instructions that the editor tells apart"
        )
    singles = [
        site
        for site in states
        if (site[2] in asked if site[0] != INPUT else "text" in asked or not joint)
    ]
    patches: dict[Place, Sequence[Place]] = {site: [site] for site in singles}
    patches |= {("together", number, ""): sites for number, sites in enumerate(together)}
    rows = []
    for row, sites in patches.items():
        pairs = {site: (states[site], other_states[site]) for site in sites}
        _require_counterparts(pairs)
        outputs = {site: pair[1] for site, pair in pairs.items() if site[0] != INPUT}
        inputs = {_ENTERS[site[2]]: pair for site, pair in pairs.items() if site[0] == INPUT}
        with same_draws(editor, seed), replaced_inputs(editor.denoiser, inputs):
            patched = trace(
                editor, image, instruction, blocks=(), streams=(),
                edit=Patch(outputs) if outputs else None, **options,
            ).prediction[steps[-1]].double()  # fmt: skip
        effect = float(((patched - before) * (after - before)).sum()) / distance**2
        left = float((patched - after).norm()) / distance
        rows.append((*row, effect, left))
    return pd.DataFrame(rows, columns=["block", "step", "stream", "effect", "left"])


def _run(
    editor: Editor, image: Image.Image, text: str, options: Mapping[str, Any]
) -> tuple[bool, Captured, Tensor]:
    """A run without a patch: whether it is joint, all that can be patched, and its prediction."""
    first, last = options["steps"][0], options["steps"][-1]
    conditional = -1 if editor.family.rows[-1] == "cond" else 0  # the row of a guided batch
    states: dict[Place, Tensor] = {}

    def note(given: dict[str, Any]) -> None:
        if given.get(_AT_BLOCKS) is not None:
            return
        for stream, name in _ENTERS.items():
            if isinstance(given.get(name), Tensor):  # the first forward is the conditional one
                states.setdefault((INPUT, first, stream), given[name][conditional].clone())

    with same_draws(editor, options["seed"]), each_call(editor.denoiser, note):
        traced = trace(editor, image, text, **options)
    return traced.layout.joint, Captured(states | traced.hidden), traced.prediction[last].double()


def _require_counterparts(pairs: Mapping[Place, tuple[Tensor, Tensor]]) -> None:
    """Refuse sites that have other rows in the two runs."""
    for site, (ours, theirs) in pairs.items():
        if ours.shape != theirs.shape:
            raise InputError(
                f"{site} has {len(ours)} tokens in one run and {len(theirs)} in the other, so "
                "that no token has a counterpart: give instructions of as many tokens, or patch "
                "streams=('noise', 'reference')"
            )
