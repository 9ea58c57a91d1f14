"""What a module is called with: told by name, heard, or replaced while it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ground_probe.editors import wrapped

_signature = cache(inspect.signature)


def arguments_of(module: nn.Module, args: tuple, kwargs: dict) -> dict[str, Any]:
    """What a module is called with, by the names of its own forward."""
    return _signature(type(module).forward).bind(module, *args, **kwargs).arguments


@contextmanager
def each_call(module: nn.Module, note: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Let `note` see what every call of a module is given, by the names of its own forward."""

    def heard(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        note(arguments_of(module, args, kwargs))

    handle = module.register_forward_pre_hook(heard, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


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

    def replaced(forward: Callable[..., Any], *args: Any, **given: Any) -> Any:
        for name, (before, after) in inputs.items():
            rows = [after.to(row) if row.equal(before.to(row)) else row for row in given[name]]
            given[name] = torch.stack(rows)
        return forward(*args, **given)

    # Hooks of a capture come before it: they know the phrase by the text that they heard.
    with wrapped(denoiser, "forward", replaced):
        yield
