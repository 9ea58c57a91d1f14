"""People; see `noun` for how a noun is added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ground_probe.datasets.cartoons.noun import ANY, HAIR, Drawing, noun
from ground_probe.datasets.cartoons.shapes import both, box, line, mix, oval, poly, wedge, within

_ADULT = (0.09, 0.115), (0.12, 0.19), (0.52, 0.6), (0.02, 0.1)
_CHILD = (0.135, 0.165), (0.13, 0.2), (0.6, 0.68), (0.02, 0.1)


def _person(u: Sequence[float], child: bool = False, dress: bool = False) -> Drawing:
    head, wide, hip, arm = within(u, *(_CHILD if child else _ADULT))
    chin = 0.06 + 2 * head
    if dress and not child:
        yield box("hair", -1.25 * head, 0.07 + 0.4 * head, 1.25 * head, chin + 0.11, 0.04)
    if dress and child:
        yield from both(oval("hair", 1.35 * head, 0.06 + 1.2 * head, 0.5 * head, 0.8 * head))
    yield box("bag", wide + arm - 0.07, hip - 0.02, wide + arm + 0.13, hip + 0.2, 0.03)
    if dress or child:
        yield from both(box("skin", 0.03, hip, 0.1 if dress else wide - 0.04, 0.96))
    if dress:
        hem = mix(hip, 1, 0.55)
        yield poly("skirt", (-0.1, hip), (0.1, hip), (wide + 0.07, hem), (-wide - 0.07, hem))
    else:
        legs, hem = ("shorts", mix(hip, 1, 0.5)) if child else ("pants", 0.95)
        top = hip - 0.02
        yield from both(poly(legs, (0, top), (wide, top), (wide - 0.02, hem), (0.015, hem)))
    yield from both(box("shoes", 0.015, 0.94, wide + 0.02, 1, 0.02))
    hand = (wide + arm, hip + 0.02)
    yield from both(line("skin", 0.06, (wide - 0.02, chin + 0.06), hand))
    yield from both(oval("skin", *hand, 0.04))
    sleeve = (mix(wide, wide + arm, 0.45), mix(chin, hip, 0.5))
    yield from both(line("shirt", 0.09, (wide - 0.03, chin + 0.04), sleeve))
    yield box("shirt", -wide, chin - 0.01, wide, hip + 0.02, 0.045)
    yield box("skin", -0.04, chin - 0.06, 0.04, chin + 0.02)
    middle = 0.05 + head
    yield oval("skin", 0, middle, 0.92 * head, head)
    yield wedge("hair", 0, middle - 0.05 * head, 1.02 * head, 180, 360, 1.05 * head)
    if dress:
        yield from both(
            box("hair", 0.72 * head, middle - 0.2 * head, 1.05 * head, middle + 0.5 * head)
        )
    yield from (oval("dark", x * head, middle + 0.2 * head, 0.022) for x in (-0.1, 0.55))
    yield box("hat", -1.3 * head, middle - 0.42 * head, 1.45 * head, middle - 0.2 * head)
    yield box("hat", -0.8 * head, middle - 1.35 * head, 0.8 * head, middle - 0.3 * head, 0.03)


_WORN: dict[str, Any] = {
    "hair": HAIR,
    "hat": 0.4,
    "bag": 0.35,
    "skin": "skin",
    "shoes": "dark",
    "dark": "dark",
}


@noun("man guy gentleman dude", (56, 80), groups="person", shirt=ANY, pants=ANY, **_WORN)
def _man(u: Sequence[float]) -> Drawing:
    return _person(u)


@noun("woman lady", (54, 76), groups="person", shirt=ANY, skirt=ANY, **_WORN)
def _woman(u: Sequence[float]) -> Drawing:
    return _person(u, dress=True)


@noun("boy", (38, 52), groups="person kid child", shirt=ANY, shorts=ANY, **_WORN)
def _boy(u: Sequence[float]) -> Drawing:
    return _person(u, child=True)


@noun("girl", (38, 52), groups="person kid child", shirt=ANY, skirt=ANY, **_WORN)
def _girl(u: Sequence[float]) -> Drawing:
    return _person(u, child=True, dress=True)
