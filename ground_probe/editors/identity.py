"""What an editor is: a digest of everything in memory that determines its output.

Files are not asked, for what was read from them may have been changed since, and not all that
decides is in them. SHA-256 takes 1.3 GiB/s on a core, and tensors are shared out among cores.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, nn

from ground_probe.io import digest

_VARYING = frozenset({"architectures", "dtype", "torch_dtype", "transformers_version"})
_TOKENIZER = ("model_max_length", "padding_side", "truncation_side", "chat_template")
_ADAPTER = ("scaling", "active_adapters", "merged_adapters", "disable_adapters")


class _UnidentifiedError(Exception):
    """Something decides the output and cannot be described."""


def identity(pipeline: Any) -> str:
    """16 hex digits over a pipeline's weights, buffers, configurations, tokenizers and adapters.

    The same digits for a pipeline and for what is loaded from the folder that it was saved in. An
    editor that cannot be described gets digits of its own every time, with a warning, so that
    nothing that was computed with it is ever taken for another's.
    """
    parts = {**_public(vars(pipeline)), **pipeline.components}
    try:
        return digest([_name(pipeline), _config(pipeline.config), _described(parts)], length=16)
    except _UnidentifiedError as error:
        warnings.warn(
            f"{type(pipeline).__name__} cannot be identified ({error}): what is computed with it "
            "cannot be resumed",
            stacklevel=2,
        )
        return unidentified()


def unidentified() -> str:
    """A revision that equals no other."""
    return f"unidentified-{uuid4().hex[:16]}"


def _described(value: Any) -> Any:
    """A value as JSON: what it is and all that it holds."""
    if value is None or isinstance(value, bool | int | float | str | torch.dtype):
        return _config(value)
    if isinstance(value, Mapping):
        return {str(key): _described(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_described(part) for part in value]
    if isinstance(value, nn.Module):
        return _module(getattr(value, "_orig_mod", value))
    if hasattr(value, "backend_tokenizer"):
        return _fast_tokenizer(value)
    if hasattr(value, "get_vocab"):
        return [_name(value), value.get_vocab(), *(getattr(value, name) for name in _TOKENIZER)]
    if hasattr(value, "tokenizer"):  # a processor of text and images
        return [_name(value), _described(_public(vars(value)))]
    if hasattr(value, "config") or hasattr(value, "to_dict"):
        return [_name(value), _config(getattr(value, "config", value))]
    if hasattr(value, "tolist"):
        return value.tolist()
    raise _UnidentifiedError(f"it holds a {_name(value)}")


def _module(module: nn.Module) -> Any:
    names, tensors = zip(*_tensors(module), strict=True)
    with ThreadPoolExecutor() as pool:
        hashed = dict(zip(names, pool.map(_bytes, tensors), strict=True))
    return [
        _name(module),
        _config(getattr(module, "config", None)),
        # What has no weights decides too: an activation, an attention processor, an adapter.
        digest([_part(part) for part in module.modules()]),
        hashed,
    ]


def _part(part: nn.Module) -> Any:
    adapts = hasattr(part, "active_adapters") and hasattr(part, "scaling")
    adapter = {name: getattr(part, name, None) for name in _ADAPTER} if adapts else None
    return [_name(part), _name(getattr(part, "processor", None)), repr(adapter)]


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that decides, by its name, wherever accelerate keeps it."""
    every = {**dict(module.named_buffers()), **module.state_dict()}
    for name, tensor in sorted(every.items()):
        if not isinstance(tensor, Tensor):
            continue
        if tensor.is_meta:
            owner, _, own = name.rpartition(".")
            hook = getattr(module.get_submodule(owner), "_hf_hook", None)
            weights = getattr(hook, "weights_map", None) or {}
            if own not in weights:
                raise _UnidentifiedError(f"{name} has no values")
            tensor = weights[own]
        yield name, tensor


def _bytes(tensor: Tensor) -> Any:
    tensor = tensor.detach()
    about = [str(tensor.dtype), list(tensor.shape)]
    if hasattr(tensor, "__tensor_flatten__"):  # a quantized weight is made of several
        names, context = tensor.__tensor_flatten__()
        return [*about, repr(context), *(_bytes(getattr(tensor, name)) for name in names)]
    plain = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return [*about, hashlib.sha256(plain).hexdigest()]


def _fast_tokenizer(tokenizer: Any) -> Any:
    # Padding and truncation are those of the last call; the rest never changes.
    backend = json.loads(tokenizer.backend_tokenizer.to_str()) | {"padding": 0, "truncation": 0}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return [digest(backend), special, *(getattr(tokenizer, name, None) for name in _TOKENIZER)]


def _config(config: Any) -> Any:
    """A configuration without the paths and versions of whoever saved it."""
    config = config.to_dict() if hasattr(config, "to_dict") else config
    if isinstance(config, Mapping):
        kept = {str(key): value for key, value in config.items() if key not in _VARYING}
        return {key: _config(value) for key, value in _public(kept).items()}
    if isinstance(config, tuple | list):
        return [_config(part) for part in config]
    if hasattr(config, "tolist"):
        return config.tolist()
    return config if isinstance(config, bool | int | str | None) else repr(config)


def _public(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not name.startswith("_")}


def _name(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
