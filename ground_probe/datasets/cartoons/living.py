"""Animals and plants; see `noun` for how one is added."""

from __future__ import annotations

from collections.abc import Sequence

from ground_probe.datasets.cartoons.noun import ANY, Drawing, noun
from ground_probe.datasets.cartoons.shapes import both, box, line, oval, poly, wedge, within


@noun("dog puppy", (32, 50), groups="animal", fur=ANY, ears=ANY, collar=0.6, dark="dark")
def _dog(u: Sequence[float]) -> Drawing:
    long, leg, head, tail = within(u, (0.38, 0.62), (0.22, 0.36), (0.17, 0.22), (0.1, 0.4))
    back, face = 0.92 - leg - 0.26, (long + 0.12, 0.27)
    yield line("fur", 0.08, (-long + 0.04, back + 0.08), (-long - 0.12, tail))
    yield from (box("fur", x, 0.9 - leg, x + 0.11, 1, 0.03) for x in (-long, -long + 0.17))
    yield from (box("fur", x, 0.9 - leg, x + 0.11, 1, 0.03) for x in (long - 0.28, long - 0.11))
    yield box("fur", -long, back, long, 0.98 - leg, 0.1)
    yield poly(
        "fur", (long - 0.24, back + 0.04), (long, 0.3), (long + 0.2, 0.34), (long, back + 0.2)
    )
    yield line("collar", 0.09, (long - 0.14, back - 0.06), (long + 0.12, back + 0.1))
    yield oval("fur", *face, head)
    yield oval("fur", face[0] + 0.9 * head, 0.32, 0.8 * head, 0.55 * head)
    yield oval("ears", face[0] - 0.6 * head, 0.3, 0.48 * head, 1.05 * head)
    yield oval("dark", face[0] + 1.6 * head, 0.28, 0.05)
    yield oval("dark", face[0] + 0.3 * head, 0.2, 0.035)


@noun("cat kitty", (28, 44), groups="animal", fur=ANY, chest=ANY, collar=0.5, dark="dark")
def _cat(u: Sequence[float]) -> Drawing:
    wide, head, tail, chest = within(u, (0.22, 0.34), (0.2, 0.25), (0.1, 0.32), (0.68, 0.74))
    top = 0.28
    yield line("fur", 0.1, (-wide + 0.05, 0.94), (-wide - tail, 0.9), (-wide - tail - 0.06, 0.55))
    yield poly("fur", (-0.12, 0.4), (0.12, 0.4), (wide, 0.8), (wide, 1), (-wide, 1), (-wide, 0.8))
    yield oval("chest", 0, chest, 0.5 * wide, 0.22)
    yield from both(oval("fur", 0.5 * wide, 0.97, 0.08, 0.05))
    yield box("collar", -0.17, 0.46, 0.17, 0.55)
    yield from both(poly("fur", (0.3 * head, top - 0.6 * head), (head, -0.02), (head, top)))
    yield oval("fur", 0, top, 1.12 * head, 0.92 * head)
    yield from both(oval("dark", 0.42 * head, top - 0.04, 0.04))
    yield poly("dark", (-0.04, top + 0.06), (0.04, top + 0.06), (0, top + 0.11))


@noun(
    "bird",
    (26, 38),
    groups="animal",
    feathers=ANY,
    wing=ANY,
    beak=("orange", "yellow", "black", "red"),
    dark="dark",
)
def _bird(u: Sequence[float]) -> Drawing:
    fat, long, head, beak = within(u, (0.24, 0.32), (0.36, 0.48), (0.17, 0.22), (0.24, 0.36))
    yield from (line("beak", 0.04, (x, 0.8), (x, 0.97), (x + 0.09, 0.98)) for x in (-0.08, 0.08))
    yield poly("feathers", (-long + 0.1, 0.46), (-long - 0.24, 0.5), (-long - 0.2, 0.68), (0, 0.7))
    yield oval("feathers", 0, 0.58, long, fat)
    yield poly("beak", (long + 0.1, 0.18), (long + beak, 0.28), (long + 0.1, 0.34))
    yield oval("feathers", long - 0.06, 0.26, head)
    yield wedge("wing", -0.04, 0.5, 0.72 * long, 0, 180, 0.9 * fat)
    yield oval("dark", long - 0.01, 0.22, 0.04)


@noun("fish", (24, 36), groups="animal", scales=ANY, fins=ANY, dark="dark", paper="paper")
def _fish(u: Sequence[float]) -> Drawing:
    long, fat, tail, fin = within(u, (0.55, 0.8), (0.28, 0.38), (0.25, 0.4), (0.2, 0.34))
    end = -long - fin
    yield poly(
        "fins", (-long + 0.14, 0.55), (end, 0.55 - tail), (end + 0.1, 0.55), (end, 0.55 + tail)
    )
    yield poly("fins", (-0.3, 0.4), (-0.1, 0.03), (0.28, 0.12), (0.3, 0.4))
    yield oval("scales", 0, 0.55, long, fat)
    yield poly("fins", (0.05, 0.62), (-0.3, 0.56), (-0.34, 0.84))
    yield oval("paper", 0.66 * long, 0.47, 0.085)
    yield oval("dark", 0.68 * long, 0.47, 0.045)
    yield line("dark", 0.03, (0.7 * long, 0.66), (0.9 * long, 0.63))


def _four_legs(part: str, x: float, top: float, wide: float) -> Drawing:
    for place in (-x, -x + 1.5 * wide, x - 2.4 * wide, x - wide):
        yield box(part, place, top, place + wide, 0.95)


@noun("horse pony", (46, 64), groups="animal", coat=ANY, mane=ANY, saddle=0.5, dark="dark")
def _horse(u: Sequence[float]) -> Drawing:
    long, leg, neck, low = within(u, (0.32, 0.42), (0.36, 0.44), (0.14, 0.24), (0.22, 0.3))
    back = 0.95 - leg - 0.26
    nose = (long + neck + 0.2, low)
    yield line(
        "mane", 0.09, (-long + 0.03, back + 0.06), (-long - 0.12, back + 0.2), (-long - 0.1, 0.75)
    )
    yield from _four_legs("coat", long, 0.9 - leg, 0.09)
    for x in (-long, -long + 0.13, long - 0.22, long - 0.09):
        yield box("dark", x, 0.94, x + 0.1, 1)
    yield box("coat", -long, back, long, 0.98 - leg, 0.09)
    top = (long + neck, 0.06)
    yield poly("mane", (long - 0.27, back + 0.03), (top[0] - 0.14, 0.04), top, (long, back + 0.1))
    yield poly("coat", (long - 0.2, back + 0.02), (top[0] - 0.06, 0.1), nose, (long, back + 0.24))
    ear, chin = ((top[0] - 0.08, 0.1), (top[0], 0)), (nose[0] - 0.09, nose[1] + 0.07)
    yield poly("coat", *ear, (top[0] + 0.05, 0.07), nose, chin)
    yield box("saddle", -0.16, back - 0.03, 0.1, back + 0.06, 0.02)
    yield box("saddle", -0.12, back, 0.06, back + 0.17, 0.03)
    yield oval("dark", top[0] + 0.01, 0.12, 0.022)
    yield oval("dark", nose[0] - 0.03, nose[1], 0.014)


@noun(
    "cow",
    (42, 58),
    groups="animal",
    hide=ANY,
    patches=ANY,
    bell=0.5,
    dark="dark",
    paper="paper",
    skin="skin",
)
def _cow(u: Sequence[float]) -> Drawing:
    long, leg, head, y = within(u, (0.46, 0.6), (0.26, 0.34), (0.13, 0.17), (0.24, 0.36))
    x = long + 0.1
    chin = y + 1.25 * head
    yield line("hide", 0.04, (-long, 0.22), (-long - 0.1, 0.4), (-long - 0.08, 0.66))
    yield from _four_legs("hide", long, 0.9 - leg, 0.12)
    for hoof in (-long, -long + 0.18, long - 0.29, long - 0.12):
        yield box("dark", hoof, 0.94, hoof + 0.13, 1)
    yield oval("skin", -0.5 * long, 0.98 - leg, 0.11, 0.08)
    yield box("hide", -long, 0.16, long, 0.98 - leg, 0.09)
    yield oval("patches", -0.5 * long, 0.32, 0.17, 0.12)
    yield oval("patches", 0.22 * long, 0.44, 0.19, 0.12)
    yield box("bell", x - 0.09, chin, x + 0.06, chin + 0.16, 0.03)
    for side in (-1, 1):
        root, tip = (x - side * 0.08, y - head), (x - side * 0.17, y - head - 0.14)
        yield line("paper", 0.05, root, tip)
    yield oval("hide", x - 1.3 * head, y - 0.5 * head, 0.1, 0.05)
    yield oval("hide", x, y, head, 1.25 * head)
    yield oval("skin", x + 0.04, y + 0.85 * head, 0.95 * head, 0.6 * head)
    yield from (oval("dark", x + s * 0.06 + 0.02, y - 0.15 * head, 0.025) for s in (-1, 1))


@noun("tree", (54, 80), "out", leaves=ANY, trunk=ANY, fruit=0.4)
def _tree(u: Sequence[float]) -> Drawing:
    wide, low, thick, side = within(u, (0.22, 0.34), (0.56, 0.68), (0.05, 0.09), (0.14, 0.2))
    top, foot = low - 0.1, 1.5 * thick
    yield poly("trunk", (-thick, top), (thick, top), (foot, 1), (-foot, 1))
    yield from (oval("leaves", x, 0.42, side) for x in (-wide, wide))
    yield oval("leaves", -0.45 * wide, 0.22, 0.2)
    yield oval("leaves", 0.5 * wide, 0.24, 0.19)
    yield oval("leaves", 0, 0.4, wide, low - 0.36)
    for x, y in ((-1, 0.4), (-0.35, 0.2), (0.1, 0.46), (0.6, 0.26), (1.05, 0.44)):
        yield oval("fruit", x * wide, y, 0.05)


@noun(
    "flower",
    (32, 50),
    petals=ANY,
    pot=ANY,
    core=("yellow", "brown", "black", "orange", "white"),
    stem="stem",
)
def _flower(u: Sequence[float]) -> Drawing:
    reach, pot, petal, leaf = within(u, (0.15, 0.2), (0.15, 0.22), (0.095, 0.12), (0.16, 0.26))
    yield line("stem", 0.05, (0, 0.3), (0, 0.76))
    for side in (-1, 1):
        yield poly("stem", (0, 0.68), (side * leaf, 0.5), (side * 0.06, 0.56))
    turns = [(0, -1), (0.95, -0.31), (0.59, 0.81), (-0.59, 0.81), (-0.95, -0.31)]
    yield from (oval("petals", reach * x, 0.28 + reach * y, petal) for x, y in turns)
    yield oval("core", 0, 0.28, 0.1)
    yield poly("pot", (-pot, 0.72), (pot, 0.72), (0.72 * pot, 1), (-0.72 * pot, 1))
    yield box("pot", -pot - 0.03, 0.7, pot + 0.03, 0.79)
