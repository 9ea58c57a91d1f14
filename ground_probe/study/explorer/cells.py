"""Cells: the token grid made small enough for a page, and the states in a few directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ground_probe.capture.layout import Grid, Layout

CELLS = 32 * 32  # of a map at most
DIRECTIONS = 16  # in which features are compared


@dataclass(frozen=True)
class LeadingDirections:
    """Reduce hidden states, on their device, to cells in the directions in which they differ most.

    Channels are standardized over the image, as in the segmenter, and tokens have unit norm before
    they are averaged. Products of the reduced rows are the best approximation of cosines, and the
    mean of their squared norms is the share that the directions hold. `grid` is that of the
    editor's image tokens, a UNet's finest.
    """

    grid: Grid
    cells: Grid

    def __call__(self, hidden: Float[Tensor, "tokens dim"]) -> Float[Tensor, "cells directions"]:
        """The reduced rows, in float32."""
        grid = Layout({"noise": (self.grid,)}, text=0, joint=False).grid_of(len(hidden))
        hidden = hidden.float()
        hidden = (hidden - hidden.mean(0)) / hidden.std(0).clamp_min(1e-6)
        tokens = F.normalize(hidden, dim=-1)
        cells = F.normalize(pool(tokens.T, grid, self.cells).T, dim=-1)
        size, vectors = torch.linalg.eigh(cells @ cells.T)
        return (vectors * size.clamp_min(0).sqrt())[:, -DIRECTIONS:]


def coarser(grid: Grid, cells: int) -> Grid:
    """A grid of at most so many cells: each side divided by the same whole number.

    >>> coarser((64, 64), 1024), coarser((16, 16), 1024)
    ((32, 32), (16, 16))
    """
    factor = 1
    while -(-grid[0] // factor) * -(-grid[1] // factor) > max(1, cells):
        factor += 1
    return -(-grid[0] // factor), -(-grid[1] // factor)


def spread(names: Sequence[str], count: int) -> tuple[str, ...]:
    """At most so many names at even distances, the first and the last among them.

    >>> spread("abcde", 3)
    ('a', 'c', 'e')
    """
    count = min(count, len(names))
    return tuple(names[round(at)] for at in np.linspace(0, len(names) - 1, count))


def pool(
    values: Float[Tensor, "channels tokens"], there: Grid, cells: Grid
) -> Float[Tensor, "channels cells"]:
    """Token values as means over cells; a coarser grid's are repeated."""
    return F.interpolate(values.view(1, -1, *there), cells, mode="area")[0].flatten(1)


def on_cells(grid_map: np.ndarray, cells: Grid) -> np.ndarray:
    """A map of the token grid on cells."""
    flat = torch.as_tensor(grid_map).flatten()[None].float()
    return pool(flat, grid_map.shape, cells).view(cells).numpy()


def pooled_rows(features: Tensor, there: Grid, cells: Grid) -> Tensor:
    """Reduced rows of a finer grid as those of a coarser one, of unit norm."""
    sites = features.shape[:3]
    flat = features.flatten(0, 2).transpose(1, 2).flatten(0, 1)
    pooled = pool(flat, there, cells).unflatten(0, (-1, features.shape[-1]))
    return F.normalize(pooled.transpose(1, 2), dim=-1).unflatten(0, sites)
