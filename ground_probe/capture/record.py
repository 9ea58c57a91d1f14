"""What was asked for, and what of it has come: finite, on the CPU, by site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ground_probe.capture.clock import Clock
from ground_probe.capture.layout import Layout
from ground_probe.capture.options import Options
from ground_probe.capture.sites import ROLES, key_of
from ground_probe.capture.traces import Trace
from ground_probe.editors.family import Family
from ground_probe.errors import InputError, NonFiniteError

_STATES = ("hidden", "attention_output")


class Record:
    """A trace while it is filled.

    Args:
        options: what was asked for.
        blocks: the chosen ones, each with its attention modules that are meant.
        clock: of the run.

    Attributes:
        trace: what is filled.
        awaited: (kind, key) of what has not come; None before it is known what there is.
    """

    def __init__(
        self, options: Options, blocks: Mapping[str, frozenset[str]], clock: Clock
    ) -> None:
        self.options, self.blocks, self._clock = options, blocks, clock
        self.trace = Trace(
            blocks=tuple(blocks),
            steps=tuple(options.steps),
            timesteps=clock.timesteps,
            sigmas=clock.sigmas,
        )
        self.awaited: set[tuple[str, Any]] | None = None

    def expect(self, family: Family, layout: Layout) -> None:
        """Find out from a run's layout what there will be."""
        there = (*layout.grids, *["text"] * layout.joint)
        for stream in self.options.streams or ():
            if stream not in there:
                raise InputError(
                    f"{family.pipeline} has no {stream!r} tokens in its blocks, only "
                    f"{', '.join(there)}. {family.note or 'Pass an image.'}"
                )
        self.awaited = set(self._sites(tuple(layout.grids)))

    def awaits(self, kind: str, key: Any) -> bool:
        """Whether a site was asked for and has not come."""
        return (kind, key) in (self.awaited or ())

    @property
    def complete(self) -> bool:
        """Whether all has come."""
        return self.awaited is not None and not self.awaited

    def put(self, kind: str, key: Any, values: Tensor) -> None:
        """Keep values on the CPU: states reduced on their device, all else whole, in float32."""
        if not values.is_meta and (bad := _count_bad(values)):
            way = (
                "float16 overflows at 65,504, where diffusers clips it: load the editor in "
                "bfloat16 or float32"
                if self.trace.dtype == torch.float16
                else "weights or inputs are damaged, or overflow: look at the edited image, and "
                "load the editor in float32"
            )
            raise NonFiniteError(
                f"{kind} at {key} holds {bad} of {values.numel()} values that are not finite, in a "
                f"denoiser that runs in {self.trace.dtype} on {self.trace.device}: {way}"
            )
        if not (self.options.gradients and kind in _STATES):
            values = values.detach()
        if self.options.reduce and kind in _STATES:
            kept = self.options.reduce(values).to("cpu", copy=True)
        else:
            kept = values.to("cpu", torch.float32, copy=True)
        getattr(self.trace, kind)[key] = kept
        if self.awaited:
            self.awaited.discard((kind, key))

    def silence(self, denoiser: nn.Module) -> str | None:
        """Which sites stayed silent, and the likely cause; None if none did."""
        if self.awaited is None:
            return "the denoiser was not called: call the pipeline inside the `with` block"
        if not self.awaited:
            return None
        kind, key = min(self.awaited, key=str)
        step = key if kind == "prediction" else key[1]
        role = "cond" if kind == "prediction" or key[-1] not in ROLES else key[-1]
        steps = len(self._clock.timesteps)
        if step not in self._clock.timesteps:
            why = f"only {steps} steps ran; ask for earlier ones or run more"
        elif (step, role) not in self._clock.ran:
            why = f"no {role!r} forward ran in that step; turn classifier-free guidance on"
        elif kind in _STATES or kind == "prediction":
            why = "the block did not run; a step cache or a compiled module may skip its hooks"
        else:
            processors = (getattr(module, "processor", None) for module in denoiser.modules())
            backends = {getattr(each, "_attention_backend", None) for each in processors}
            names = [repr(getattr(each, "value", each)) for each in backends if each]
            why = (
                "no such attention passed through F.scaled_dot_product_attention there. The "
                f"attention backend {' '.join(names)} may bypass it (set the native one), a step "
                "cache may skip it, or the modules chosen attend to something else"
            )
        return f"{len(self.awaited)} sites stayed silent, the first is {kind} at {key}: {why}"

    def _sites(self, image_streams: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        """(kind, key) of every site that is asked for."""
        options = self.options
        streams = image_streams if options.streams is None else options.streams
        image = [stream for stream in streams if stream != "text"] or image_streams
        states = _STATES if options.attention_output else _STATES[:1]
        maps = ["affinity"] * bool(len(options.affinity)) + ["key_mass"] * options.mass
        if options.prediction:
            yield from (("prediction", step) for step in options.steps)
        for step, name in product(options.steps, self.blocks):
            kept = options.states is None or name in options.states
            for role in options.roles:
                for kind, stream in product(states, streams if kept else ()):
                    yield kind, key_of(name, step, stream, role)
                for kind in maps:
                    yield kind, key_of(name, step, role)
            if options.attention:
                yield "attention", key_of(name, step)
            for stream in image if options.propagate else ():
                yield "propagated", key_of(name, step, stream)


def _count_bad(values: Tensor) -> int:
    """How many values are not finite, or at the limit of float16, where overflow is clipped to."""
    if values.dtype == torch.float16:
        return int((~(values.abs() < torch.finfo(torch.float16).max)).sum())
    return 0 if bool(values.isfinite().all()) else int((~values.isfinite()).sum())
