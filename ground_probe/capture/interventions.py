"""Small causal changes made while a pipeline runs: to a stream's rows, or to the phrase's keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ground_probe.capture.attention import Attention
from ground_probe.capture.layout import Layout
from ground_probe.capture.sites import ROLES, STREAMS
from ground_probe.errors import InputError, unknown


@dataclass(frozen=True, eq=False)
class ReplaceRows:
    """Replace, or ablate, rows of a stream where a block hands it on.

    Args:
        blocks: "all" or globs.
        stream: "noise", "reference" or "text".
        value: a number, or a tensor that fits the rows: (tokens, dim) or (dim,).
        rows: which tokens of the stream; None for all.
        steps: denoising steps; None for all.
        roles: forwards of classifier-free guidance.
    """

    blocks: str | Sequence[str]
    stream: str
    value: Tensor | float = 0.0
    rows: Sequence[int] | None = None
    steps: Sequence[int] | None = None
    roles: str | Sequence[str] = ("cond",)

    needs_phrase = False

    def __post_init__(self) -> None:
        roles = (self.roles,) if isinstance(self.roles, str) else tuple(self.roles)
        object.__setattr__(self, "roles", roles)
        if self.stream not in STREAMS:
            raise unknown("stream", self.stream, STREAMS)
        for role in roles:
            if role not in ROLES:
                raise unknown("role", role, ROLES)

    def on_block(self, roles: Sequence[str], layout: Layout, output: Any) -> Any:
        """The block's output with the rows replaced; the one given stays as it is."""
        output = _cloned(output)
        streams = layout.split(output)
        if self.stream not in streams:
            raise InputError(
                f"ReplaceRows of {self.stream!r}: this block hands on {', '.join(streams)}"
            )
        states = streams[self.stream]
        rows = slice(None) if self.rows is None else torch.as_tensor(list(self.rows))
        value = torch.as_tensor(self.value).to(states)
        for row, role in enumerate(roles):
            if role in self.roles:
                states[row, rows] = value
        return output


@dataclass(frozen=True)
class ReweightPhrase:
    """Multiply the attention that every token pays to the phrase, then renormalise.

    Args:
        weight: 0 ablates the phrase's keys, 1 changes nothing.
        blocks: "all" or globs.
        steps: denoising steps; None for all.
    """

    weight: float
    blocks: str | Sequence[str] = "all"
    steps: Sequence[int] | None = None

    needs_phrase = True

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise InputError(f"ReweightPhrase({self.weight}): give a weight of at least 0")

    def on_attention(self, roles: Sequence[str], keys: Tensor, call: Attention) -> Attention:
        """The attention call with the phrase's keys reweighted in the conditional row."""
        return call.reweighted(keys, self.weight, roles.index("cond")) if "cond" in roles else call


def _cloned(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.clone()
    return type(output)(_cloned(part) for part in output)
