"""How text, noise and reference lie in a denoiser's sequence, read from what it is called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ground_probe.errors import UnsupportedEditorError

Grid = tuple[int, int]
_signature = cache(inspect.signature)


@dataclass(frozen=True)
class Layout:
    """The token grids of a denoiser's call and the order of its streams.

    Args:
        grids: for each image stream its grids, (rows, columns); several for several references.
        text: text tokens.
        joint: text and image share one sequence; otherwise the text enters by cross-attention.
        text_first: the joint sequence, and a block's outputs, begin with the text.
    """

    grids: Mapping[str, tuple[Grid, ...]]
    text: int
    joint: bool
    text_first: bool = True

    @property
    def image(self) -> int:
        """Image tokens: noise, then reference."""
        return sum(self.tokens(stream) for stream in self.grids)

    def tokens(self, stream: str) -> int:
        """How many tokens a stream has."""
        return self.text if stream == "text" else sum(map(prod, self.grids[stream]))

    def within_image(self, stream: str) -> slice:
        """Where an image stream lies among the image tokens."""
        start = self.tokens("noise") if stream == "reference" else 0
        return slice(start, start + self.tokens(stream))

    def within_sequence(self) -> tuple[slice, slice]:
        """Where the text and where the image tokens lie in the joint sequence."""
        if self.text_first:
            return slice(0, self.text), slice(self.text, self.text + self.image)
        return slice(self.image, self.image + self.text), slice(0, self.image)

    def grid_of(self, tokens: int) -> Grid:
        """The grid of a UNet level with so many tokens: the latent's, halved until it fits."""
        rows, cols = self.grids["noise"][0]
        while rows * cols > tokens:
            rows, cols = -(-rows // 2), -(-cols // 2)
        if rows * cols != tokens:
            raise UnsupportedEditorError(
                f"{tokens} tokens are no halving of the latent grid {self.grids['noise'][0]}"
            )
        return rows, cols

    def split(self, output: Any) -> dict[str, Tensor]:
        """The streams in a block's output: joint or apart, by their lengths."""
        parts = [part for part in _leaves(output) if part.ndim == 3]
        if not self.joint:
            return {"noise": self._alone(parts)}
        text_at, image_at = self.within_sequence()
        if len(parts) == 1 and parts[0].shape[1] == self.text + self.image:
            text, image = parts[0][:, text_at], parts[0][:, image_at]
        else:
            text, image = _by_length(parts, self)
        streams = (
            {s: image[:, self.within_image(s)] for s in self.grids} if image is not None else {}
        )
        return streams if text is None else {"text": text, **streams}

    def _alone(self, parts: list[Tensor]) -> Tensor:
        """The image tokens of a block to which text comes by cross-attention."""
        if len(parts) != 1:
            raise UnsupportedEditorError(
                f"a block returned sequences of {[part.shape[1] for part in parts]} tokens where "
                "text should enter by cross-attention and only the image leave: its streams "
                "cannot be told apart"
            )
        self.grid_of(parts[0].shape[1])
        return parts[0]

    def split_attention(self, output: Any) -> dict[str, Tensor]:
        """The streams in what a block's attention module returns.

        Where it returns them apart, the image comes first in every family; an adapter's own output
        may follow.
        """
        parts = list(_leaves(output))[:2]
        return self.split(parts[::-1] if self.text_first else parts)


EMPTY = Layout({}, 0, joint=False)
"""Before a denoiser was called."""


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


def layout_of(denoiser: nn.Module, given: Mapping[str, Any], text_first: bool) -> Layout:
    """The layout of a denoiser's call.

    Raises:
        UnsupportedEditorError: neither position ids, shapes nor a spatial sample tell the grids.
    """
    text = given["encoder_hidden_states"].shape[1]
    sample = given.get("sample", given.get("hidden_states"))
    if sample.ndim == 4:
        return Layout({"noise": (tuple(sample.shape[-2:]),)}, text, joint=False)
    if given.get("visual_rope_pos") is not None:
        rows, cols = map(len, given["visual_rope_pos"][-2:])
        return Layout({"noise": ((rows, cols),)}, text, joint=False)
    if given.get("img_ids") is not None:
        grids = list(_grids_of(given["img_ids"]))
    elif given.get("img_shapes") is not None:
        shapes = given["img_shapes"]
        grids = [
            tuple(shape[-2:]) for shape in (shapes[0] if isinstance(shapes[0], list) else shapes)
        ]
    elif sample.ndim == 6:
        patch = denoiser.config.patch_size[-2:]
        grid = tuple(side // p for side, p in zip(sample.shape[-2:], patch, strict=True))
        grids = [grid] * sample.shape[1]
    else:
        raise UnsupportedEditorError(
            f"{type(denoiser).__name__} is called without `img_ids` or `img_shapes`, so the grids "
            "of its image tokens cannot be told"
        )
    named = {"noise": (grids[0],)} | ({"reference": tuple(grids[1:])} if grids[1:] else {})
    return Layout(named, text, joint=True, text_first=text_first)


def _grids_of(img_ids: Tensor) -> Iterator[Grid]:
    """One grid for each run of the first position id: rows and columns are the next two."""
    ids = img_ids[0] if img_ids.ndim == 3 else img_ids
    ids = ids.detach().float().cpu()
    _, lengths = torch.unique_consecutive(ids[:, 0], return_counts=True)
    for run in ids.split(lengths.tolist()):
        yield len(torch.unique(run[:, 1])), len(torch.unique(run[:, 2]))


def _by_length(parts: list[Tensor], layout: Layout) -> tuple[Tensor | None, Tensor | None]:
    """(text, image) of a block that returns them apart, in the order of the sequence."""
    if len(parts) == 2:
        text, image = parts if layout.text_first else reversed(parts)
        if text.shape[1] == layout.text and image.shape[1] == layout.image:
            return text, image
    if len(parts) == 1 and parts[0].shape[1] == layout.image:
        return None, parts[0]
    raise UnsupportedEditorError(
        f"a block returned sequences of {[part.shape[1] for part in parts]} tokens where "
        f"{layout.text} of text and {layout.image} of image were expected"
    )


def _leaves(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _leaves(part)
