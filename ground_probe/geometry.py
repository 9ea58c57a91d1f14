"""How an image lies on a grid of tokens: masks to soft labels, token maps back to pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Shaped

from ground_probe.errors import InputError, unknown

Mode = Literal["stretch", "crop", "pad"]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Geometry:
    """A token grid and the rectangle of the original image that it covers.

    Pixel coordinates are continuous: pixel k covers [k, k + 1), so an image is [0, width) wide.
    Every method is a product of two small matrices, one for each axis, and exact at any ratio.

    Args:
        image_size_px: (height, width) of the original image.
        grid: (rows, columns) of tokens.
        mode: how the image was brought to the model's size. It only decides the default `box`.
        box: half-open xyxy_px rectangle that the grid covers; may be fractional, and reaches
            beyond the image where there is padding. By default the whole image ("stretch"), or
            the largest centered box inside it ("crop") or the smallest around it ("pad") on which
            the tokens are square.

    Raises:
        InputError: a size that is not positive, an empty box, an unknown mode.

    >>> Geometry((96, 128), (4, 4), mode="crop").box
    (16.0, 0.0, 112.0, 96.0)
    """

    image_size_px: tuple[int, int]
    grid: tuple[int, int]
    mode: Mode = "stretch"
    box: Box = None  # type: ignore[assignment]  # never None once it is made

    def __post_init__(self) -> None:
        """Normalize the sizes to plain numbers, derive the box and check all of them."""
        image_size_px = _size("image_size_px", self.image_size_px)
        grid = _size("grid", self.grid)
        if self.mode not in get_args(Mode):
            raise unknown("geometry mode", self.mode, get_args(Mode))
        box = _default_box(image_size_px, grid, self.mode) if self.box is None else self.box
        x0, y0, x1, y1 = (float(edge) for edge in box)
        if not (x0 < x1 and y0 < y1):
            raise InputError(f"box {box} is empty: give half-open xyxy_px with x0 < x1 and y0 < y1")
        box = x0, y0, x1, y1
        for name, value in (("image_size_px", image_size_px), ("grid", grid), ("box", box)):
            object.__setattr__(self, name, value)

    @property
    def token_size_px(self) -> tuple[float, float]:
        """(height, width) of a token in original pixels."""
        x0, y0, x1, y1 = self.box
        return (y1 - y0) / self.grid[0], (x1 - x0) / self.grid[1]

    def soft_labels(
        self, mask: Shaped[np.ndarray, "*batch height width"]
    ) -> Float[np.ndarray, "*batch rows cols"]:
        """The fraction of each token that a mask covers; padding counts as not covered.

        Args:
            mask: at the original image's size; bool, or any value to average by area.

        Raises:
            InputError: the mask does not have the image's size.

        >>> Geometry((2, 4), (1, 2)).soft_labels(np.array([[1, 0, 0, 0], [1, 1, 0, 0]]))
        array([[0.75, 0.  ]])
        """
        mask = _checked("mask", mask, self.image_size_px)
        rows, cols = self._axes(_coverage)
        return rows @ mask @ cols.T

    def to_pixels(
        self, grid_map: Float[np.ndarray, "*batch rows cols"]
    ) -> Float[np.ndarray, "*batch height width"]:
        """A token map at the image's size: bilinear between token centres, 0 outside the box.

        Raises:
            InputError: the map does not have the grid's shape.

        >>> Geometry((1, 4), (1, 2)).to_pixels([[0.0, 1.0]])
        array([[0.  , 0.25, 0.75, 1.  ]])
        """
        grid_map = _checked("grid_map", grid_map, self.grid)
        rows, cols = self._axes(_interpolation)
        return rows @ grid_map @ cols.T

    def token_of(self, x_px: float, y_px: float) -> tuple[int, int] | None:
        """The (row, column) of the token over a point of the image, None outside the box."""
        x0, y0, x1, y1 = self.box
        if not (x0 <= x_px < x1 and y0 <= y_px < y1):
            return None
        height, width = self.token_size_px
        row, col = int((y_px - y0) / height), int((x_px - x0) / width)
        # A division may round up to the far edge.
        return min(row, self.grid[0] - 1), min(col, self.grid[1] - 1)

    def pixel_of(self, row: int, col: int) -> tuple[float, float]:
        """The centre (x_px, y_px) of a token; outside the image for a token of padding."""
        height, width = self.token_size_px
        return self.box[0] + (col + 0.5) * width, self.box[1] + (row + 0.5) * height

    def _axes(self, matrix: Callable[..., np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """One matrix for the rows, one for the columns."""
        x0, y0, x1, y1 = self.box
        return (
            matrix(y0, y1, self.grid[0], self.image_size_px[0]),
            matrix(x0, x1, self.grid[1], self.image_size_px[1]),
        )


def _coverage(low: float, high: float, tokens: int, pixels: int) -> np.ndarray:
    """(tokens, pixels): the share of each token that each pixel fills."""
    edges = np.linspace(low, high, tokens + 1)[:, None]
    pixel = np.arange(pixels)
    overlap = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
    return np.clip(overlap, 0, None) * (tokens / (high - low))


def _interpolation(low: float, high: float, tokens: int, pixels: int) -> np.ndarray:
    """(pixels, tokens): the weight of each token at each pixel's centre."""
    centre = np.arange(pixels)[:, None] + 0.5
    position = np.clip((centre - low) * (tokens / (high - low)) - 0.5, 0, tokens - 1)
    weight = np.clip(1 - np.abs(position - np.arange(tokens)), 0, None)
    return weight * ((low <= centre) & (centre < high))


def _default_box(size_px: tuple[int, int], grid: tuple[int, int], mode: Mode) -> Box:
    height, width = size_px
    if mode == "stretch":
        return 0, 0, width, height
    sides = height / grid[0], width / grid[1]
    side = min(sides) if mode == "crop" else max(sides)
    top, left = (height - side * grid[0]) / 2, (width - side * grid[1]) / 2
    return left, top, width - left, height - top


def _size(name: str, size: tuple[int, int]) -> tuple[int, int]:
    height, width = (int(side) for side in size)
    if height < 1 or width < 1:
        raise InputError(f"{name} is {tuple(size)}: give (height, width), both at least 1")
    return height, width


def _checked(name: str, array: Any, size: tuple[int, int]) -> np.ndarray:
    array = np.asarray(array, dtype=np.float64)
    if array.shape[-2:] != size:
        raise InputError(
            f"{name} has shape {array.shape}, expected its last two sides to be {size}: "
            "masks lie at the original image's size, maps on the token grid"
        )
    return array
