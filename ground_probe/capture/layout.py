"""How text, noise and reference lie in a denoiser's sequence, read from what it is called with."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ground_probe.errors import UnsupportedEditorError

Grid = tuple[int, int]


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
        parts = [part for part in _tensors(output) if part.ndim == 3]
        lengths = [part.shape[1] for part in parts]
        if not self.joint and len(parts) == 1:
            self.grid_of(lengths[0])  # a UNet's level
            return {"noise": parts[0]}
        if self.joint and lengths == [self.image]:
            return self._image_streams(parts[0])
        if self.joint and lengths == [self.text + self.image]:
            parts = [parts[0][:, at] for at in self.within_sequence()]
        elif not self.text_first:
            parts.reverse()
        if self.joint and [part.shape[1] for part in parts] == [self.text, self.image]:
            return {"text": parts[0], **self._image_streams(parts[1])}
        enters = "in one sequence with" if self.joint else "by cross-attention to"
        raise UnsupportedEditorError(
            f"a block returned sequences of {lengths} tokens where {self.text} of text enter "
            f"{enters} {self.image} of image: its streams cannot be told apart"
        )

    def _image_streams(self, image: Tensor) -> dict[str, Tensor]:
        return {stream: image[:, self.within_image(stream)] for stream in self.grids}

    def split_attention(self, output: Any) -> dict[str, Tensor]:
        """The streams in what a block's attention module returns.

        Where it returns them apart, the image comes first in every family; an adapter's own output
        may follow.
        """
        parts = _tensors(output)[:2]
        return self.split(parts[::-1] if self.text_first else parts)


EMPTY = Layout({}, 0, joint=False)
"""Before a denoiser was called."""


def layout_of(denoiser: nn.Module, given: Mapping[str, Any], text_first: bool) -> Layout:
    """The layout of a denoiser's call."""
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
        shapes = shapes[0] if isinstance(shapes[0], list) else shapes
        grids = [tuple(shape[-2:]) for shape in shapes]
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


def carrier_of(streams: Collection[str]) -> str:
    """The stream that carries the image: the reference's tokens, where there are any."""
    return "reference" if "reference" in streams else "noise"


def _grids_of(img_ids: Tensor) -> Iterator[Grid]:
    """One grid for each run of the first position id: rows and columns are the next two."""
    ids = img_ids[0] if img_ids.ndim == 3 else img_ids
    ids = ids.detach().float().cpu()
    _, lengths = torch.unique_consecutive(ids[:, 0], return_counts=True)
    for run in ids.split(lengths.tolist()):
        yield len(torch.unique(run[:, 1])), len(torch.unique(run[:, 2]))


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
