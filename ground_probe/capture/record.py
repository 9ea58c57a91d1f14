"""What was asked for, and what of it has come: finite, on the CPU, by site."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ground_probe.capture.traces import Trace
from ground_probe.errors import NonFiniteError


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
    ) -> None:
        """Keep values, reduced on their device; by default whole, in float32.

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
        getattr(self.trace, kind)[key] = kept.detach()
        if self.awaited:
            self.awaited.discard((kind, key))


def _count_bad(values: Tensor) -> int:
    """How many values are not finite, or at the limit of float16, where overflow is clipped to."""
    if values.dtype == torch.float16:
        return int((~(values.abs() < torch.finfo(torch.float16).max)).sum())
    return 0 if bool(values.isfinite().all()) else int((~values.isfinite()).sum())
