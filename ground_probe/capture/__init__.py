"""Capture hidden states and exact attention from any editing pipeline.

`capturing` is the context manager; the hooks inside it are those of `run` (hidden states, attention
outputs, edits), of `attention` (maps by `kernel`, carried on by `propagation`) and of `clock`
(steps, forwards, noise level). They find their way by `sites` and `layout`; what they take goes
through `record` into a `Trace`. `tracing` runs an editor inside a capture.

The module can be called: `ground_probe.capture(pipe, blocks)` works whether or not the package of
the same name was imported before the function.
"""

import sys
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

from ground_probe.capture.capturing import capture
from ground_probe.capture.edits import ReplaceRows, ReweightPhrase
from ground_probe.capture.files import load_trace
from ground_probe.capture.reducers import keep_half, keep_projection, keep_tokens
from ground_probe.capture.sites import Site
from ground_probe.capture.traces import Trace
from ground_probe.capture.tracing import trace

__all__ = [
    "ReplaceRows",
    "ReweightPhrase",
    "Site",
    "Trace",
    "capture",
    "keep_half",
    "keep_projection",
    "keep_tokens",
    "load_trace",
    "trace",
]


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> AbstractContextManager[Trace]:
        return capture(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
