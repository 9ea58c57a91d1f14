"""What an expression says, and the ways to say it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ground_probe.datasets.cartoons.words import (
    ORDERS,
    PATTERN_WORDS,
    PLACES,
    RELATIONS,
    SENSES,
    SIZES,
    SLIPS,
    UNCOUNTED,
    VERBS,
    WORN,
    called,
)

LONGEST = 14
"""Words of the longest expression."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is said of one part: its color, or that the object is without it."""

    name: str
    color: str | None = None
    pattern: str | None = None
    absent: bool = False


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """What is said of an object's looks; None where nothing is said."""

    word: str
    color: str | None = None
    pattern: str | None = None
    part: Part | None = None

    @property
    def nouns(self) -> tuple[str, ...]:
        """The nouns that the word can mean."""
        return SENSES[self.word]


@dataclass(frozen=True, slots=True)
class Reference:
    """A noun phrase, perhaps with a size, a place, an order or a relation to another object.

    Args:
        phrase: The object's looks.
        size: A key of `SIZES`: among all that the phrase fits.
        place: A key of `PLACES`.
        order: How many from the left or right: (2, "left").
        relation: A key of `RELATIONS`.
        landmark: The other object of a relation.
    """

    phrase: NounPhrase
    size: str | None = None
    place: str | None = None
    order: tuple[int, str] | None = None
    relation: str | None = None
    landmark: NounPhrase | None = None

    @property
    def kind(self) -> str:
        """What tells the object apart: "relation", "order", "place", "size", "part", ..."""
        said = {
            "relation": self.relation,
            "order": self.order,
            "place": self.place,
            "size": self.size,
            "part": self.phrase.part,
            "pattern": self.phrase.pattern,
            "color": self.phrase.color,
        }
        return next((kind for kind, value in said.items() if value), "noun")

    def text(self, rng: np.random.Generator, style: str) -> str:
        """One of the ways to say it in a style."""
        full = style == "cartoonsg"
        words = _noun_phrase(rng, self.phrase, full)
        if self.size:
            words = f"{_one_of(rng, SIZES[self.size])} {words}"
        if self.order:
            count, side = self.order
            words = f"{_one_of(rng, ORDERS[count])} {words} from {'the ' if full else ''}{side}"
        elif self.place:
            before, behind = PLACES[self.place]
            if self.phrase.part or rng.random() < 0.5:  # "with a leaf at the top" is a leaf's place
                words = f"{_one_of(rng, before)} {words}"
            else:
                words = f"{words} {_one_of(rng, behind)}"
        if self.relation and self.landmark:
            link = ""
            if full:
                verb = _one_of(rng, VERBS.get(self.phrase.nouns[0], ("that is",)))
                link = f"{verb} " if rng.random() < 0.5 else ""
            other = _noun_phrase(rng, self.landmark, full)
            article = "the " if full or rng.random() < 0.4 else ""
            relation = _one_of(rng, RELATIONS[self.relation])
            words = f"{words} {link}{relation} {article}{other}"
        if full:
            sure = self.phrase.word == "one" or rng.random() < 0.75
            words = f"{'the' if sure else 'a'} {words}"
        elif rng.random() < 0.1:
            words = f"the {words}"
        words = re.sub(r"\ba (?=[aeiou])", "an ", words)
        return _slip(rng, words, 0.01 if full else 0.03)


def _one_of(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    """One of the choices, mostly the first."""
    return choices[0] if rng.random() < 0.4 else choices[rng.integers(len(choices))]


def _noun_phrase(rng: np.random.Generator, phrase: NounPhrase, full: bool) -> str:
    words, behind = phrase.word, ""
    if phrase.color:
        words = f"{phrase.color} {words}"
    if phrase.pattern:
        adjectives, nouns = PATTERN_WORDS[phrase.pattern]
        if phrase.part is None and rng.random() < 0.4:
            behind = f" with {_one_of(rng, nouns)}"
        else:
            words = f"{_one_of(rng, adjectives)} {words}"
    if phrase.part:
        behind = f" {_part(rng, phrase.part, full)}"
    return words + behind


def _part(rng: np.random.Generator, part: Part, full: bool) -> str:
    word = _one_of(rng, called(part.name))
    article = "a " if full or rng.random() < 0.3 else ""
    if part.absent:
        article = "" if part.name.endswith("s") else "a "
        return f"without {article}{word}" if full or rng.random() < 0.6 else f"no {word}"
    joins = ("in", "wearing", "with") if part.name in WORN else ("with",)
    if part.name in UNCOUNTED or part.name.endswith("s"):
        article = ""
    pattern = f"{_one_of(rng, PATTERN_WORDS[part.pattern][0])} " if part.pattern else ""
    color = f"{part.color} " if part.color else ""
    return f"{_one_of(rng, joins)} {article}{pattern}{color}{word}"


def _slip(rng: np.random.Generator, text: str, share: float) -> str:
    words = text.split()
    able = [at for at, word in enumerate(words) if word in SLIPS]
    if able and rng.random() < share:
        at = able[rng.integers(len(able))]
        words[at] = SLIPS[words[at]]
    return " ".join(words)
