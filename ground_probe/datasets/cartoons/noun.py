"""Nouns: what each is called, which parts it has, which colors these take, how they are drawn.

To add a noun, add one function to `folk`, `living`, `vehicles` or `things`, under `@noun`.
It gets four free proportions from 0 to 1 and yields pieces from back to front, looking to the
right. The first part listed is the main one: its color is the object's color.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ground_probe.datasets.cartoons.shapes import Piece

COLORS = {
    "red": (214, 45, 45),
    "orange": (243, 140, 32),
    "yellow": (246, 218, 62),
    "green": (58, 160, 76),
    "blue": (48, 92, 214),
    "purple": (138, 66, 182),
    "pink": (245, 152, 190),
    "brown": (124, 78, 42),
    "black": (38, 38, 42),
    "gray": (142, 144, 148),
    "white": (244, 244, 244),
}
"""The colors that have a word; scenes have seven of them, alike."""

TINTS = {
    "skin": ((250, 214, 180), (224, 172, 130), (172, 116, 76), (112, 72, 48)),
    "glass": ((176, 216, 236),),
    "dark": ((46, 44, 48),),
    "paper": ((248, 242, 224),),
    "wood": ((150, 104, 62),),
    "stem": ((70, 130, 60),),
    "metal": ((170, 174, 180),),
}
"""Colors of parts that nobody names: one of them is drawn for each object."""

ANY = tuple(COLORS)
HAIR = ("black", "brown", "yellow", "gray", "red")
NEUTRAL = ("black", "gray", "white", "brown")

Drawing = Iterator[Piece]
Colors = tuple[str, ...] | str
"""The colors that a part can take: names of `COLORS`, or one of `TINTS`."""


@dataclass(frozen=True)
class Noun:
    """One kind of object.

    Args:
        name: What it is called in this package.
        words: What people call it.
        height_px: Smallest and largest height in the foreground of an image of 128 px.
        place: "in", "out" or "both": the backgrounds that it appears on.
        parts: The colors of each part.
        sometimes: How often an optional part is there.
        draw: The drawing for four proportions.
        patterned: Whether the main part may be striped, dotted or checked.
        groups: Words for it and others: "person", "animal", ...
    """

    name: str
    words: tuple[str, ...]
    height_px: tuple[float, float]
    place: str
    parts: dict[str, Colors]
    sometimes: dict[str, float]
    draw: Callable[[Sequence[float]], Drawing]
    patterned: bool
    groups: tuple[str, ...]

    @property
    def main(self) -> str:
        """The part whose color is the object's color."""
        return next(iter(self.parts))

    @property
    def named(self) -> tuple[str, ...]:
        """The parts that have a color word."""
        return tuple(part for part, colors in self.parts.items() if isinstance(colors, tuple))


NOUNS: dict[str, Noun] = {}


def noun(
    words: str,
    height_px: tuple[float, float],
    place: str = "both",
    groups: str = "thing",
    patterned: bool = True,
    **parts: Colors | float,
) -> Callable[[Callable[[Sequence[float]], Drawing]], Callable[[Sequence[float]], Drawing]]:
    """Register a drawing under its first word; the other words are its synonyms.

    A part is given by its colors, or by how often (0-1) it is there, and then in any color.
    """
    sometimes = {part: value for part, value in parts.items() if isinstance(value, float)}
    colors = {part: ANY if isinstance(value, float) else value for part, value in parts.items()}

    def register(draw: Callable[[Sequence[float]], Drawing]) -> Callable:
        name, *_ = called = tuple(words.split())
        among = (*groups.split(), "one")
        NOUNS[name] = Noun(
            name, called, height_px, place, colors, sometimes, draw, patterned, among
        )
        return draw

    return register
