"""Scenes: objects on a textured background, drawn from signed distance functions.

Every scene is lit alike, bright at the top and dark at the bottom, cool on the left and warm on the
right, as photographs have sky above and ground below: rotary positions are relative, so without
such a cue nothing tells a small editor where in the image a token lies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

SIZE_PX = 128
COLORS = {
    "red": (214, 45, 45),
    "orange": (243, 140, 32),
    "yellow": (246, 218, 62),
    "green": (58, 160, 76),
    "blue": (48, 92, 214),
    "purple": (138, 66, 182),
    "white": (244, 244, 244),
}
RADII_PX = {"small": (11.0, 13.0), "large": (18.0, 21.0)}
"""Range of an object's radius by the word for its size."""

_GAP_PX = 3.0
_TEXTURE_ORDERS = 6
_Field = Float[np.ndarray, "#height #width"]


def _star(x: _Field, y: _Field, radius_px: float) -> _Field:
    outer_px, inner_px = 1.15 * radius_px, 0.52 * radius_px
    sector = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + sector / 2) % sector - sector / 2)
    length = np.hypot(x, y)
    tip = np.array([outer_px, 0.0])
    notch = inner_px * np.array([np.cos(sector / 2), np.sin(sector / 2)])
    edge = (notch - tip) / np.linalg.norm(notch - tip)
    along, across = length * np.cos(angle) - outer_px, length * np.sin(angle)
    return across * -edge[0] + along * edge[1]


def _cross(x: _Field, y: _Field, radius_px: float) -> _Field:
    wide, narrow = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
    return np.maximum(wide - radius_px, narrow - 0.34 * radius_px)


SHAPES: dict[str, Callable[[_Field, _Field, float], _Field]] = {
    "circle": lambda x, y, r: np.hypot(x, y) - r,
    "square": lambda x, y, r: np.maximum(abs(x), abs(y)) - 0.88 * r,
    "triangle": lambda x, y, r: np.maximum(y, 0.866 * abs(x) - 0.5 * y) - 0.58 * r,
    "star": _star,
    "ring": lambda x, y, r: abs(np.hypot(x, y) - 0.72 * r) - 0.28 * r,
    "cross": _cross,
}
"""Signed distance in pixels to a shape's outline: negative inside, origin at the center, y down."""


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object: what it looks like and where it is."""

    shape: str
    color: str
    size: str
    x_px: float
    y_px: float
    radius_px: float

    @property
    def center_px(self) -> Float[np.ndarray, 2]:
        """Its middle: x, y."""
        return np.array([self.x_px, self.y_px])

    @lru_cache(16)  # noqa: B019 # a few small arrays: an object is drawn, and then its mask
    def coverage(self, size_px: int) -> tuple[tuple[slice, slice], Float[np.ndarray, "h w"]]:
        """Rows and columns that the object touches, and the covered share (0-1) of each pixel."""
        reach_px = 1.25 * self.radius_px + 1
        low = [max(0, int(c - reach_px)) for c in (self.y_px, self.x_px)]
        high = [min(size_px, int(c + reach_px) + 2) for c in (self.y_px, self.x_px)]
        rows, columns = (np.arange(a, b) + 0.5 for a, b in zip(low, high, strict=True))
        x, y = columns[None] - self.x_px, rows[:, None] - self.y_px
        distance_px = SHAPES[self.shape](x, y, self.radius_px)
        window = (slice(low[0], high[0]), slice(low[1], high[1]))
        return window, np.clip(0.5 - distance_px, 0.0, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Objects that do not touch each other, on a background given by cosine coefficients."""

    objects: tuple[SceneObject, ...]
    background: Float[np.ndarray, "3 order order"]
    size_px: int = SIZE_PX

    def without(self, index: int) -> Scene:
        """The same scene with one object gone."""
        return replace(self, objects=self.objects[:index] + self.objects[index + 1 :])

    def changed(self, index: int, **attributes: Any) -> Scene:
        """The same scene with another shape or color of one object."""
        new = replace(self.objects[index], **attributes)
        return replace(self, objects=(*self.objects[:index], new, *self.objects[index + 1 :]))

    def render(self) -> UInt8[np.ndarray, "height width 3"]:
        """Draw the scene, anti-aliased, in sRGB."""
        basis = _cosines(self.size_px)
        canvas = np.moveaxis(basis @ self.background @ basis.T, 0, -1)
        for thing in self.objects:
            window, share = thing.coverage(self.size_px)
            share = share[..., None]
            canvas[window] += share * (np.asarray(COLORS[thing.color], float) - canvas[window])
        return np.clip(canvas * light(self.size_px) + 0.5, 0, 255).astype(np.uint8)

    def mask(self, index: int) -> Bool[np.ndarray, "height width"]:
        """The pixels that are at least half covered by one object."""
        mask = np.zeros((self.size_px, self.size_px), bool)
        window, share = self.objects[index].coverage(self.size_px)
        mask[window] = share >= 0.5
        return mask


@cache
def _cosines(size_px: int) -> Float[np.ndarray, "size order"]:
    position = (np.arange(size_px) + 0.5) / size_px
    return np.cos(np.pi * position[:, None] * np.arange(_TEXTURE_ORDERS))


@cache
def light(size_px: int) -> Float[np.ndarray, "size size 3"]:
    """The light over every scene, which colors are multiplied by."""
    share = (np.arange(size_px) + 0.5) / size_px
    brightness = 1.15 - 0.35 * share[:, None, None]
    cool, warm = np.array([0.90, 1.0, 1.14]), np.array([1.06, 1.0, 0.80])
    return brightness * (cool + share[None, :, None] * (warm - cool))


def sample_background(rng: np.random.Generator) -> Float[np.ndarray, "3 order order"]:
    """Cosine coefficients of a muted, slowly varying texture."""
    order = np.arange(_TEXTURE_ORDERS)
    spread = 16.0 / (1.0 + order[:, None] + order[None, :])
    grey = rng.normal(size=(1, _TEXTURE_ORDERS, _TEXTURE_ORDERS)) * spread
    tint = rng.normal(size=(3, _TEXTURE_ORDERS, _TEXTURE_ORDERS)) * spread * 0.3
    coefficients = grey + tint
    coefficients[:, 0, 0] = rng.uniform(95, 150) + rng.uniform(-14, 14, size=3)
    return coefficients


def sample_scene(
    rng: np.random.Generator,
    size_px: int = SIZE_PX,
    twins: float = 0.35,
    fewest: int = 2,
) -> Scene:
    """Draw `fewest` to 6 objects, most of which share something with one drawn before.

    Args:
        rng: Source of all randomness.
        size_px: Side of the image; smaller images hold fewer objects.
        twins: Probability that an object shares shape, color and size with an earlier one, so that
            only its place tells it apart; otherwise it shares one or two of the three, or none.
        fewest: Smallest number of objects to draw; those that find no place are left out, to two.
    """
    most = min(6, 2 + size_px**2 // 4096)
    wanted = int(rng.integers(min(fewest, most), most + 1))
    objects: list[SceneObject] = []
    while len(objects) < 2:
        objects = []
        for _ in range(wanted):
            placed = _place(rng, _describe(rng, objects, twins), objects, size_px)
            if placed is not None:
                objects.append(placed)
    return Scene(tuple(objects), sample_background(rng), size_px)


def _describe(
    rng: np.random.Generator, objects: list[SceneObject], twins: float
) -> tuple[str, str, str]:
    choices = (tuple(SHAPES), tuple(COLORS), tuple(RADII_PX))
    shape, color, size = (names[rng.integers(len(names))] for names in choices)
    if not objects:
        return shape, color, size
    model = objects[rng.integers(len(objects))]
    if rng.random() < twins:
        return model.shape, model.color, model.size
    shared = rng.permutation(3)[: rng.integers(0, 3)]
    return (
        model.shape if 0 in shared else shape,
        model.color if 1 in shared else color,
        model.size if 2 in shared else size,
    )


def _place(
    rng: np.random.Generator,
    description: tuple[str, str, str],
    objects: list[SceneObject],
    size_px: int,
) -> SceneObject | None:
    shape, color, size = description
    radius_px = rng.uniform(*RADII_PX[size])
    for x_px, y_px in rng.uniform(1.15 * radius_px, size_px - 1.15 * radius_px, size=(24, 2)):
        if all(
            np.hypot(x_px - o.x_px, y_px - o.y_px) > 1.12 * (radius_px + o.radius_px) + _GAP_PX
            for o in objects
        ):
            return SceneObject(shape, color, size, float(x_px), float(y_px), float(radius_px))
    return None
