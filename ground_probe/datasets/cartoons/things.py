"""Things about the house; see `noun` for how one is added."""

from __future__ import annotations

from collections.abc import Sequence

from ground_probe.datasets.cartoons.noun import ANY, NEUTRAL, Drawing, noun
from ground_probe.datasets.cartoons.shapes import arc, both, box, line, oval, poly, wedge, within


@noun("cup mug", (22, 34), cup=ANY, saucer=ANY, coffee=("brown", "black", "white", "orange"))
def _cup(u: Sequence[float]) -> Drawing:
    wide, foot, handle, plate = within(u, (0.34, 0.46), (0.7, 0.95), (0.13, 0.18), (0.56, 0.7))
    yield oval("saucer", 0, 0.92, plate, 0.08)
    yield arc("cup", wide, 0.46, handle, -100, 100, 0.09)
    yield poly(
        "cup", (-wide, 0.14), (wide, 0.14), (foot * wide, 0.84), (0, 0.92), (-foot * wide, 0.84)
    )
    yield oval("cup", 0, 0.14, wide, 0.13)
    yield oval("coffee", 0, 0.14, 0.84 * wide, 0.085)


@noun("bottle", (34, 54), glass=ANY, label=ANY, cap=ANY)
def _bottle(u: Sequence[float]) -> Drawing:
    wide, neck, shoulder, low = within(u, (0.13, 0.19), (0.05, 0.075), (0.32, 0.44), (0.78, 0.88))
    top = shoulder - 0.14
    yield box("glass", -neck, 0.08, neck, shoulder)
    yield poly(
        "glass",
        (-neck, top),
        (neck, top),
        (wide, shoulder),
        (wide, 1),
        (-wide, 1),
        (-wide, shoulder),
    )
    yield box("label", -wide, shoulder + 0.1, wide, low)
    yield box("cap", -neck - 0.015, 0, neck + 0.015, 0.11)


@noun("chair", (42, 60), "in", back=ANY, cushion=ANY, legs=NEUTRAL)
def _chair(u: Sequence[float]) -> Drawing:
    wide, seat, top, splay = within(u, (0.24, 0.34), (0.54, 0.62), (0.0, 0.1), (0, 0.08))
    foot = wide + splay
    yield from both(poly("legs", (wide - 0.09, seat), (wide, seat), (foot, 1), (wide - 0.07, 1)))
    yield from both(box("legs", 0.5 * wide - 0.05, seat, 0.5 * wide, 0.88))
    yield box("back", -wide, top, wide, seat + 0.04, 0.05)
    yield box("cushion", -wide - 0.06, seat - 0.03, wide + 0.06, seat + 0.1, 0.04)


@noun("lamp light", (44, 66), "in", shade=ANY, stand=ANY, foot=NEUTRAL)
def _lamp(u: Sequence[float]) -> Drawing:
    wide, narrow, low, bulb = within(u, (0.22, 0.32), (0.4, 0.7), (0.34, 0.44), (0.6, 0.78))
    yield box("stand", -0.035, low - 0.04, 0.035, 0.92)
    yield oval("stand", 0, bulb, 0.085, 0.11)
    yield wedge("foot", 0, 1, 0.19, 180, 360, 0.1)
    yield poly("shade", (-narrow * wide, 0.02), (narrow * wide, 0.02), (wide, low), (-wide, low))


@noun("umbrella", (42, 62), canopy=ANY, handle=ANY, metal="metal")
def _umbrella(u: Sequence[float]) -> Drawing:
    wide, deep, hook, sag = within(u, (0.42, 0.56), (0.38, 0.5), (0.07, 0.1), (0.03, 0.07))
    rim = 0.06 + deep
    yield box("metal", -0.025, 0, 0.025, 0.8)
    yield line("handle", 0.08, (0, 0.66), (0, 0.92))
    yield arc("handle", hook, 0.9, hook, 0, 180, 0.08)
    yield wedge("canopy", 0, rim, wide, 180, 360, deep)
    for rib in (-3, -1, 1, 3):
        yield oval("canopy", wide * rib / 4, rim - 0.01, wide / 4, sag)


@noun("ball", (20, 34), ball=ANY, band=ANY)
def _ball(u: Sequence[float]) -> Drawing:
    thick, tilt, bend, share = within(u, (0.09, 0.15), (-0.25, 0.25), (-0.1, 0.1), (0.8, 1.0))
    middle, rise, fall = 0.5 + bend, 0.7 * tilt, 0.3 * tilt
    yield oval("ball", 0, 0.5, 0.5)
    path = (-0.47, 0.5 + rise), (-0.2, middle + fall), (0.2, middle - fall), (0.47, 0.5 - rise)
    yield line("band", 2 * thick * share, *path)


@noun("apple", (20, 32), skin=ANY, leaf=("green", "yellow", "brown", "red"), wood="wood")
def _apple(u: Sequence[float]) -> Drawing:
    wide, lobe, stalk, end = within(u, (0.24, 0.3), (0.26, 0.3), (0.04, 0.14), (0.3, 0.46))
    yield from both(oval("skin", wide * 0.8, 0.58, lobe, 0.36))
    yield oval("skin", 0, 0.66, wide, 0.33)
    yield line("wood", 0.07, (0, 0.34), (0.02, 0.2), (stalk, 0.04))
    yield poly("leaf", (0.04, 0.22), (0.16, 0.03), (end, 0.0), (end - 0.06, 0.17), (0.16, 0.25))


@noun("banana", (22, 34), peel=ANY, tips=("brown", "black", "green", "white"))
def _banana(u: Sequence[float]) -> Drawing:
    bow, thick, turn, short = within(u, (0.62, 0.8), (0.2, 0.28), (-8, 8), (0, 14))
    start, stop = 22 + turn, 158 + turn - short
    yield arc("tips", 0, 0.92 - bow, bow - 0.06, start - 12, start + 6, 0.5 * thick)
    yield arc("tips", 0, 0.92 - bow, bow - 0.06, stop - 6, stop + 10, 0.5 * thick)
    _, outer = wedge("peel", 0, 0.92 - bow, bow + 0.08, start, stop)
    _, inner = wedge("peel", 0, 0.82 - bow, bow - thick + 0.06, stop, start)
    yield poly("peel", *outer[:20], *inner[:20])


@noun("cake", (26, 40), "both", sponge=ANY, icing=ANY, plate=NEUTRAL, candle=0.6)
def _cake(u: Sequence[float]) -> Drawing:
    wide, top, drip, rim = within(u, (0.42, 0.58), (0.3, 0.4), (0.1, 0.18), (0.1, 0.2))
    yield from (
        box("candle", x - 0.035, 0.02, x + 0.035, top) for x in (-0.5 * wide, 0, 0.5 * wide)
    )
    yield oval("plate", 0, 0.92, wide + rim, 0.08)
    yield box("sponge", -wide, top, wide, 0.86)
    yield oval("sponge", 0, 0.86, wide, 0.07)
    yield oval("icing", 0, top, wide, 0.09)
    yield box("icing", -wide, top, wide, top + drip)
    for x in (-0.82, -0.3, 0.25, 0.8):
        yield oval("icing", wide * x, top + drip + 0.02, 0.15 * wide, 0.09)


@noun("book", (22, 36), cover=ANY, label=ANY, paper="paper")
def _book(u: Sequence[float]) -> Drawing:
    wide, lean, deep, tall = within(u, (0.32, 0.44), (0.0, 0.16), (0.08, 0.14), (0.14, 0.26))
    side = wide + deep
    yield poly("paper", (lean + wide, 0.06), (lean + side, 0.02), (side - 0.02, 0.92), (wide, 0.98))
    yield poly("cover", (lean - wide, 0.04), (lean + wide, 0.04), (wide, 1), (-wide, 1))
    upper, lower, half, end = 0.75 * lean, 0.6 * lean, 0.6 * wide, 0.2 + tall
    yield poly(
        "label", (upper - half, 0.2), (upper + half, 0.2), (lower + half, end), (lower - half, end)
    )


@noun("clock", (26, 42), face=ANY, rim=ANY, bells=0.6, dark="dark")
def _clock(u: Sequence[float]) -> Drawing:
    thick, bell, x, y = within(u, (0.07, 0.12), (0.26, 0.32), (-0.2, 0.2), (-0.18, 0.06))
    radius = 0.42
    yield from both(oval("bells", bell, 0.14, 0.13))
    yield from both(line("rim", 0.09, (0.2, 0.85), (0.32, 1)))
    yield oval("rim", 0, 0.54, radius)
    yield oval("face", 0, 0.54, radius - thick)
    yield line("dark", 0.06, (0, 0.56), (0, 0.28))
    yield line("dark", 0.06, (0, 0.54), (0.1 + abs(x), 0.54 + y))


@noun("suitcase luggage", (30, 46), shell=ANY, strap=ANY, tag=0.6, dark="dark")
def _suitcase(u: Sequence[float]) -> Drawing:
    wide, top, band, strap = within(u, (0.3, 0.46), (0.2, 0.3), (0.4, 0.62), (0.1, 0.16))
    yield from both(oval("dark", 0.7 * wide, 0.95, 0.05))
    yield line("dark", 0.06, (-0.12, top), (-0.12, 0.03), (0.12, 0.03), (0.12, top))
    yield box("shell", -wide, top, wide, 0.95, 0.06)
    yield box("strap", -wide, band, wide, band + strap)
    yield poly("tag", (0.1, top), (0.24, top + 0.16), (0.14, top + 0.26), (0.02, top + 0.12))
