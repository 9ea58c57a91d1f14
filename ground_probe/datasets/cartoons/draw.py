"""Cartoons: objects of several parts that overlap, drawn into a map of labels and colored by it.

What is true is the map: three by three labels a pixel, each naming an object and one of its parts.
A pixel is an object's where most of its labels are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int, Int8, UInt8
from PIL import Image, ImageDraw, ImageFilter

from ground_probe.datasets.cartoons import folk, living, things, vehicles  # noqa: F401
from ground_probe.datasets.cartoons.background import Background
from ground_probe.datasets.cartoons.noun import COLORS, NOUNS, TINTS, Noun
from ground_probe.datasets.cartoons.shapes import Outline, Piece
from ground_probe.datasets.scenes.draw import light

SIZE_PX = 128
SUPER = 3
"""Labels a pixel, along each side."""
PATTERNS = ("plain", "striped", "dotted", "checked")
PARTS = 8
"""Labels an object: label 8 i + p + 1 is part p of object i, and 0 the background."""

_PATTERN_BIT, _EDGE_BIT = 64, 128
_INK, _SHADE, _SHADOW = 0.5, 0.3, 0.42
_BLUR, _NOISE = 0.1, 2.5


@dataclass(frozen=True)
class SceneObject:
    """One object.

    Args:
        noun: Its name in `NOUNS`.
        colors: Each part that it has, with its color's name (or the number of its tint).
        pattern: One of `PATTERNS`, of its main part.
        build: Four free proportions (0-1).
        x_px: Its middle.
        base_px: The line that it stands on: larger is nearer.
        height_px: Of a drawing of height 1.
        flipped: Whether it looks to the left.
    """

    noun: str
    colors: tuple[tuple[str, str | int], ...]
    pattern: str
    build: tuple[float, float, float, float]
    x_px: float
    base_px: float
    height_px: float
    flipped: bool

    @property
    def kind(self) -> Noun:
        """Its noun's words and parts."""
        return NOUNS[self.noun]

    @property
    def parts(self) -> dict[str, str]:
        """The named colors of its parts, the main part first."""
        return {part: color for part, color in self.colors if isinstance(color, str)}

    @property
    def color(self) -> str:
        """The main part's color."""
        return self.parts[self.kind.main]

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """Its parts' polygons in pixels, from back to front."""
        has, place = dict(self.colors), (self.x_px, self.base_px)
        size = (-self.height_px if self.flipped else self.height_px, self.height_px)
        drawing = _drawing(self.noun, self.build)
        return tuple((part, outline * size + place) for part, outline in drawing if part in has)

    @cached_property
    def extents(self) -> dict[str, tuple[float, float, float, float]]:
        """Left, top, right and bottom in pixels of each part that it has."""
        outlines: dict[str, list[Outline]] = {}
        for part, outline in self.pieces:
            outlines.setdefault(part, []).append(outline)
        points = {part: np.vstack(drawn) for part, drawn in outlines.items()}
        return {part: (*p.min(0).tolist(), *p.max(0).tolist()) for part, p in points.items()}

    def silhouette(self, size_px: int, scale: int = SUPER) -> Bool[np.ndarray, "rows columns"]:
        """All of it, hidden or not, at `scale` labels a pixel."""
        return label_map([self], size_px, scale) > 0

    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in pixels of all of it, hidden or not."""
        left, top, right, bottom = zip(*self.extents.values(), strict=True)
        return min(left), min(top), max(right), max(bottom)


def label(thing: SceneObject, index: int, part: str) -> int:
    """The number of a part in the map of labels where the object is number `index`."""
    return PARTS * index + list(thing.kind.parts).index(part) + 1


@lru_cache(4096)
def _drawing(noun: str, build: tuple[float, ...]) -> tuple[Piece, ...]:
    """The pieces of a drawing, around the point on which it stands."""
    return tuple((part, outline - (0, 1)) for part, outline in NOUNS[noun].draw(build))


def label_map(
    objects: Sequence[SceneObject], size_px: int, scale: int
) -> UInt8[np.ndarray, "rows columns"]:
    """The labels of objects from the farthest to the nearest, `scale` a pixel along each side."""
    image = Image.new("L", (scale * size_px, scale * size_px))
    draw = ImageDraw.Draw(image)
    for index, thing in enumerate(objects):
        for part, outline in thing.pieces:
            draw.polygon((scale * outline).ravel().tolist(), fill=label(thing, index, part))
    return np.array(image)


@dataclass(frozen=True, eq=False)
class Scene:
    """Objects from the farthest to the nearest, on a background; `seed` is the sensor noise's."""

    objects: tuple[SceneObject, ...]
    background: Background
    seed: int
    size_px: int = SIZE_PX

    def without(self, index: int) -> Scene:
        """The same scene with one object gone."""
        return replace(self, objects=self.objects[:index] + self.objects[index + 1 :])

    def changed(self, index: int, color: str, part: str | None = None) -> Scene:
        """The same scene with another color of one object's part, the main one if none is named."""
        old = self.objects[index]
        part = part or old.kind.main
        new = replace(old, colors=tuple((p, color if p == part else c) for p, c in old.colors))
        return replace(self, objects=(*self.objects[:index], new, *self.objects[index + 1 :]))

    @cached_property
    def labels(self) -> UInt8[np.ndarray, "rows columns"]:
        """The map of labels, `SUPER` times as large as the image."""
        return label_map(self.objects, self.size_px, SUPER)

    @cached_property
    def owners(self) -> Int8[np.ndarray, "rows columns"]:
        """The number of the object at each label, -1 for the background."""
        return (self.labels.astype(np.int8) - 1) // PARTS

    def mask(self, index: int) -> Bool[np.ndarray, "height width"]:
        """The pixels most of whose labels are the object's: its visible part."""
        return _most(self.owners == index)

    def part_mask(self, index: int, part: str) -> Bool[np.ndarray, "height width"]:
        """The pixels most of whose labels are those of one part of an object."""
        return _most(self.labels == label(self.objects[index], index, part))

    def visible(self, index: int) -> float:
        """The share (0-1) of an object that nothing hides."""
        whole = self.objects[index].silhouette(self.size_px)
        return float((self.owners == index).sum() / whole.sum())

    def render(self) -> UInt8[np.ndarray, "height width 3"]:
        """Draw the scene, in sRGB."""
        pixels = np.take(self._palette().view(np.uint32)[:, 0], self._surface())
        painted = Image.frombuffer("RGBa", pixels.shape[::-1], pixels, "raw", "RGBa", 0, 1)
        premultiplied = np.asarray(painted.reduce(SUPER), np.float32)
        color, share = premultiplied[..., :3], premultiplied[..., 3:] / 255
        ground = self.background.render(self.size_px) * self._shadow()[..., None]
        canvas = (color * self._shade()[..., None] + ground * (1 - share)) * _light(self.size_px)
        canvas[1:-1] += _BLUR * (canvas[2:] + canvas[:-2] - 2 * canvas[1:-1])
        canvas[:, 1:-1] += _BLUR * (canvas[:, 2:] + canvas[:, :-2] - 2 * canvas[:, 1:-1])
        noise = np.random.default_rng(self.seed).standard_normal(canvas.shape, np.float32)
        return np.clip(canvas + _NOISE * noise + 0.5, 0, 255).astype(np.uint8)

    def _surface(self) -> UInt8[np.ndarray, "rows columns"]:
        """The labels, with a bit for the second color of a pattern and one for an outline."""
        surface = self.labels.copy()
        for index, thing in enumerate(self.objects):
            if thing.pattern == "plain":
                continue
            left, top, right, bottom = (int(SUPER * edge) for edge in thing.box())
            window = np.s_[max(0, top) : bottom + 2, max(0, left) : right + 2]
            part = surface[window]
            period = SUPER * max(4.5, 0.13 * thing.height_px)
            rows, columns = (np.arange(side) / period for side in part.shape)
            second = _pattern(thing.pattern, columns, rows[:, None], thing.build[0] > 0.5)
            part[(part == PARTS * index + 1) & second] |= _PATTERN_BIT
        edge = np.zeros(surface.shape, bool)
        across = self.labels[:, 1:] != self.labels[:, :-1]
        down = self.labels[1:] != self.labels[:-1]
        edge[:, :-1] |= across  # an object's left side has no outline
        edge[1:] |= down
        edge[:-1] |= down
        surface[edge & (self.labels > 0)] |= _EDGE_BIT
        return surface

    def _palette(self) -> UInt8[np.ndarray, "256 4"]:
        palette = np.zeros((256, 4))
        for index, thing in enumerate(self.objects):
            for part, name in thing.colors:
                tint = thing.kind.parts[part]
                color = COLORS[name] if isinstance(name, str) else TINTS[str(tint)][name]
                palette[label(thing, index, part)] = (*color, 255)
        plain = palette[:_PATTERN_BIT, :3]
        bright = plain.mean(1, keepdims=True) > 170
        palette[_PATTERN_BIT:_EDGE_BIT, :3] = np.where(bright, 0.62 * plain, 0.3 * plain + 178)
        palette[_PATTERN_BIT:_EDGE_BIT, 3] = 255
        palette[_EDGE_BIT:] = palette[:_EDGE_BIT] * (_INK, _INK, _INK, 1)
        return palette.astype(np.uint8)

    def _shade(self) -> Float[np.ndarray, "height width"]:
        """Brightness within each part, from its upper left to its lower right."""
        across, down, start = np.zeros((3, _PATTERN_BIT), np.float32)
        for index, thing in enumerate(self.objects):
            for part, (left, top, right, bottom) in thing.extents.items():
                number, fall = label(thing, index, part), -_SHADE / 2
                across[number] = fall / max(right - left, 6)
                down[number] = fall / max(bottom - top, 6)
                start[number] = 1 - fall - across[number] * left - down[number] * top
        at = self.labels[SUPER // 2 :: SUPER, SUPER // 2 :: SUPER]
        position = np.arange(self.size_px, dtype=np.float32) + 0.5
        return across[at] * position + down[at] * position[:, None] + start[at]

    def _shadow(self) -> Float[np.ndarray, "height width"]:
        """What the objects leave of the ground's brightness: soft ellipses at their feet."""
        image = Image.new("L", (self.size_px, self.size_px), 255)
        draw = ImageDraw.Draw(image)
        for thing in self.objects:
            left, _, right, _ = thing.box()
            deep = 0.16 * (right - left)
            start = (left + 0.2 * deep, thing.base_px - 0.9 * deep)
            end = (right + deep, thing.base_px + 0.5 * deep)
            draw.ellipse((*start, *end), fill=int(255 - 255 * _SHADOW))
        return np.asarray(image.filter(ImageFilter.BoxBlur(2)), np.float32) / 255


@cache
def _light(size_px: int) -> Float[np.ndarray, "height width 3"]:
    return light(size_px).astype(np.float32)


def _pattern(
    name: str, x: Float[np.ndarray, " w"], y: Float[np.ndarray, "h 1"], turned: bool
) -> Bool[np.ndarray, "h w"]:
    """Where a pattern of period 1 has its second color."""
    if name == "striped":
        return np.broadcast_to((x if turned else y) % 1 > 0.5, (len(y), len(x)))
    if name == "checked":
        return (x % 1 > 0.5) ^ (y % 1 > 0.5)
    return np.hypot(x % 1 - 0.5, (y + 0.5 * (x // 1 % 2)) % 1 - 0.5) < 0.31


def _most(labels: Bool[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "height width"]:
    """Pixels of which more than half of the labels are true."""
    rows, columns = (side // SUPER for side in labels.shape)
    count: Int[np.ndarray, "h w"] = labels.reshape(rows, SUPER, columns, SUPER).sum((1, 3))
    return 2 * count > SUPER**2
