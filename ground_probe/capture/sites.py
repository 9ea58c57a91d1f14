"""Addresses: which blocks a denoiser has, in what order they run, and what is meant by a glob."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, NamedTuple

from torch import nn

from ground_probe.errors import InputError, UnsupportedEditorError, unknown

STREAMS = ("noise", "reference", "text")
ROLES = ("cond", "image_only", "uncond")
# A UNet registers its middle block last and runs it second.
_UNET_ORDER = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
# Blocks that refine the text before it meets the image: no image token passes through them.
_TEXT_ALONE = "text_transformer_blocks."


def require(kind: str, names: Iterable[Any], known: tuple[Any, ...]) -> None:
    """Raise UnknownNameError, with the names that there are, for one that there is not."""
    for name in names:
        if name not in known:
            raise unknown(kind, name, map(str, known))


class Captured(dict):
    """Tensors by site: `[block, step]` or `[block, step, stream]`, and a role unless it is "cond".

    >>> maps = Captured({("transformer_blocks.0", 0): "a map"})
    >>> maps["transformer_blocks.0", 0, "cond"]
    'a map'
    """

    def __missing__(self, key: Any) -> Any:
        """The conditional role may be named; of anything else, say what was not captured."""
        if isinstance(key, tuple) and key[-1] == "cond" and key[:-1] in self:
            return self[key[:-1]]
        if not self:
            raise InputError(f"{key!r} was not captured: this capture holds nothing of the kind")
        parts = key if isinstance(key, tuple) else (key,)
        for place, part in enumerate(parts):
            kind = ("block", "step", "stream or role", "role")[min(place, 3)]
            had = dict.fromkeys(site[place] for site in self if len(site) > place)
            if part not in had:
                raise unknown(kind, part, had or ["cond"])
        raise InputError(f"{key!r} was not captured: a key looks like {next(iter(self))!r}")


class Site(NamedTuple):
    """Where a state is: a block, a denoising step from 0, a stream, and a forward's role."""

    block: str
    step: int
    stream: str
    role: str


def key_of(block: str, step: int, *rest: str) -> tuple:
    """The key of a site in a `Captured`: its last part, the role, is left out when it is "cond".

    >>> key_of("transformer_blocks.0", 0, "noise", "cond")
    ('transformer_blocks.0', 0, 'noise')
    """
    return (block, step, *rest[:-1]) if rest and rest[-1] == "cond" else (block, step, *rest)


def blocks_of(denoiser: nn.Module) -> dict[str, nn.Module]:
    """The transformer blocks of a denoiser by name, in the order in which they run.

    Raises:
        UnsupportedEditorError: the denoiser does not say which of its modules repeat.
    """
    classes = getattr(denoiser, "_repeated_blocks", None) or getattr(
        denoiser, "_no_split_modules", None
    )
    named = {
        name.replace("._orig_mod", ""): module  # the wrapper of `torch.compile`
        for name, module in denoiser.named_modules()
        if type(module).__name__ in (classes or ()) and not name.startswith(_TEXT_ALONE)
    }
    if not named:
        raise UnsupportedEditorError(
            f"{type(denoiser).__name__} does not name its repeated blocks (`_repeated_blocks`), "
            "so there is nothing to capture from"
        )
    return dict(sorted(named.items(), key=lambda item: _UNET_ORDER.get(item[0].split(".")[0], 0)))


def attentions_of(block: nn.Module) -> dict[str, nn.Module]:
    """The attention modules inside a block: those that own an attention processor."""
    modules = block.named_modules()
    return {name: m for name, m in modules if name and hasattr(m, "processor")}


def resolve(
    blocks: Mapping[str, nn.Module], patterns: str | Iterable[str]
) -> dict[str, frozenset[str]]:
    """The blocks that patterns mean, each with its attention modules that are meant.

    Args:
        blocks: what `blocks_of` found.
        patterns: "all", a name, a glob or several. A glob matches the whole name of a block or of
            one of its attention modules, or the end of one from a dot on: "single_*", "*.0",
            "attn2". The name of a block means that block alone.

    Raises:
        UnknownNameError: a pattern that matches nothing, with the blocks that exist.

    >>> resolve({"transformer_blocks.0": nn.Identity()}, "all")
    {'transformer_blocks.0': frozenset()}
    """
    attentions = cache(lambda name: frozenset(attentions_of(blocks[name])))
    wanted: dict[str, frozenset[str]] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        hits = {}
        for name in [pattern] if pattern in blocks else blocks:
            if pattern in ("all", name) or _matches(name, pattern):
                hits[name] = attentions(name)
            elif named := {n for n in attentions(name) if _matches(f"{name}.{n}", pattern)}:
                hits[name] = frozenset(named)
        if not hits:
            raise unknown("block", pattern, blocks)
        for name, inside in hits.items():
            wanted[name] = wanted.get(name, frozenset()) | inside
    return {name: wanted[name] for name in blocks if name in wanted}


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")
