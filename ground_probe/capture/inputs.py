"""What a denoiser is given, replaced while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ground_probe.editors import wrapped


@contextmanager
def replaced_inputs(
    denoiser: nn.Module, inputs: Mapping[str, tuple[Tensor, Tensor]]
) -> Iterator[None]:
    """Give a denoiser other values, in the rows of a batch that hold the values to replace.

    The unconditional rows of guidance hold others, so that they are left as they are.

    Args:
        denoiser: of an editor.
        inputs: pairs of the value to replace and the one in its place, by name of the argument.
    """
    if not inputs:
        yield
        return

    def replaced(forward: Callable[..., Any], *args: Any, **given: Any) -> Any:
        for name, (before, after) in inputs.items():
            rows = [after.to(row) if row.equal(before.to(row)) else row for row in given[name]]
            given[name] = torch.stack(rows)
        return forward(*args, **given)

    # Hooks of a capture come before it: they know the phrase by the text that they heard.
    with wrapped(denoiser, "forward", replaced):
        yield
