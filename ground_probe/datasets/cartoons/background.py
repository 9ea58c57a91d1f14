"""Backgrounds: a room, a landscape, or clutter; each is a pure function of its seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from ground_probe.datasets.cartoons.noun import COLORS

KINDS = ("in", "out", "clutter")

_SUPER = 2
_ORDERS = 8
_Draw = ImageDraw.ImageDraw
_Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Background:
    """What objects stand before: its kind, where the ground begins (0-1), and its seed."""

    kind: str
    horizon: float
    seed: int

    def render(self, size_px: int) -> Float[np.ndarray, "height width 3"]:
        """Draw it, without light; edits of one scene share the array, which cannot be written."""
        return _render(self, size_px)


@lru_cache(16)
def _render(background: Background, size_px: int) -> Float[np.ndarray, "height width 3"]:
    rng = np.random.default_rng(background.seed)
    side = _SUPER * size_px
    image = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(image)
    _PAINTERS[background.kind](rng, draw, side, round(background.horizon * side))
    strength = 9.0 if background.kind == "clutter" else 4.0
    canvas = np.asarray(image.reduce(_SUPER), np.float32) + _noise(rng, size_px, strength)
    canvas.flags.writeable = False
    return canvas


def sample_background(rng: np.random.Generator) -> Background:
    """Draw a background of any kind."""
    kind = KINDS[rng.integers(len(KINDS))]
    return Background(kind, float(rng.uniform(0.3, 0.5)), int(rng.integers(2**31)))


def _muted(rng: np.random.Generator, low: float, high: float, tint: float = 22) -> _Color:
    red, green, blue = np.clip(rng.uniform(low, high) + rng.uniform(-tint, tint, 3), 0, 255)
    return int(red), int(green), int(blue)


def _room(rng: np.random.Generator, draw: _Draw, side: int, horizon: int) -> None:
    wall, floor = _muted(rng, 150, 215), _muted(rng, 90, 150, 30)
    draw.rectangle((0, 0, side, horizon), fill=wall)
    draw.rectangle((0, horizon, side, side), fill=floor)
    dim = tuple(int(0.9 * value) for value in wall)
    if rng.random() < 0.4:
        step = int(rng.integers(side // 16, side // 6))
        for x in range(0, side, step):
            draw.rectangle((x, 0, x + step // 3, horizon), fill=dim)
    if rng.random() < 0.6:  # planks that run towards the vanishing point
        dark = tuple(int(0.86 * value) for value in floor)
        for x in np.linspace(-side, 2 * side, int(rng.integers(9, 16))):
            middle = side / 2 + 0.35 * (x - side / 2)
            draw.line((middle, horizon, x, side), fill=dark, width=2)
    draw.rectangle((0, horizon - side // 50, side, horizon), fill=_muted(rng, 190, 235, 8))
    if rng.random() < 0.6:
        left, width = rng.uniform(0.05, 0.65) * side, rng.uniform(0.18, 0.3) * side
        top, bottom = 0.04 * side, 0.75 * horizon
        draw.rectangle((left - 4, top - 4, left + width + 4, bottom + 4), fill=(236, 232, 222))
        draw.rectangle((left, top, left + width, bottom), fill=_muted(rng, 170, 215, 25))
        middle = left + width / 2
        draw.rectangle((middle - 2, top, middle + 2, bottom), fill=(236, 232, 222))


def _landscape(rng: np.random.Generator, draw: _Draw, side: int, horizon: int) -> None:
    sky, haze = np.array([130, 175, 220]) + rng.uniform(-25, 25, 3), np.array([205, 215, 220])
    for row in range(0, horizon, 2):
        color = tuple((sky + (haze - sky) * row / horizon).astype(int).tolist())
        draw.rectangle((0, row, side, row + 1), fill=color)
    for _ in range(rng.integers(0, 4)):
        x, y = rng.uniform(0, side), rng.uniform(0.05, 0.7) * horizon
        reach = rng.uniform(0.05, 0.12) * side
        draw.ellipse((x - reach, y - reach / 3, x + reach, y + reach / 3), fill=(232, 236, 240))
    far = _muted(rng, 115, 160, 25)
    for _ in range(rng.integers(0, 4)):
        x, reach = rng.uniform(0, side), rng.uniform(0.15, 0.4) * side
        high = rng.uniform(0.08, 0.3) * horizon
        draw.ellipse((x - reach, horizon - high, x + reach, horizon + high), fill=far)
    ground = [(112, 140, 88), (168, 158, 118), (128, 128, 132), (196, 184, 140)][rng.integers(4)]
    draw.rectangle((0, horizon, side, side), fill=ground)
    light, dark = (tuple(int(f * value) for value in ground) for f in (1.1, 0.9))
    for _ in range(rng.integers(4, 18)):
        y = horizon + rng.random() ** 1.5 * (side - horizon)
        x, reach = rng.uniform(0, side), rng.uniform(0.03, 0.2) * side
        draw.ellipse(
            (x - reach, y - 3, x + reach, y + 3), fill=dark if rng.random() < 0.5 else light
        )
    if rng.random() < 0.4:
        x, wide = rng.uniform(0.2, 0.8) * side, rng.uniform(0.1, 0.3) * side
        foot = rng.uniform(0, 1) * side
        road = (*(x - 3, horizon), *(x + 3, horizon), *(foot + wide, side), *(foot - wide, side))
        draw.polygon(road, fill=_muted(rng, 110, 150, 10))


def _clutter(rng: np.random.Generator, draw: _Draw, side: int, horizon: int) -> None:
    base = np.array(_muted(rng, 110, 190, 30), float)
    draw.rectangle((0, 0, side, side), fill=tuple(base.astype(int).tolist()))
    names = tuple(COLORS)
    for _ in range(rng.integers(10, 26)):
        strong = rng.uniform(0.2, 0.6)
        color = base + strong * (np.array(COLORS[names[rng.integers(len(names))]]) - base)
        fill = tuple(color.astype(int).tolist())
        x, y = rng.uniform(0, side, 2)
        shape = rng.integers(3)
        if shape == 0:
            corners = rng.uniform(-0.09, 0.09, (4, 2)) * side + (x, y)
            draw.polygon(corners.ravel().tolist(), fill=fill)
        elif shape == 1:
            reach = rng.uniform(0.01, 0.06, 2) * side
            draw.ellipse((x - reach[0], y - reach[1], x + reach[0], y + reach[1]), fill=fill)
        else:
            end = rng.uniform(-0.4, 0.4, 2) * side + (x, y)
            draw.line((x, y, *end.tolist()), fill=fill, width=int(rng.integers(2, 7)))


_PAINTERS = {"in": _room, "out": _landscape, "clutter": _clutter}


def _noise(
    rng: np.random.Generator, size_px: int, strength: float
) -> Float[np.ndarray, "height width 3"]:
    """Slow waves whose strength falls with their frequency."""
    order = np.arange(_ORDERS)
    spread = strength / (1.0 + order[:, None] + order[None, :])
    spread[0, 0] = 0
    position = (np.arange(size_px) + 0.5) / size_px
    basis = np.cos(np.pi * position[:, None] * order)
    gray, tint = rng.normal(size=(1, _ORDERS, _ORDERS)), rng.normal(size=(3, _ORDERS, _ORDERS))
    waves = basis @ ((2 * gray + 0.4 * tint) * spread) @ basis.T
    return np.moveaxis(waves, 0, -1).astype(np.float32)
