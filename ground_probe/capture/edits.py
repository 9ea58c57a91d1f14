"""Small causal changes made while a pipeline runs: to a stream's rows, or to the phrase's keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ground_probe.capture.clock import Clock
from ground_probe.capture.kernel import Attention
from ground_probe.capture.sites import ROLES, STREAMS, Site, require, resolve
from ground_probe.errors import InputError

States = Float[Tensor, "tokens dim"]
Edit = Callable[[Site, States], Tensor | None]
"""Given a site and what a block hands on there, returns what takes its place, or None."""


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

    >>> at = Site("transformer_blocks.0", 0, "text", "cond")
    >>> ReplaceRows("all", "text", 7.0, rows=[1])(at, torch.zeros(2, 3))
    tensor([[0., 0., 0.],
            [7., 7., 7.]])
    """

    blocks: str | Sequence[str]
    stream: str
    value: Tensor | float = 0.0
    rows: Sequence[int] | None = None
    steps: Sequence[int] | None = None
    roles: str | Sequence[str] = ("cond",)

    def __post_init__(self) -> None:
        roles = (self.roles,) if isinstance(self.roles, str) else tuple(self.roles)
        object.__setattr__(self, "roles", roles)
        require("stream", (self.stream,), STREAMS)
        require("role", roles, ROLES)

    def __call__(self, site: Site, states: States) -> Tensor | None:
        """The states with the rows replaced; those given stay as they are."""
        if site.stream != self.stream or site.role not in self.roles:
            return None
        tokens, dim = states.shape
        rows = torch.arange(tokens) if self.rows is None else torch.as_tensor(list(self.rows))
        value = torch.as_tensor(self.value).to(states)
        inside = not len(rows) or -tokens <= rows.min() <= rows.max() < tokens
        if not inside or value.shape not in ((), (dim,), (1, dim), (len(rows), dim)):
            raise InputError(
                f"ReplaceRows with rows={self.rows} and a value of shape {tuple(value.shape)} does "
                f"not fit {self.stream!r} at {site.block}, of shape {(tokens, dim)}: give rows of "
                f"0 to {tokens - 1}, and a number, (dim,) or (rows, dim)"
            )
        states = states.clone()
        states[rows.to(states.device)] = value
        return states


@dataclass(frozen=True)
class ReweightPhrase:
    """Multiply the attention that every token pays to the phrase, then renormalize.

    Args:
        weight: 0 ablates the phrase's keys, 1 changes nothing.
        blocks: "all" or globs.
        steps: denoising steps; None for all.
    """

    weight: float
    blocks: str | Sequence[str] = "all"
    steps: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise InputError(f"ReweightPhrase({self.weight}): give a weight of at least 0")


# An edit, the blocks and attention modules where it is meant, and where it was made.
_Placed = tuple[Any, Mapping[str, frozenset[str]], set[Site]]


class Edits:
    """The edits of one run: they are applied where they are meant, and it is noted where."""

    def __init__(
        self,
        edits: Sequence[Any],
        blocks: Mapping[str, nn.Module],
        chosen: Mapping[str, frozenset[str]],
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._edits: list[_Placed] = [
            (edit, resolve(blocks, edit.blocks) if hasattr(edit, "blocks") else chosen, set())
            for edit in edits
        ]
        self._ran: set[tuple[str, int, str]] = set()
        self.blocks = frozenset(name for _, scope, _ in self._edits for name in scope)

    def of_block(self, name: str, output: Any) -> Any:
        """A block's output with its edits in it."""
        clock = self._clock
        self._ran |= {(name, clock.step, role) for role in clock.roles}
        meant = [
            (edit, made)
            for edit, scope, made in self._edits
            if name in scope and callable(edit) and self._now(edit)
        ]
        if not meant:
            return output
        output = tree_map_only(Tensor, torch.clone, output)
        streams = clock.layout.split(output)
        for (edit, made), stream in product(meant, streams):
            for row, role in enumerate(clock.roles):
                site, states = Site(name, clock.step, stream, role), streams[stream][row]
                new = edit(site, states.clone())
                if new is not None or not hasattr(edit, "stream"):
                    made.add(site)
                if new is not None and new.shape != states.shape:
                    raise InputError(
                        f"an edit at {tuple(site)} returned the shape {tuple(new.shape)} for "
                        f"states of the shape {tuple(states.shape)}"
                    )
                if new is not None:
                    states.copy_(new)
        return output

    def of_attention(self, name: str, inside: str, keys: Tensor, call: Attention) -> Attention:
        """The call of an attention module with the phrase's keys reweighted."""
        clock = self._clock
        for edit, scope, made in self._edits:
            meant = isinstance(edit, ReweightPhrase) and inside in scope.get(name, ())
            if meant and self._now(edit):
                call = call.reweighted(keys, edit.weight, clock.roles.index("cond"))
                made.add(Site(name, clock.step, "text", "cond"))
        return call

    def silence(self) -> str | None:
        """Which edit did not take place; None if all did."""
        for edit, scope, made in self._edits:
            head = f"the edit {getattr(edit, '__name__', type(edit).__name__)} never took place"
            if not made:
                return f"{head}: none of its blocks, steps and roles ran"
            steps = getattr(edit, "steps", None) or {site.step for site in made}
            roles = getattr(edit, "roles", None) or {site.role for site in made}
            for part, wanted in (("step", steps), ("role", roles)):
                if missed := set(wanted) - {getattr(site, part) for site in made}:
                    return f"{head} at {part} {min(missed)!r}"
            due = {at for at in self._ran if at[0] in scope and at[1] in steps and at[2] in roles}
            if missed := due - {(site.block, site.step, site.role) for site in made}:
                return (
                    f"{head} at {min(missed)[:2]}: the block hands on no such stream, or no "
                    "attention to the phrase passed through F.scaled_dot_product_attention there; "
                    "set the native attention backend"
                )
        return None

    def _now(self, edit: Any) -> bool:
        steps = getattr(edit, "steps", None)
        return steps is None or self._clock.step in steps
