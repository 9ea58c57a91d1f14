"""What a function is: its code and all that it holds, so that its results are nobody else's."""

from __future__ import annotations

import functools
import hashlib
import random
import sys
import sysconfig
import types
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ground_probe.editors.identity import unidentified
from ground_probe.io import digest

_INSTALLED = tuple(set(sysconfig.get_paths().values()) - {sysconfig.get_path("data")})
_RANDOM = (random.Random, np.random.Generator, np.random.RandomState)
_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, type(...), type(NotImplemented))


class _UnidentifiedError(Exception):
    """Something decides what a function gives and cannot be described."""


def identity_of(function: Any) -> str:
    """A name and 16 digits over a function's code, its closure, defaults, attributes and globals.

    Functions of ground_probe and of installed packages are their names. What says a `revision` of
    its own is taken at its word. What cannot be described (an open file, a random generator) gets
    digits that equal no other, with a warning, so that nothing is resumed with it.

    >>> def above(level):
    ...     return lambda image: image > level
    >>> identity_of(above(1)) == identity_of(above(1))
    True
    >>> identity_of(above(1)) == identity_of(above(2))
    False
    """
    try:
        return f"{_name(function)}-{digest(_described(function, {}), length=16)}"
    except (_UnidentifiedError, RecursionError) as error:
        warnings.warn(
            f"{_name(function)} cannot be identified ({error}): what is computed with it can be "
            "neither resumed nor shared out",
            stacklevel=2,
        )
        return unidentified()


def _described(value: Any, met: dict[int, tuple[Any, str]]) -> str:
    """A digest of a value and all that it holds; `met` are those known by now, kept alive."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if id(value) not in met:
        met[id(value)] = value, "itself"  # should it hold itself
        met[id(value)] = value, digest(_parts(value, met), length=16)
    return met[id(value)][1]


def _parts(value: Any, met: dict[int, tuple[Any, str]]) -> Any:
    """A value as JSON, its parts as digests."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(revision := getattr(value, "revision", None), str) and revision:
        return [_kind(value), revision]
    if isinstance(value, _RANDOM) or type(value).__qualname__ == "Generator":
        raise _UnidentifiedError(f"it draws from a {_kind(value)}, in the order of the work")
    if isinstance(value, np.ndarray | Tensor):
        return _array(value)
    if isinstance(value, list | tuple):
        return [_kind(value), *(_described(part, met) for part in value)]
    if isinstance(value, set | frozenset):
        return [_kind(value), sorted(_described(part, met) for part in value)]
    if isinstance(value, Mapping):
        return [_kind(value), [[repr(k), _described(part, met)] for k, part in value.items()]]
    if isinstance(value, types.CodeType):
        parts = (value.co_code, value.co_names, value.co_consts)
        return [_described(part, met) for part in parts]
    if _installed(value):
        return f"{value.__module__}.{_name(value)}"
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        held = (value.__defaults__, value.__kwdefaults__, cells, _globals(value))
        return ["function", *(_described(part, met) for part in (value.__code__, *held))]
    if isinstance(value, type):
        inside = {
            name: part
            for name, part in vars(value).items()
            if name not in _BOOKKEEPING and not isinstance(part, types.MemberDescriptorType)
        }
        return ["class", _described(value.__bases__, met), _described(inside, met)]
    if isinstance(value, property | classmethod | staticmethod | functools.cached_property):
        names = ("fget", "fset", "__func__", "func")
        return [_kind(value), *(_described(getattr(value, name, None), met) for name in names)]
    return [_described(type(value), met), _described(_reduced(value), met)]


_BOOKKEEPING = {
    "__dict__", "__weakref__", "__module__", "__qualname__", "__doc__", "__firstlineno__",
    "__static_attributes__", "__annotations__", "__annotate__", "__annotate_func__",
    "__annotations_cache__", "__slots__",
    "__slotnames__", "__abstractmethods__", "_abc_impl",
}  # fmt: skip


def _reduced(value: Any) -> Any:
    """All that makes an object, as pickle has it."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception as error:  # whatever the objects of others raise
        raise _UnidentifiedError(f"it holds a {_kind(value)}; give it a `revision`") from error
    if isinstance(reduced, str):
        return reduced
    _, arguments, *state = reduced  # its state, and iterators over a list's and a mapping's items
    return [arguments, *state[:1], *(list(items) for items in state[1:3] if items)]


def _array(value: np.ndarray | Tensor) -> list[Any]:
    about = [_kind(value), str(value.dtype), list(value.shape)]
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    if value.dtype == object:
        raise _UnidentifiedError("it holds an array of objects")
    return [*about, hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()]


def _globals(function: types.FunctionType) -> dict[str, Any]:
    """The module's values whose names the code holds, code inside it included."""
    codes, names = [function.__code__], set[str]()
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [const for const in code.co_consts if isinstance(const, types.CodeType)]
    known = function.__globals__
    return {name: known[name] for name in sorted(names) if name in known}


def _installed(value: Any) -> bool:
    """Whether a function or class is known by its name: ours, Python's or a package's."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "<")
    if isinstance(value, types.BuiltinFunctionType | np.ufunc):
        return bool(module)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        return False
    if not isinstance(value, type | types.FunctionType):
        return False
    if module.partition(".")[0] == "ground_probe":
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return module == "builtins" or (file is not None and file.startswith(_INSTALLED))


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    names = ("__qualname__", "__name__")
    return next((getattr(function, n) for n in names if hasattr(function, n)), _kind(function))
