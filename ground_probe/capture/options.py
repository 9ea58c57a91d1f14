"""What to capture: every option of `capture` and `trace`, checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from ground_probe.capture.edits import Edit, ReweightPhrase
from ground_probe.capture.sites import ROLES, STREAMS
from ground_probe.editors.phrases import Span
from ground_probe.errors import InputError, unknown

Reduce = Callable[[Float[Tensor, "tokens dim"]], Tensor]
Words = str | tuple[str, str | Span | None]


@dataclass(frozen=True)
class Options:
    """The options of `capture`, which says what they mean.

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
        self._check_names()
        if not self.steps or any(not isinstance(s, int) or s < 0 for s in self.steps):
            raise InputError(f"steps={self.steps}: give denoising steps counted from 0, as (0, 9)")
        if self.reduce is not None and not callable(self.reduce):
            raise InputError(
                f"reduce={self.reduce!r}: give a function of a tensor, as keep_tokens(256)"
            )
        if isinstance(self.propagate, bool) or self.propagate < 0:
            raise InputError(f"propagate={self.propagate!r}: give a number of rounds, as 1")
        if self.propagate and not self.attention:
            raise InputError("propagate carries on attention to a phrase, which is not captured")
        self._check_edits()
        _ = self.phrase

    @property
    def listens(self) -> bool:
        """Whether attention must be heard."""
        reweights = any(isinstance(edit, ReweightPhrase) for edit in self.edits)
        return bool(self.attention or reweights or self.mass or len(self.affinity))

    @property
    def phrase(self) -> tuple[str, str | Span | None] | None:
        """(instruction, phrase) of `attention_to`; words alone are their own instruction."""
        if self.attention_to is None:
            return None
        given = self.attention_to if isinstance(self.attention_to, tuple) else (self.attention_to,)
        if not 1 <= len(given) <= 2 or not isinstance(given[0], str):
            raise InputError(
                f"{given[0]!r} is no instruction: give one string, and run several one by one"
            )
        return given[0], given[1] if len(given) > 1 else None

    @property
    def edits(self) -> tuple[Any, ...]:
        """Every edit, in order."""
        if self.edit is None:
            return ()
        return tuple(self.edit) if isinstance(self.edit, list | tuple) else (self.edit,)

    def _check_names(self) -> None:
        affinity = (self.affinity,) if isinstance(self.affinity, str) else ()
        named: tuple[tuple[str, Iterable[Any], tuple[Any, ...]], ...] = (
            ("stream", self.streams or (), STREAMS),
            ("role", self.roles, ROLES),
            ("stream", affinity, STREAMS[:2]),
            ("attention", (self.attention,), (True, False, "mean")),
        )
        for kind, names, known in named:
            for name in names:
                if name not in known:
                    raise unknown(kind, name, map(str, known))

    def _check_edits(self) -> None:
        for edit in self.edits:
            if not callable(edit) and not isinstance(edit, ReweightPhrase):
                raise InputError(
                    f"edit={edit!r}: give a function of (site, states), ReplaceRows or "
                    "ReweightPhrase"
                )
            if isinstance(edit, ReweightPhrase) and self.attention_to is None:
                raise InputError("ReweightPhrase needs to know the phrase: give `attention_to`")
