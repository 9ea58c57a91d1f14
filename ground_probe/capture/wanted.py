"""What to capture, checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ground_probe.capture.sites import ROLES, STREAMS
from ground_probe.editors.phrases import Span
from ground_probe.errors import InputError, unknown


@dataclass(frozen=True)
class Wanted:
    """What to capture.

    Args:
        sites: "all", or globs over the names of blocks and of their attention modules; none of
            them to only intervene.
        steps: denoising steps, from 0.
        streams: "noise", "reference", "text"; None for the image streams that there are.
        roles: "cond", "image_only", "uncond": forwards of classifier-free guidance.
        instruction: what the prompt says; needed for attention to a phrase.
        phrase: words of the instruction or their span; None for all of it.
        attention: whether to keep attention to and from the phrase; "mean" averages the heads.
        attention_output: whether to keep what the blocks' attention modules return.
        propagate: how often a map is carried on by attention within its stream.
        affinity: image tokens, or a stream, whose attention to all image tokens is kept.
        mass: whether to keep how much a sample of image tokens attends to every key.
        prediction: whether to keep the one-step prediction of the clean latents.
        keep: reduces a hidden state on its device; None keeps it whole, in float32 on the CPU.
        interventions: `ReplaceRows` and `ReweightPhrase`.
    """

    sites: str | Sequence[str] = "all"
    steps: int | Sequence[int] = (0,)
    streams: str | Sequence[str] | None = None
    roles: str | Sequence[str] = ("cond",)
    instruction: str | None = None
    phrase: str | Span | None = None
    attention: bool | Literal["mean"] = False
    attention_output: bool = False
    propagate: int = 0
    affinity: str | Sequence[int] = ()
    mass: bool = False
    prediction: bool = False
    keep: Callable[[Tensor], Tensor] | None = None
    interventions: Sequence[Any] = ()

    def __post_init__(self) -> None:
        for name in ("streams", "roles", "steps"):
            value = getattr(self, name)
            value = (value,) if isinstance(value, str | int) else value
            object.__setattr__(self, name, value if value is None else tuple(value))
        for kind, names, known in (
            ("stream", self.streams or (), STREAMS),
            ("role", self.roles, ROLES),
            ("stream", (self.affinity,) if isinstance(self.affinity, str) else (), STREAMS[:2]),
            ("attention", (self.attention,), (True, False, "mean")),
        ):
            for name in names:
                if name not in known:
                    raise unknown(kind, name, map(str, known))
        if not self.steps or any(not isinstance(s, int) or s < 0 for s in self.steps):
            raise InputError(f"steps={self.steps}: give denoising steps counted from 0, as (0, 9)")
        if self.keep is not None and not callable(self.keep):
            raise InputError(f"keep={self.keep!r}: give a function of a tensor: keep_tokens(256)")
        if isinstance(self.propagate, bool) or self.propagate < 0:
            raise InputError(f"propagate={self.propagate!r}: give a number of rounds, as 1")
        if self.propagate and not self.attention:
            raise InputError("propagate carries attention to the phrase: give `attention` as well")
        if self.needs_phrase and self.instruction is None:
            raise InputError("a phrase needs the `instruction` that holds it")

    @property
    def needs_phrase(self) -> bool:
        """Whether the phrase's keys must be found."""
        return bool(self.phrase is not None or self.attention or self._intervenes)

    @property
    def listens(self) -> bool:
        """Whether attention must be heard."""
        return bool(self.attention or self._intervenes or self.mass or len(self.affinity))

    @property
    def _intervenes(self) -> bool:
        return any(each.needs_phrase for each in self.interventions)
