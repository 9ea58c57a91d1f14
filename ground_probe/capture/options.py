"""What to capture: every option of `capture` and `trace`, checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from ground_probe.capture.edits import Edit, ReweightPhrase
from ground_probe.capture.sites import ROLES, STREAMS, require
from ground_probe.editors.phrases import Span
from ground_probe.errors import InputError

Reduce = Callable[[Float[Tensor, "tokens dim"]], Tensor]
Words = str | tuple[str, str | Span | None]


@dataclass(frozen=True)
class Options:
    """The options of `capture`, which says what they mean, and two of `trace` alone.

    Args:
        attention: whether to keep attention to and from the phrase; "mean" averages the heads.
        states: blocks whose states and attention outputs are kept; None for all that are chosen.
        others: see `capture`.
    """

    blocks: str | Sequence[str] = "all"
    steps: Sequence[int] = (0,)
    streams: Sequence[str] | None = None
    roles: Sequence[str] = ("cond",)
    attention_to: Words | None = None
    attention: bool | Literal["mean"] = False
    attention_output: bool = False
    states: Collection[str] | None = None
    propagate: int = 0
    affinity: str | Sequence[int] = ()
    mass: bool = False
    prediction: bool = False
    reduce: Reduce | None = None
    edit: Edit | ReweightPhrase | Sequence[Edit | ReweightPhrase] | None = None
    stop: bool = True
    gradients: bool = False

    def __post_init__(self) -> None:
        for name in ("streams", "roles", "steps"):
            value = getattr(self, name)
            value = (value,) if isinstance(value, str | int) else value
            object.__setattr__(self, name, value if value is None else tuple(value))
        require("stream", self.streams or (), STREAMS)
        require("role", self.roles, ROLES)
        require("stream", (self.affinity,) if isinstance(self.affinity, str) else (), STREAMS[:2])
        require("attention", (self.attention,), (True, False, "mean"))
        if not self.steps or any(not isinstance(s, int) or s < 0 for s in self.steps):
            raise InputError(f"steps={self.steps}: give denoising steps counted from 0, as (0, 9)")
        if self.propagate < 0:
            raise InputError(f"propagate={self.propagate!r}: give a number of rounds, as 1")
        if self.propagate and not self.attention:
            raise InputError("propagate carries on attention to a phrase, which is not captured")
        if self.reweights and self.attention_to is None:
            raise InputError("ReweightPhrase needs to know the phrase: give `attention_to`")

    @property
    def reweights(self) -> bool:
        """Whether an edit changes attention to the phrase."""
        return any(isinstance(edit, ReweightPhrase) for edit in self.edits)

    @property
    def listens(self) -> bool:
        """Whether attention must be heard."""
        return bool(self.attention or self.reweights or self.mass or len(self.affinity))

    @property
    def phrase(self) -> tuple[str, str | Span | None] | None:
        """(instruction, phrase) of `attention_to`; words alone are their own instruction."""
        if self.attention_to is None or isinstance(self.attention_to, tuple):
            return self.attention_to
        return self.attention_to, None

    @property
    def edits(self) -> tuple[Any, ...]:
        """Every edit, in order."""
        if self.edit is None:
            return ()
        return tuple(self.edit) if isinstance(self.edit, list | tuple) else (self.edit,)
