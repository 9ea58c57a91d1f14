"""What was kept of many images, read back one cell at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from safetensors import safe_open

from ground_probe.capture.layout import carrier_of
from ground_probe.probes import position_features

MAPS = ("attention", "attention_from_text")
INPUTS = ("rgb", "vae_latent", "position")
Cell = tuple[str, str, int]


@dataclass(frozen=True)
class Samples:
    """The files of one collection, one an example, with the same cells.

    Args:
        split: "val" or "test".
        control: what the collection is a control for; "none" for the editor as it is meant.
        seed: of the noise.
        blocks: in the order in which they run.
        sigmas: the noise level by step.
        grid: (rows, columns) of the tokens.
    """

    files: tuple[Path, ...] = field(repr=False)
    split: str
    control: str
    seed: int
    blocks: tuple[str, ...]
    streams: tuple[str, ...]
    sigmas: dict[int, float]
    grid: tuple[int, int]

    @classmethod
    def open(cls, files: Sequence[Path], *, split: str, control: str, seed: int = 0) -> Samples:
        """What the first file says of all of them."""
        about = _about(files[0])
        sigmas = dict(zip(about["steps"], about["sigmas"], strict=True))
        blocks, streams, grid = (tuple(about[name]) for name in ("blocks", "streams", "grid"))
        return cls(tuple(files), split, control, seed, blocks, streams, sigmas, grid)

    @property
    def steps(self) -> tuple[int, ...]:
        """The denoising steps that were kept."""
        return tuple(self.sigmas)

    @property
    def carrier(self) -> str:
        """The stream that figures show: the reference's, where it was kept."""
        return carrier_of(self.streams)

    @property
    def cells(self) -> list[Cell]:
        """(block, stream, step) of all that was kept."""
        return [(b, s, t) for b in self.blocks for s in self.streams for t in self.steps]

    def where(self, cell: Cell) -> dict[str, Any]:
        """A cell as columns of a table."""
        names = ("block", "stream", "step", "sigma")
        return dict(zip(names, (*cell, self.sigmas[cell[2]]), strict=True))

    @cached_property
    def maps(self) -> tuple[str, ...]:
        """The kinds of attention that were kept: a UNet's text does not attend to the image."""
        return MAPS[: next(self._slices("attention")).get_shape()[0]]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One row a token: example, image, labels and place; the order of all other arrays."""
        parts = []
        for path in self.files:
            with safe_open(path, framework="np") as file:
                names = ("target", "distractor", "rest", "place")
                part = pd.DataFrame({name: file.get_tensor(name) for name in names})
            about = _about(path)
            parts.append(part.assign(key=about["key"], image_id=about["image_id"]))
        return pd.concat(parts, ignore_index=True)

    def hidden(self, cell: Cell) -> Float[np.ndarray, "rows width"]:
        """The hidden states of a cell."""
        return np.concatenate(self._parts("hidden", *self._at(cell)))

    def attention(self, kind: str, cell: Cell) -> Float[np.ndarray, " rows"]:
        """Attention to the phrase or from it, one of `maps`: the mean of the heads."""
        return np.nanmean(self.attention_heads(kind, cell), axis=1)

    def attention_heads(self, kind: str, cell: Cell) -> Float[np.ndarray, "rows heads"]:
        """Attention to the phrase or from it, head by head; one column where heads were meaned.

        A block with fewer heads than another has NaN in the columns that it lacks.
        """
        parts = self._parts("attention", self.maps.index(kind), *self._at(cell))
        return np.concatenate([part.T for part in parts]).astype(np.float32)

    def pointing(self, kind: str, cell: Cell) -> Float[np.ndarray, "rows heads labels"]:
        """Whether a map's highest token is the referent's, of the whole grid and of all objects.

        The mean over the heads stands before the heads; every row of an example has its values.
        They are there where heads were kept.
        """
        parts = self._parts("pointing", self.maps.index(kind), *self._at(cell))
        lengths = [s.get_shape()[0] for s in self._slices("place")]
        return np.repeat(np.stack(parts), lengths, axis=0)

    def inputs(self, name: str) -> Float[np.ndarray, "rows width"]:
        """What the editor was given at each token: one of `INPUTS`."""
        if name == "position":
            return position_features(self.grid)[self.rows["place"]].astype(np.float32)
        return np.concatenate([part[:] for part in self._slices(name)])

    def change(self, view: int, step: int) -> Float[np.ndarray, " rows"]:
        """Visible change of one of `visible.VIEWS` at each token; needs `visible=True`."""
        at = self.steps.index(step)
        return np.concatenate(self._parts("change", view, at))

    def change_means(self) -> Float[np.ndarray, "examples views steps places"]:
        """Mean visible change over the referent, the other objects and the rest, by example."""
        return np.stack([part[:] for part in self._slices("change_means")])

    def has(self, name: str) -> bool:
        """Whether an array was kept."""
        with safe_open(self.files[0], framework="np") as file:
            return name in file.keys()  # noqa: SIM118 - not a dict

    def _at(self, cell: Cell) -> list[int]:
        axes = (self.blocks, self.streams, self.steps)
        return [names.index(name) for names, name in zip(axes, cell, strict=True)]

    def _parts(self, name: str, *at: int) -> list[np.ndarray]:
        """What stands at one place of an array, of every file."""
        place = tuple(slice(index, index + 1) for index in at)  # a slice is all that it takes
        return [s[place].reshape(s.get_shape()[len(at) :]) for s in self._slices(name)]

    def _slices(self, name: str) -> Iterator[Any]:
        for path in self.files:
            with safe_open(path, framework="np") as file:
                yield file.get_slice(name)


def _about(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()["about"])
