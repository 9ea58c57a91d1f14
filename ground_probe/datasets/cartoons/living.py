"""Animals and plants; see `noun` for how one is added."""

from __future__ import annotations

from collections.abc import Sequence

from ground_probe.datasets.cartoons.noun import ANY, Drawing, noun
from ground_probe.datasets.cartoons.shapes import both, box, line, mix, oval, poly, wedge


@noun(
    "dog puppy",
    (32, 50),
    groups="animal one",
    sometimes={"collar": 0.6},
    fur=ANY,
    ears=ANY,
    collar=ANY,
    dark="dark",
)
def _dog(u: Sequence[float]) -> Drawing:
    long, leg, head = mix(0.38, 0.62, u[0]), mix(0.22, 0.36, u[1]), mix(0.17, 0.22, u[2])
    back, face = 0.92 - leg - 0.26, (long + 0.12, 0.27)
    yield "fur", line(0.08, (-long + 0.04, back + 0.08), (-long - 0.12, mix(0.1, 0.4, u[3])))
    yield "fur", [box(x, 0.9 - leg, x + 0.11, 1, 0.03) for x in (-long, -long + 0.17)]
    yield "fur", [box(x, 0.9 - leg, x + 0.11, 1, 0.03) for x in (long - 0.28, long - 0.11)]
    yield "fur", box(-long, back, long, 0.98 - leg, 0.1)
    yield (
        "fur",
        poly((long - 0.24, back + 0.04), (long, 0.3), (long + 0.2, 0.34), (long, back + 0.2)),
    )
    yield "collar", line(0.09, (long - 0.14, back - 0.06), (long + 0.12, back + 0.1))
    yield "fur", oval(*face, head)
    yield "fur", oval(face[0] + 0.9 * head, 0.32, 0.8 * head, 0.55 * head)
    yield "ears", oval(face[0] - 0.6 * head, 0.3, 0.48 * head, 1.05 * head)
    yield "dark", [oval(face[0] + 1.6 * head, 0.28, 0.05), oval(face[0] + 0.3 * head, 0.2, 0.035)]


@noun(
    "cat kitty",
    (28, 44),
    groups="animal one",
    sometimes={"collar": 0.5},
    fur=ANY,
    chest=ANY,
    collar=ANY,
    dark="dark",
)
def _cat(u: Sequence[float]) -> Drawing:
    wide, head, tail = mix(0.22, 0.34, u[0]), mix(0.2, 0.25, u[1]), mix(0.1, 0.32, u[2])
    top = 0.28
    yield "fur", line(0.1, (-wide + 0.05, 0.94), (-wide - tail, 0.9), (-wide - tail - 0.06, 0.55))
    yield "fur", poly((-0.12, 0.4), (0.12, 0.4), (wide, 0.8), (wide, 1), (-wide, 1), (-wide, 0.8))
    yield "chest", oval(0, mix(0.68, 0.74, u[3]), 0.5 * wide, 0.22)
    yield "fur", both(oval(0.5 * wide, 0.97, 0.08, 0.05))
    yield "collar", box(-0.17, 0.46, 0.17, 0.55)
    yield "fur", both(poly((0.3 * head, top - 0.6 * head), (head, -0.02), (head, top)))
    yield "fur", oval(0, top, 1.12 * head, 0.92 * head)
    yield "dark", both(oval(0.42 * head, top - 0.04, 0.04))
    yield "dark", poly((-0.04, top + 0.06), (0.04, top + 0.06), (0, top + 0.11))


@noun(
    "bird",
    (26, 38),
    groups="animal one",
    feathers=ANY,
    wing=ANY,
    beak=("orange", "yellow", "black", "red"),
    dark="dark",
)
def _bird(u: Sequence[float]) -> Drawing:
    fat, long, head = mix(0.24, 0.32, u[0]), mix(0.36, 0.48, u[1]), mix(0.17, 0.22, u[2])
    yield "beak", [line(0.04, (x, 0.8), (x, 0.97), (x + 0.09, 0.98)) for x in (-0.08, 0.08)]
    yield "feathers", poly((-long + 0.1, 0.46), (-long - 0.24, 0.5), (-long - 0.2, 0.68), (0, 0.7))
    yield "feathers", oval(0, 0.58, long, fat)
    yield "beak", poly((long + 0.1, 0.18), (long + mix(0.24, 0.36, u[3]), 0.28), (long + 0.1, 0.34))
    yield "feathers", oval(long - 0.06, 0.26, head)
    yield "wing", wedge(-0.04, 0.5, 0.72 * long, 0, 180, 0.9 * fat)
    yield "dark", oval(long - 0.01, 0.22, 0.04)


@noun("fish", (24, 36), groups="animal one", scales=ANY, fins=ANY, dark="dark", paper="paper")
def _fish(u: Sequence[float]) -> Drawing:
    long, fat, tail = mix(0.55, 0.8, u[0]), mix(0.28, 0.38, u[1]), mix(0.25, 0.4, u[2])
    end = -long - mix(0.2, 0.34, u[3])
    yield (
        "fins",
        poly((-long + 0.14, 0.55), (end, 0.55 - tail), (end + 0.1, 0.55), (end, 0.55 + tail)),
    )
    yield "fins", poly((-0.3, 0.4), (-0.1, 0.03), (0.28, 0.12), (0.3, 0.4))
    yield "scales", oval(0, 0.55, long, fat)
    yield "fins", poly((0.05, 0.62), (-0.3, 0.56), (-0.34, 0.84))
    yield "paper", oval(0.66 * long, 0.47, 0.085)
    yield (
        "dark",
        [oval(0.68 * long, 0.47, 0.045), line(0.03, (0.7 * long, 0.66), (0.9 * long, 0.63))],
    )


def _four_legs(x: float, top: float, wide: float) -> list:
    places = (-x, -x + 1.5 * wide, x - 2.4 * wide, x - wide)
    return [box(place, top, place + wide, 0.95) for place in places]


@noun(
    "horse pony",
    (46, 64),
    groups="animal one",
    sometimes={"saddle": 0.5},
    coat=ANY,
    mane=ANY,
    saddle=ANY,
    dark="dark",
)
def _horse(u: Sequence[float]) -> Drawing:
    long, leg, neck = mix(0.32, 0.42, u[0]), mix(0.36, 0.44, u[1]), mix(0.14, 0.24, u[2])
    back = 0.95 - leg - 0.26
    nose = (long + neck + 0.2, mix(0.22, 0.3, u[3]))
    yield (
        "mane",
        line(0.09, (-long + 0.03, back + 0.06), (-long - 0.12, back + 0.2), (-long - 0.1, 0.75)),
    )
    yield "coat", _four_legs(long, 0.9 - leg, 0.09)
    yield (
        "dark",
        [box(x, 0.94, x + 0.1, 1) for x in (-long, -long + 0.13, long - 0.22, long - 0.09)],
    )
    yield "coat", box(-long, back, long, 0.98 - leg, 0.09)
    top = (long + neck, 0.06)
    yield "mane", poly((long - 0.27, back + 0.03), (top[0] - 0.14, 0.04), top, (long, back + 0.1))
    yield "coat", poly((long - 0.2, back + 0.02), (top[0] - 0.06, 0.1), nose, (long, back + 0.24))
    yield (
        "coat",
        poly(
            (top[0] - 0.08, 0.1),
            (top[0], 0),
            (top[0] + 0.05, 0.07),
            nose,
            (nose[0] - 0.09, nose[1] + 0.07),
        ),
    )
    yield (
        "saddle",
        [
            box(-0.16, back - 0.03, 0.1, back + 0.06, 0.02),
            box(-0.12, back, 0.06, back + 0.17, 0.03),
        ],
    )
    yield "dark", [oval(top[0] + 0.01, 0.12, 0.022), oval(nose[0] - 0.03, nose[1], 0.014)]


@noun(
    "cow",
    (42, 58),
    groups="animal one",
    sometimes={"bell": 0.5},
    hide=ANY,
    patches=ANY,
    bell=ANY,
    dark="dark",
    paper="paper",
    skin="skin",
)
def _cow(u: Sequence[float]) -> Drawing:
    long, leg, head = mix(0.46, 0.6, u[0]), mix(0.26, 0.34, u[1]), mix(0.13, 0.17, u[2])
    face = (long + 0.1, mix(0.24, 0.36, u[3]))
    yield "hide", line(0.04, (-long, 0.22), (-long - 0.1, 0.4), (-long - 0.08, 0.66))
    yield "hide", _four_legs(long, 0.9 - leg, 0.12)
    yield (
        "dark",
        [box(x, 0.94, x + 0.13, 1) for x in (-long, -long + 0.18, long - 0.29, long - 0.12)],
    )
    yield "skin", oval(-0.5 * long, 0.98 - leg, 0.11, 0.08)
    yield "hide", box(-long, 0.16, long, 0.98 - leg, 0.09)
    yield "patches", [oval(-0.5 * long, 0.32, 0.17, 0.12), oval(0.22 * long, 0.44, 0.19, 0.12)]
    yield (
        "bell",
        box(
            face[0] - 0.09,
            face[1] + 1.25 * head,
            face[0] + 0.06,
            face[1] + 1.25 * head + 0.16,
            0.03,
        ),
    )
    yield (
        "paper",
        [
            line(
                0.05,
                (face[0] - s * 0.08, face[1] - head),
                (face[0] - s * 0.17, face[1] - head - 0.14),
            )
            for s in (-1, 1)
        ],
    )
    yield (
        "hide",
        [
            oval(face[0] - 1.3 * head, face[1] - 0.5 * head, 0.1, 0.05),
            oval(*face, head, 1.25 * head),
        ],
    )
    yield "skin", oval(face[0] + 0.04, face[1] + 0.85 * head, 0.95 * head, 0.6 * head)
    yield "dark", [oval(face[0] + s * 0.06 + 0.02, face[1] - 0.15 * head, 0.025) for s in (-1, 1)]


@noun("tree", (54, 80), "out", sometimes={"fruit": 0.4}, leaves=ANY, trunk=ANY, fruit=ANY)
def _tree(u: Sequence[float]) -> Drawing:
    wide, low, thick = mix(0.22, 0.34, u[0]), mix(0.56, 0.68, u[1]), mix(0.05, 0.09, u[2])
    side = mix(0.14, 0.2, u[3])
    yield (
        "trunk",
        poly((-thick, low - 0.1), (thick, low - 0.1), (1.5 * thick, 1), (-1.5 * thick, 1)),
    )
    crown = [
        (-wide, 0.42, side),
        (wide, 0.42, side),
        (-0.45 * wide, 0.22, 0.2),
        (0.5 * wide, 0.24, 0.19),
    ]
    yield "leaves", [*(oval(*lobe) for lobe in crown), oval(0, 0.4, wide, low - 0.36)]
    spots = [
        (-wide, 0.4),
        (-0.35 * wide, 0.2),
        (0.1 * wide, 0.46),
        (0.6 * wide, 0.26),
        (1.05 * wide, 0.44),
    ]
    yield "fruit", [oval(*spot, 0.05) for spot in spots]


@noun(
    "flower",
    (32, 50),
    petals=ANY,
    pot=ANY,
    core=("yellow", "brown", "black", "orange", "white"),
    stem="stem",
)
def _flower(u: Sequence[float]) -> Drawing:
    reach, pot, petal = mix(0.15, 0.2, u[0]), mix(0.15, 0.22, u[1]), mix(0.095, 0.12, u[2])
    yield "stem", line(0.05, (0, 0.3), (0, 0.76))
    yield (
        "stem",
        [poly((0, 0.68), (s * mix(0.16, 0.26, u[3]), 0.5), (s * 0.06, 0.56)) for s in (-1, 1)],
    )
    turns = [(0, -1), (0.95, -0.31), (0.59, 0.81), (-0.59, 0.81), (-0.95, -0.31)]
    yield "petals", [oval(reach * x, 0.28 + reach * y, petal) for x, y in turns]
    yield "core", oval(0, 0.28, 0.1)
    yield (
        "pot",
        [
            poly((-pot, 0.72), (pot, 0.72), (0.72 * pot, 1), (-0.72 * pot, 1)),
            box(-pot - 0.03, 0.7, pot + 0.03, 0.79),
        ],
    )
