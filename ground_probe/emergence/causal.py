"""Is what can be decoded used? The text is disturbed at a block, beside matched controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ground_probe.capture import trace
from ground_probe.capture.interventions import ReplaceRows, ReweightPhrase
from ground_probe.datasets.example import RefExample
from ground_probe.editors import Editor
from ground_probe.editors.phrases import Span
from ground_probe.emergence.conditions import Spec, chance
from ground_probe.errors import InputError, unknown

INTERVENTIONS = ("ablate", "ablate_other", "patch", "patch_random")
"""Take the phrase's keys from the attention; those of other words; replace the text's rows by those
of another object's expression; move them by random vectors of the same lengths."""

Told = tuple[str, Span]


def intervene(
    editor: Editor, example: RefExample, told: Told, spec: Spec
) -> tuple[Told, list[Any]] | None:
    """The instruction with the span to work on, and the changes that a spec asks for.

    Returns:
        None where the example does not offer it.

    Raises:
        UnknownNameError: no such intervention.
        InputError: a patch at another step than the first.
    """
    if spec.intervention == "none":
        return told, []
    if spec.intervention not in INTERVENTIONS:
        raise unknown("intervention", spec.intervention, INTERVENTIONS)
    if spec.intervention == "ablate":
        return told, [ReweightPhrase(0.0, spec.at)]
    if spec.intervention == "ablate_other":
        span = _other_words(*told)
        return span and ((told[0], span), [ReweightPhrase(0.0, spec.at)])
    if spec.steps != (0,):
        raise InputError(f"steps {spec.steps}: text rows are patched at step 0 alone")
    other = replace(spec, condition="other_expression").instruction(example, ())
    if other is None:
        return None
    own, foreign = (_text_rows(editor, example, text, spec) for text, _ in (told, other))
    if own.shape != foreign.shape:
        return None
    moved = foreign if spec.intervention == "patch" else _as_far(own, foreign, example.key)
    return told, [ReplaceRows(spec.at, "text", moved, steps=(0,))]


def causal_specs(spec: Spec, blocks: Sequence[str]) -> Iterator[Spec]:
    """Step 0 undisturbed, then every intervention at every block, and ablations at all blocks."""
    first = replace(spec, steps=(0,), visible=True)
    yield first
    for at in ("all", *blocks):
        for name in INTERVENTIONS:
            if at != "all" or name.startswith("ablate"):
                yield replace(first, intervention=name, at=at)


def _other_words(instruction: str, span: Span) -> Span | None:
    """The instruction's longer part that is not the phrase."""
    before, after = (0, span[0]), (span[1], len(instruction))
    parts = [part for part in (before, after) if instruction[slice(*part)].strip()]
    if not parts:
        return None
    start, stop = max(parts, key=lambda part: part[1] - part[0])
    text = instruction[start:stop]
    return start + len(text) - len(text.lstrip()), stop - len(text) + len(text.rstrip())


def _text_rows(
    editor: Editor, example: RefExample, instruction: str, spec: Spec
) -> Float[Tensor, "text dim"]:
    traced = trace(
        editor,
        example.image,
        instruction,
        blocks=[spec.at],
        streams=("text",),
        attention=False,
        num_steps=spec.num_steps,
        seed=spec.noise_seed(example.key),
    )
    return traced.hidden[spec.at, 0, "text"]


def _as_far(
    own: Float[Tensor, "text dim"], foreign: Float[Tensor, "text dim"], key: str
) -> Float[Tensor, "text dim"]:
    """`own` moved row by row as far as to `foreign`, in random directions."""
    generator = torch.Generator().manual_seed(chance(key, "direction"))
    direction = torch.randn(own.shape, generator=generator)
    length = (foreign - own).norm(dim=1, keepdim=True)
    return own + length * direction / direction.norm(dim=1, keepdim=True)
