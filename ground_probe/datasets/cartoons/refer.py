"""Expressions that refer to exactly one object of a scene, in three styles.

`cartoons` may say where an object is, `cartoons+` never does, and `cartoonsg` uses whole sentences:
the styles mirror RefCOCO, RefCOCO+ and RefCOCOg.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np

from ground_probe.datasets.cartoons.checker import reader
from ground_probe.datasets.cartoons.draw import Scene, SceneObject
from ground_probe.datasets.cartoons.grammar import LONGEST, NounPhrase, Part, Reference
from ground_probe.datasets.cartoons.noun import NOUNS
from ground_probe.datasets.cartoons.words import (
    GROUPS,
    PEOPLE,
    PLACELESS,
    PLACES,
    RELATIONS,
    SIZES,
    UNSPOKEN,
)

STYLES = ("cartoons", "cartoons+", "cartoonsg")
KINDS = {
    "cartoons": {
        "place": 50,
        "order": 9,
        "noun": 8,
        "color": 13,
        "part": 12,
        "pattern": 4,
        "size": 4,
    },
    "cartoons+": {"noun": 10, "color": 28, "part": 34, "pattern": 10, "size": 6, "relation": 12},
    "cartoonsg": {"relation": 56, "part": 24, "place": 8, "color": 6, "pattern": 6},
}
"""How often each style tries to tell an object apart by what."""

HELD_OUT = frozenset(
    (noun.name, noun.parts[noun.main][crc32(noun.name.encode()) % len(noun.parts[noun.main])])
    for noun in NOUNS.values()
)
"""Noun and color pairs, one a noun, that only the test split refers to; more nouns move none."""
HELD_OUT_BUILD = (0.6, 0.7)
"""The range of a noun's first proportion that only the test split refers to."""

_ATTEMPTS = 8
_EXTRA = {"cartoons": 0.12, "cartoons+": 0.12, "cartoonsg": 0.45}


def held_out(thing: SceneObject) -> frozenset[str]:
    """What of an object training never refers to: its "color" for that noun, its "build"."""
    low, high = HELD_OUT_BUILD
    held = {
        "color": (thing.noun, thing.color) in HELD_OUT,
        "build": low <= thing.build[0] < high,
    }
    return frozenset(name for name, is_held in held.items() if is_held)


def is_held_out(thing: SceneObject) -> bool:
    """Whether training never refers to such an object."""
    return bool(held_out(thing))


def refer(
    rng: np.random.Generator, scene: Scene, target: int, style: str
) -> tuple[str, Reference] | None:
    """An expression that means one object, and what it says; None where no attempt found any."""
    kinds, weights = list(KINDS[style]), np.array(list(KINDS[style].values()), float)
    order = rng.choice(len(kinds), len(kinds), replace=False, p=weights / weights.sum())
    check = reader(scene)
    for kind in (kinds[at] for at in order):
        for _ in range(_ATTEMPTS):
            reference = _propose(rng, scene, target, style, kind)
            if reference is not None and check.referents(reference) == {target}:
                text = reference.text(rng, style)
                if len(text.split()) <= LONGEST:
                    return text, reference
    return None


def _propose(
    rng: np.random.Generator, scene: Scene, target: int, style: str, kind: str
) -> Reference | None:
    thing = scene.objects[target]
    said = {kind} | (
        {_pick(rng, ("color", "part", "pattern"))} if rng.random() < _EXTRA[style] else set()
    )
    phrase = _noun_phrase(rng, thing, said, groups=True)
    if phrase is None:
        return None
    if kind == "place":
        return Reference(phrase, place=_pick(rng, tuple(PLACES)))
    if kind == "order":
        return Reference(phrase, order=(int(rng.integers(2, 4)), _pick(rng, ("left", "right"))))
    if kind == "size":
        return Reference(phrase, size=_pick(rng, tuple(SIZES)))
    if kind == "relation":
        true = reader(scene).relations(target, PLACELESS if style == "cartoons+" else RELATIONS)
        if not true:
            return None
        anchor, relation = true[rng.integers(len(true))]
        extra = {"color"} if rng.random() < 0.3 else set()
        landmark = _noun_phrase(rng, scene.objects[anchor], extra, groups=False)
        return Reference(phrase, relation=relation, landmark=landmark) if landmark else None
    return Reference(phrase)


def _noun_phrase(
    rng: np.random.Generator, thing: SceneObject, said: set[str], groups: bool
) -> NounPhrase | None:
    """A noun phrase that says those of color, part and pattern that are asked for."""
    words = thing.kind.words
    word = words[0] if rng.random() < 0.5 else _pick(rng, words)
    if groups and rng.random() < 0.1:
        word = _pick(rng, tuple(group for group, nouns in GROUPS.items() if thing.noun in nouns))
    color, pattern, part = None, None, None
    if "pattern" in said:
        if thing.pattern == "plain":
            return None
        pattern = thing.pattern
    person = thing.noun in PEOPLE
    if "color" in said and not person:
        color = thing.color
    if "part" in said or (person and said & {"color", "pattern"}):
        part = _part(rng, thing, pattern if person else None)
        pattern = None if person else pattern
        if part is None:
            return None
    return NounPhrase(word, color, pattern, part)


def _part(rng: np.random.Generator, thing: SceneObject, pattern: str | None) -> Part | None:
    main = thing.kind.main
    if pattern:
        return Part(main, thing.color if rng.random() < 0.3 else None, pattern)
    missing = [part for part in thing.kind.sometimes if part not in thing.parts]
    if missing and rng.random() < 0.15:
        return Part(_pick(rng, tuple(missing)), absent=True)
    spoken = [p for p in thing.parts if p not in UNSPOKEN and (p != main or thing.noun in PEOPLE)]
    if not spoken:
        return None
    name = _pick(rng, tuple(spoken))
    bare = name in thing.kind.sometimes and rng.random() < 0.3
    return Part(name, None if bare else thing.parts[name])


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[rng.integers(len(choices))]
