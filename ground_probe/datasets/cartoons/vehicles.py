"""Vehicles and houses; see `noun` for how one is added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ground_probe.datasets.cartoons.noun import ANY, NEUTRAL, Drawing, noun
from ground_probe.datasets.cartoons.shapes import arc, both, box, line, oval, poly, within

_ON_WHEELS: dict[str, Any] = {"wheels": NEUTRAL, "glass": "glass", "metal": "metal"}


def _wheels(radius: float, *places: float) -> Drawing:
    for part, reach in (("wheels", radius), ("metal", 0.4 * radius)):
        yield from (oval(part, x, 1 - radius, reach) for x in places)


@noun("car auto", (30, 46), "out", groups="vehicle thing", body=ANY, roof=ANY, **_ON_WHEELS)
def _car(u: Sequence[float]) -> Drawing:
    long, roof, wheel, cabin = within(u, (0.85, 1.2), (0.4, 0.62), (0.19, 0.25), (-0.62, -0.4))
    back = cabin * long
    front, belt, sill = back + 2 * roof, 0.42, 0.42 - 0.03
    yield poly(
        "roof", (back - 0.12, belt), (back + 0.08, 0.04), (front - 0.2, 0.04), (front + 0.08, belt)
    )
    middle = (back + front) / 2 - 0.06
    left, right = middle - 0.04, middle + 0.04
    yield poly("glass", (back, sill), (back + 0.12, 0.13), (left, 0.13), (left, sill))
    yield poly("glass", (right, sill), (right, 0.13), (front - 0.22, 0.13), (front - 0.06, sill))
    yield box("body", -long, belt - 0.02, long, 0.86, 0.1)
    yield box("metal", long - 0.1, 0.52, long - 0.01, 0.62)
    yield box("metal", -long, 0.74, long, 0.8)
    yield from _wheels(wheel, -0.58 * long, 0.58 * long)


@noun("bus", (44, 64), "out", groups="vehicle thing", body=ANY, stripe=ANY, **_ON_WHEELS)
def _bus(u: Sequence[float]) -> Drawing:
    long, wheel, low, stripe = within(u, (0.75, 1.0), (0.11, 0.15), (0.52, 0.62), (0.1, 0.16))
    yield box("body", -long, 0.02, long, 0.9, 0.07)
    yield box("stripe", -long, low, long, low + stripe)
    step, left = (1.72 * long - 0.2) / 4, -0.93 * long
    for pane in range(4):
        yield box("glass", left + pane * step, 0.14, left + (pane + 0.8) * step, 0.44)
    yield box("glass", 0.93 * long - 0.2, 0.14, 0.93 * long, 0.84)
    yield from _wheels(wheel, -0.6 * long, 0.5 * long)


@noun("truck lorry", (40, 60), "out", groups="vehicle thing", box=ANY, cab=ANY, **_ON_WHEELS)
def _truck(u: Sequence[float]) -> Drawing:
    long, cab, wheel, roof = within(u, (0.6, 0.85), (0.34, 0.44), (0.13, 0.17), (0.2, 0.36))
    nose = long + cab
    yield box("metal", -long, 0.78, nose, 0.86)
    yield box("box", -long, 0.02, long - 0.04, 0.8)
    yield poly(
        "cab", (long, roof), (long + 0.6 * cab, roof), (nose, 0.56), (nose, 0.84), (long, 0.84)
    )
    door, top = long + 0.1, roof + 0.07
    yield poly(
        "glass", (door, top), (long + 0.55 * cab, top), (long + 0.84 * cab, 0.54), (door, 0.54)
    )
    yield from _wheels(wheel, -0.72 * long, -0.72 * long + 2.2 * wheel, long + 0.5 * cab)


@noun("boat sailboat ship", (46, 72), "out", hull=ANY, sail=ANY, flag=ANY, wood="wood")
def _boat(u: Sequence[float]) -> Drawing:
    long, deck, sail, mast = within(u, (0.45, 0.62), (0.68, 0.76), (0.32, 0.46), (-0.12, 0.06))
    foot = deck - 0.08
    fore, aft = mast + 0.04, mast - 0.05
    yield box("wood", mast - 0.025, 0.02, mast + 0.025, deck + 0.02)
    yield poly("flag", (mast - 0.02, 0.01), (mast - 0.2, 0.06), (mast - 0.02, 0.12))
    yield poly("sail", (fore, 0.06), (fore + sail, foot), (fore, foot))
    yield poly("sail", (aft, 0.18), (aft, foot), (aft - 0.7 * sail, foot))
    yield poly("hull", (-long, deck), (long + 0.1, deck), (0.7 * long, 1), (-0.75 * long, 1))


@noun(
    "bicycle bike",
    (36, 52),
    "out",
    patterned=False,
    frame=ANY,
    saddle=ANY,
    wheels=NEUTRAL,
    dark="dark",
)
def _bicycle(u: Sequence[float]) -> Drawing:
    wheel, apart, top, thick = within(u, (0.27, 0.32), (0.44, 0.56), (0.24, 0.32), (0.075, 0.1))
    hub = 1 - wheel
    yield from both(arc("wheels", apart, hub, wheel - 0.03, 0, 360, 0.07))
    yield from both(oval("dark", apart, hub, 0.04))
    pedals, seat, bar = (-0.05, hub), (-0.2, top), (apart - 0.12, top - 0.04)
    yield line("frame", thick, (-apart, hub), pedals, bar)
    yield line("frame", thick, (-apart, hub), seat, bar)
    yield line("frame", thick, (apart, hub), (apart - 0.16, 0.1))
    yield line("frame", thick, pedals, (-0.24, 0.14))
    yield box("saddle", -0.4, 0.06, -0.08, 0.17, 0.04)
    yield line("dark", 0.07, (apart - 0.18, 0.1), (apart + 0.02, 0.05))


@noun("house home", (54, 80), "out", walls=ANY, roof=ANY, door=ANY, chimney=0.6, glass="glass")
def _house(u: Sequence[float]) -> Drawing:
    wide, eaves, peak, side = within(u, (0.36, 0.52), (0.4, 0.5), (0.0, 0.3), (-0.18, 0.18))
    yield box("chimney", 0.5 * wide, 0.02, 0.5 * wide + 0.13, eaves)
    yield box("walls", -wide, eaves - 0.02, wide, 1)
    yield poly(
        "roof", (-wide - 0.1, eaves), (-peak * wide, 0.06), (peak * wide, 0.06), (wide + 0.1, eaves)
    )
    yield box("door", side - 0.09, 0.68, side + 0.09, 1)
    for x, there in ((side - 0.26, side > -0.08), (side + 0.26, side < 0.08)):
        if there:
            yield box("glass", x - 0.08, 0.58, x + 0.08, 0.75)
