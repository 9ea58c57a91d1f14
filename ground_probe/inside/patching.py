"""Activation patching: which states of one instruction's run move the edit to another's?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ground_probe.capture import Site, Trace, trace
from ground_probe.capture.calls import each_call, replaced_inputs
from ground_probe.capture.sites import blocks_of, resolve
from ground_probe.editors import Editor
from ground_probe.errors import InputError
from ground_probe.inside.running import require_prediction, same_draws

INPUT = "input"
"""Where the words enter the denoiser, before any block: as text rows and, in some, pooled."""

_ENTERS = {"text": "encoder_hidden_states", "pooled": "pooled_projections"}
_AT_BLOCKS = "text_encoder_layers"  # words that every block is given anew have no one entrance
Place = tuple[str, int, str]


@dataclass(frozen=True, eq=False)
class _Swap:
    """Let states of another run take their place at some sites."""

    blocks: Sequence[str]
    states: Mapping[Place, Float[Tensor, "tokens dim"]]

    def __call__(self, site: Site, states: Tensor) -> Tensor | None:
        other = self.states.get((site.block, site.step, site.stream))
        return other.to(states) if other is not None and site.role == "cond" else None


class _Run(NamedTuple):
    """A run to be told apart, or to take states from: its trace, and how its words enter."""

    trace: Trace
    entering: Mapping[str, Tensor]


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
        editor: from `load_editor`.
        image: what to edit.
        instruction: the run that is patched.
        other: the run that states are taken from.
        blocks: "all" or globs.
        steps: denoising steps, from 0. Effects are on what the last of them predicts.
        streams: those of them that the blocks hand on are patched.
        together: sets of (block, step, stream), each patched at once as one more row.
        seed: of the noise, the same in all runs.
        num_steps: of the schedule; None for the pipeline's own default.
        pipeline_kwargs: further arguments of the pipeline's call.

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
    there = tuple(stream for stream in editor.family.streams if stream in wanted)
    names = tuple(resolve(blocks_of(editor.denoiser), blocks))
    names += tuple({b for of in together for b, _, _ in of if b != INPUT} - set(names))
    options: dict[str, Any] = {
        "steps": steps, "streams": editor.family.streams if together else there,
        "attention": False, "prediction": True, "seed": seed, "num_steps": num_steps,
        "pipeline_kwargs": pipeline_kwargs,
    }  # fmt: skip
    own, foreign = (_run(editor, image, text, names, options) for text in (instruction, other))
    before, after = (run.trace.prediction[steps[-1]].double() for run in (own, foreign))
    distance = float((after - before).norm())
    if not distance:
        raise InputError(
            f"{instruction!r} and {other!r} predict the same at step {steps[-1]}: choose "
            "instructions that the editor tells apart"
        )
    rows = []
    for row, sites in _rows(own, foreign, names, steps, there, together):
        _require(own, foreign, sites)
        states = {site: foreign.trace.hidden[site] for site in sites if site[0] != INPUT}
        swap = _Swap(tuple(dict.fromkeys(site[0] for site in states)), states)
        inputs = {
            _ENTERS[stream]: (own.entering[stream], foreign.entering[stream])
            for block, _, stream in sites
            if block == INPUT
        }
        with same_draws(editor, seed), replaced_inputs(editor.denoiser, inputs):
            changed = trace(
                editor, image, instruction, **options | {"streams": ()},
                blocks=(), edit=swap if states else None,
            ).prediction[steps[-1]].double()  # fmt: skip
        effect = float(((changed - before) * (after - before)).sum()) / distance**2
        left = float((changed - after).norm()) / distance
        rows.append((*row, effect, left))
    return pd.DataFrame(rows, columns=["block", "step", "stream", "effect", "left"])


def _run(
    editor: Editor, image: Image.Image, text: str, names: Sequence[str], options: Mapping[str, Any]
) -> _Run:
    """A run without a patch, with its states and what carries its words into the denoiser."""
    entering: dict[str, Tensor] = {}

    def note(given: dict[str, Any]) -> None:
        if given.get(_AT_BLOCKS) is not None:
            return
        for stream, name in _ENTERS.items():
            if isinstance(given.get(name), Tensor):  # the first forward is the conditional one
                entering.setdefault(stream, given[name][-1 if _last(editor) else 0].clone())

    with same_draws(editor, options["seed"]), each_call(editor.denoiser, note):
        return _Run(trace(editor, image, text, blocks=names, **options), entering)


def _last(editor: Editor) -> bool:
    """Whether the conditional row of a guided batch is its last."""
    return editor.family.rows[-1] == "cond"


def _rows(
    own: _Run,
    foreign: _Run,
    names: Sequence[str],
    steps: Sequence[int],
    streams: Sequence[str],
    together: Sequence[Sequence[Place]],
) -> Iterator[tuple[Place, Sequence[Place]]]:
    """(what a row is called, its sites)."""
    for stream in own.entering if "text" in streams or not own.trace.layout.joint else ():
        yield (INPUT, steps[0], stream), [(INPUT, steps[0], stream)]
    for site in own.trace.hidden:
        if len(site) == 3 and site[0] in names and site[2] in streams:
            yield site, [site]
    for number, sites in enumerate(together):
        yield ("together", number, ""), [tuple(site) for site in sites]  # type: ignore[misc]


def _require(own: _Run, foreign: _Run, sites: Sequence[Place]) -> None:
    """Refuse sites that a run does not have, or that have other rows in the two."""
    for site in sites:
        held = (
            [run.entering.get(site[2]) for run in (own, foreign)]
            if site[0] == INPUT
            else [run.trace.hidden[site] for run in (own, foreign)]
        )
        if any(states is None for states in held):
            raise InputError(f"{site} is not there: the words enter as {', '.join(own.entering)}")
        shapes = [tuple(states.shape) for states in held]  # type: ignore[union-attr]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"{site} has {shapes[0][0]} tokens in one run and {shapes[1][0]} in the other, so "
                "that no token has a counterpart: give instructions of as many tokens, or patch "
                "streams=('noise', 'reference')"
            )
