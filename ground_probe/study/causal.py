"""Is what can be decoded used? The text is disturbed on its way, beside matched controls."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ground_probe.capture import trace
from ground_probe.capture.calls import each_call
from ground_probe.capture.edits import ReplaceRows, ReweightPhrase
from ground_probe.capture.sites import blocks_of
from ground_probe.datasets.example import RefExample
from ground_probe.editors import Editor
from ground_probe.editors.phrases import Span
from ground_probe.errors import InputError
from ground_probe.study.spec import Spec, chance

INPUT = "input"
"""Where the text enters the denoiser, before any block."""

WAYS = {
    "patch": ("encoder_hidden_states",),
    "patch_pooled": ("pooled_projections",),
    "patch_both": ("encoder_hidden_states", "pooled_projections"),
}
"""What of another object's expression takes the place of the expression's own: the text's rows, the
pooled vector that modulates the blocks, or both, by the denoiser's names of them."""

WAYS_IN_WORDS = {"patch": "text rows", "patch_pooled": "pooled vector", "patch_both": "both"}

RANDOM = "_random"
"""Ends the name of a patch's control: moved as far, row by row, in random directions."""


class Plan(NamedTuple):
    """How an example is run.

    Args:
        instruction: with the span to work on.
        changes: edits of a trace.
        inputs: pairs of what the denoiser would be given and what it is given in its place, by name
            of the argument.
    """

    instruction: tuple[str, Span]
    changes: Sequence[Any] = ()
    inputs: Mapping[str, tuple[Tensor, Tensor]] = {}


def intervene(
    editor: Editor, example: RefExample, instruction: tuple[str, Span], spec: Spec
) -> Plan | None:
    """The instruction with the span to work on, and the changes that a spec asks for.

    An intervention is "none"; "ablate", which takes the phrase's keys from the attention;
    "ablate_other", which takes those of other words; or one of `WAYS`, with or without `RANDOM`.

    Returns:
        None where the example does not offer it.

    Raises:
        InputError: a patch at another step than the first.
    """
    if spec.intervention == "none":
        return Plan(instruction)
    if spec.intervention == "ablate":
        return Plan(instruction, [ReweightPhrase(0.0, spec.at)])
    if spec.intervention == "ablate_other":
        span = _other_words(*instruction)
        return span and Plan((instruction[0], span), [ReweightPhrase(0.0, spec.at)])
    if spec.steps != (0,):
        raise InputError(f"steps {spec.steps}: text is patched at step 0 alone")
    names = WAYS[spec.intervention.removesuffix(RANDOM)]
    other = replace(spec, condition="other_expression").instruction(example, ())
    if other is None:
        return None
    own, foreign = (_text(editor, example, text, spec) for text, _ in (instruction, other))
    if any(own[name].shape != foreign[name].shape for name in names):
        return None
    if spec.intervention.endswith(RANDOM):
        foreign = {name: _as_far(own[name], foreign[name], example.key) for name in names}
    if spec.at == INPUT:
        return Plan(instruction, inputs={name: (own[name], foreign[name]) for name in names})
    (rows,) = (foreign[name] for name in names)
    return Plan(instruction, [ReplaceRows(spec.at, "text", rows, steps=(0,))])


def has_pooled(editor: Editor) -> bool:
    """Whether the instruction also reaches the denoiser as one pooled vector."""
    return WAYS["patch_pooled"][0] in inspect.signature(type(editor.denoiser).forward).parameters


def causal_specs(spec: Spec, blocks: Sequence[str], pooled: bool) -> Iterator[Spec]:
    """Step 0 undisturbed, then every intervention at the places where it is asked for.

    Patches are made at the input, those of the text's rows at every block as well, and ablations at
    all blocks at once. Without a pooled vector the text's rows are all there is.
    """
    patches = [(name, INPUT) for name in (WAYS if pooled else ("patch",))]
    patches += [("patch", at) for at in blocks]
    asked = [("none", "all")]
    asked += [(name + kind, at) for name, at in patches for kind in ("", RANDOM)]
    asked += [("ablate", "all"), ("ablate_other", "all")]
    for name, at in asked:
        yield replace(spec, steps=(0,), intervention=name, at=at)


def _other_words(instruction: str, span: Span) -> Span | None:
    """The instruction's longer part that is not the phrase."""
    parts = [(0, span[0]), (span[1], len(instruction))]
    start, stop = max(parts, key=lambda part: len(instruction[slice(*part)].strip()))
    words = instruction[start:stop].strip()
    start = instruction.index(words, start)
    return (start, start + len(words)) if words else None


def _text(editor: Editor, example: RefExample, instruction: str, spec: Spec) -> dict[str, Tensor]:
    """An instruction on its way, by the denoiser's names: as it enters, or its rows at a block."""
    text: dict[str, Tensor] = {}

    def note(given: dict[str, Any]) -> None:
        names = [name for name in WAYS["patch_both"] if isinstance(given.get(name), Tensor)]
        text.update({name: given[name][0].detach().clone() for name in names})

    entering = spec.at == INPUT
    with each_call(editor.denoiser, note):
        traced = trace(
            editor,
            example.image,
            instruction,
            blocks=[next(iter(blocks_of(editor.denoiser)))] if entering else [spec.at],
            streams=("noise",) if entering else ("text",),
            attention=False,
            num_steps=spec.num_steps,
            seed=spec.noise_seed(example.key),
        )
    return text if entering else {WAYS["patch"][0]: traced.hidden[spec.at, 0, "text"]}


def _as_far(
    own: Float[Tensor, "*rows dim"], foreign: Float[Tensor, "*rows dim"], key: str
) -> Float[Tensor, "*rows dim"]:
    """`own` moved row by row as far as to `foreign`, in random directions."""
    generator = torch.Generator().manual_seed(chance(key, "direction"))
    direction = torch.randn(own.shape, generator=generator).to(own)
    length = (foreign - own).norm(dim=-1, keepdim=True)
    return own + length * direction / direction.norm(dim=-1, keepdim=True)
