"""Methods heard or changed on one object, and given back whoever leaves first."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ground_probe.editors.editor import Editor

_LOCK = threading.RLock()


@contextmanager
def wrapped(owner: Any, name: str, around: Callable[..., Any]) -> Iterator[None]:
    """Let calls of `owner.name` go through `around(call, *args, **kwargs)` until the block is left.

    The object alone is changed, never its class. Several blocks may wrap one method, in one thread
    or in several, and be left in any order: the last one gives the object back as it was.

    ```python
    with wrapped(pipeline.vae, "encode", lambda call, image: call(image.flip(-1))):
        pipeline(...)
    ```
    """
    with _LOCK:
        method = vars(owner).get(name)
        if not isinstance(method, _Wrapped):
            method = _Wrapped(owner, name)
            setattr(owner, name, method)
        method.layers.append(around)
    try:
        yield
    finally:
        with _LOCK:
            method.layers.remove(around)
            if not method.layers:
                delattr(owner, name)
                if method.before is not None:
                    setattr(owner, name, method.before)


class _Wrapped:
    """A method and what its calls go through, the outermost last."""

    def __init__(self, owner: Any, name: str) -> None:
        self.before = vars(owner).get(name)  # somebody's own, which hides that of the class
        self._method = getattr(owner, name)
        self.layers: list[Callable[..., Any]] = []
        functools.update_wrapper(self, self._method)  # pipelines look at signatures

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self._method
        for around in tuple(self.layers):
            call = functools.partial(around, call)
        return call(*args, **kwargs)


@contextmanager
def encoded_once(editor: Editor) -> Iterator[None]:
    """Let the calls of an editor's pipeline share the encoding of an image, the last one."""
    last: tuple[Tensor, Any] | None = None

    def once(encode: Callable[..., Any], image: Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal last
        known = last  # another thread may encode another image meanwhile
        if known is None or known[0].shape != image.shape or not torch.equal(known[0], image):
            last = known = image, encode(image, *args, **kwargs)
        return known[1]

    with wrapped(editor.pipeline.vae, "encode", once):
        yield
