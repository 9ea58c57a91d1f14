"""Expressions that refer to exactly one object of a scene, in three styles.

`scenes` uses location words, `scenes+` never does, and `scenesg` relates the object to another
one: the styles mirror RefCOCO, RefCOCO+ and RefCOCOg.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ground_probe.datasets.scenes.draw import Scene, SceneObject

STYLES = ("scenes", "scenes+", "scenesg")
HELD_OUT = frozenset(
    {
        ("purple", "circle"),
        ("yellow", "square"),
        ("green", "triangle"),
        ("blue", "star"),
        ("orange", "ring"),
        ("red", "cross"),
    }
)
"""Color and shape pairs that only the test split refers to."""

# axis (0: x, 1: y), direction, and how the word stands behind a noun
SIDES = {
    "left": (0, -1, "on the left"),
    "right": (0, +1, "on the right"),
    "top": (1, -1, "at the top"),
    "bottom": (1, +1, "at the bottom"),
}
RELATIONS = {
    "to the left of": (0, -1),
    "to the right of": (0, +1),
    "above": (1, -1),
    "below": (1, +1),
}
MARGIN_PX = 10.0
"""Objects nearer than this along an axis are not ordered by a location word."""

_ATTEMPTS = 24


def is_held_out(thing: SceneObject) -> bool:
    """Whether training never refers to objects of this color and shape."""
    return (thing.color, thing.shape) in HELD_OUT


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """What is said of an object's looks; None where nothing is said."""

    size: str | None
    color: str | None
    shape: str | None

    def matches(self, thing: SceneObject) -> bool:
        """Whether everything said is true of the object."""
        return (
            self.size in (None, thing.size)
            and self.color in (None, thing.color)
            and self.shape in (None, thing.shape)
        )

    def words(self) -> str:
        """The phrase without an article."""
        return " ".join(filter(None, (self.size, self.color, self.shape or "object")))


@dataclass(frozen=True, slots=True)
class Reference:
    """A noun phrase, perhaps with a side of the image or a relation to another object."""

    phrase: NounPhrase
    side: str | None = None
    relation: str | None = None
    landmark: NounPhrase | None = None

    def referents(self, scene: Scene) -> set[int]:
        """Objects that a reader could take to be meant; exactly one where it is clear."""
        matches = _matches(self.phrase, scene)
        if self.side is not None:
            axis, sign, _ = SIDES[self.side]
            place = {i: sign * scene.objects[i].center_px[axis] for i in matches}
            return {i for i in matches if place[i] > max(place.values()) - MARGIN_PX}
        if self.relation is not None and self.landmark is not None:
            anchors = _matches(self.landmark, scene)
            if len(anchors) != 1:
                return set()
            (anchor,) = anchors
            axis, sign = RELATIONS[self.relation]
            start = scene.objects[anchor].center_px
            offset = {i: sign * (scene.objects[i].center_px - start) for i in matches - anchors}
            possible = {i for i in offset if offset[i][axis] > 0}
            clear = {
                i for i in possible if offset[i][axis] >= max(MARGIN_PX, abs(offset[i][1 - axis]))
            }
            return possible if possible == clear else set()
        return matches

    def mentions(self, scene: Scene) -> set[int]:
        """Objects that the words name: the referents and, in a relation, the landmark."""
        return self.referents(scene) | (_matches(self.landmark, scene) if self.landmark else set())

    def text(self, rng: np.random.Generator) -> str:
        """One of the ways to say it."""
        words = self.phrase.words()
        article = "the " if self.relation or rng.random() < 0.75 else ""
        if self.side is not None:
            if rng.random() < 0.5:
                return f"{article}{self.side} {words}"
            return f"{article}{words} {SIDES[self.side][2]}"
        if self.relation is not None and self.landmark is not None:
            link = "" if rng.random() < 0.7 else "that is "
            return f"the {words} {link}{self.relation} the {self.landmark.words()}"
        if self.phrase.color and self.phrase.shape and rng.random() < 0.15:
            plain = NounPhrase(self.phrase.size, None, self.phrase.shape)
            return f"the {plain.words()} that is {self.phrase.color}"
        return article + words


def refer(
    rng: np.random.Generator, scene: Scene, target: int, style: str
) -> tuple[str, Reference] | None:
    """An expression that means one object, and what it says; None where no attempt found any."""
    for _ in range(_ATTEMPTS):
        reference = _propose(rng, scene, target, style)
        if reference is not None and reference.referents(scene) == {target}:
            return reference.text(rng), reference
    return None


def _propose(rng: np.random.Generator, scene: Scene, target: int, style: str) -> Reference | None:
    phrase = _noun_phrase(rng, scene.objects[target])
    if style == "scenes+":
        return Reference(phrase)
    if len(_matches(phrase, scene)) < 2:  # the place would not be needed
        return None
    if style == "scenes":
        return Reference(phrase, side=tuple(SIDES)[rng.integers(len(SIDES))])
    anchor = int(rng.integers(len(scene.objects)))
    if anchor == target:
        return None
    landmark = _noun_phrase(rng, scene.objects[anchor])
    relation = tuple(RELATIONS)[rng.integers(len(RELATIONS))]
    return Reference(phrase, relation=relation, landmark=landmark)


def _noun_phrase(rng: np.random.Generator, thing: SceneObject) -> NounPhrase:
    say_size, say_color, say_shape = rng.random(3) < (0.4, 0.7, 0.85)
    return NounPhrase(
        thing.size if say_size else None,
        thing.color if say_color or not say_shape else None,
        thing.shape if say_shape else None,
    )


def _matches(phrase: NounPhrase, scene: Scene) -> set[int]:
    return {i for i, thing in enumerate(scene.objects) if phrase.matches(thing)}
