"""Capture hidden states and exact attention from any editing pipeline.

The module can be called: `ground_probe.capture(pipe, sites)` works whether or not the package of
the same name was imported before the function.
"""

import sys
from types import ModuleType

from ground_probe.capture.batch import Told, trace_batch
from ground_probe.capture.hooks import Capture, capture
from ground_probe.capture.interventions import ReplaceRows, ReweightPhrase
from ground_probe.capture.keep import chain, keep_half, keep_pool, keep_projection, keep_tokens
from ground_probe.capture.store import TraceStore
from ground_probe.capture.trace import Trace, trace
from ground_probe.capture.wanted import Wanted

__all__ = [
    "Capture",
    "ReplaceRows",
    "ReweightPhrase",
    "Told",
    "Trace",
    "TraceStore",
    "Wanted",
    "capture",
    "chain",
    "keep_half",
    "keep_pool",
    "keep_projection",
    "keep_tokens",
    "trace",
    "trace_batch",
]


class _Callable(ModuleType):
    def __call__(self, *args, **kwargs):
        return capture(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
