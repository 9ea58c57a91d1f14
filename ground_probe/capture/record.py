"""What was asked for, and what of it has come: finite, on the CPU, by site."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ground_probe.capture.layout import Layout
from ground_probe.capture.options import Options
from ground_probe.capture.sites import key_of
from ground_probe.capture.traces import Trace
from ground_probe.editors.family import Family
from ground_probe.errors import InputError, NonFiniteError


class Record:
    """A trace while it is filled.

    Args:
        trace: what is filled.

    Attributes:
        awaited: (kind, key) of what has not come; None before it is known what there is.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.awaited: set[tuple[str, Any]] | None = None

    def expect(self, sites: Iterable[tuple[str, Any]]) -> None:
        """Say what there will be."""
        self.awaited = set(sites)

    def awaits(self, kind: str, key: Any) -> bool:
        """Whether a site was asked for and has not come."""
        return (kind, key) in (self.awaited or ())

    @property
    def complete(self) -> bool:
        """Whether all has come."""
        return self.awaited is not None and not self.awaited

    def put(
        self,
        kind: str,
        key: Any,
        values: Tensor,
        reduce: Callable[[Tensor], Tensor] | None = None,
        graph: bool = False,
    ) -> None:
        """Keep values, reduced on their device; by default whole, in float32, out of any graph.

        Raises:
            NonFiniteError: they are not finite.
        """
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
        if reduce is None:
            kept = values.to("cpu", torch.float32, copy=True)
        else:
            kept = reduce(values).to("cpu", copy=True)
        getattr(self.trace, kind)[key] = kept if graph else kept.detach()
        if self.awaited:
            self.awaited.discard((kind, key))


def sites_of(options: Options, blocks: Iterable[str], layout: Layout) -> Iterator[tuple[str, Any]]:
    """(kind, key) of every site that options ask for.

    Args:
        options: what is asked for.
        blocks: the chosen ones.
        layout: of the run, for the streams that there are.
    """
    streams = tuple(layout.grids) if options.streams is None else options.streams
    image = [stream for stream in streams if stream != "text"] or list(layout.grids)
    states = ["hidden"] + ["attention_output"] * options.attention_output
    maps = ["affinity"] * bool(len(options.affinity)) + ["key_mass"] * options.mass
    for step in options.steps:
        if options.prediction:
            yield "prediction", step
        for name in blocks:
            for role in options.roles:
                if options.states is None or name in options.states:
                    yield from ((k, key_of(name, step, s, role)) for k in states for s in streams)
                yield from ((kind, key_of(name, step, role)) for kind in maps)
            if options.attention:
                yield "attention", key_of(name, step)
            if options.propagate:
                yield from (("propagated", key_of(name, step, stream)) for stream in image)


def check_streams(options: Options, family: Family, layout: Layout | None = None) -> None:
    """Refuse streams that a family, or a run of it, does not have.

    Raises:
        InputError: names those that there are.
    """
    there = family.streams
    if layout is not None:
        has = (*layout.grids, *["text"] * layout.joint)
        there = tuple(stream for stream in there if stream in has)
    for stream in options.streams or ():
        if stream not in there:
            raise InputError(
                f"{family.pipeline} has no {stream!r} tokens in its blocks, only "
                f"{', '.join(there)}. {family.note or 'Pass an image.'}"
            )


def _count_bad(values: Tensor) -> int:
    """How many values are not finite, or at the limit of float16, where overflow is clipped to."""
    if values.dtype == torch.float16:
        return int((~(values.abs() < torch.finfo(torch.float16).max)).sum())
    return 0 if bool(values.isfinite().all()) else int((~values.isfinite()).sum())
