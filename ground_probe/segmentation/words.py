"""Words of an expression: which of them carry it, and what they say about places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from skimage.measure import label, regionprops

from ground_probe.editors.phrases import plain
from ground_probe.words import FUNCTION_WORDS, NUMBERS, ORDINALS, SIDE_OF, words_of

STOP_WORDS = FUNCTION_WORDS | {"one", "ones"}

_AXES = {"left": (1, -1), "right": (1, +1), "top": (0, -1), "bottom": (0, +1)}


@dataclass(frozen=True, slots=True)
class Place:
    """What an expression says about where its object lies in the image.

    Args:
        sides: of "left", "right", "top", "bottom", "middle", as they come.
        ordinal: its number counted from the first side, from 1; None where it is not counted.
        count: how many objects are meant, nearest to that side; None where it is not said.
    """

    sides: tuple[str, ...]
    ordinal: int | None = None
    count: int | None = None


def token_weights(tokens: Sequence[str], stop_words: bool) -> Float[np.ndarray, " tokens"]:
    """One weight a token, summing to 1; with nothing but stop words, all count.

    Args:
        tokens: as the tokenizer spells them.
        stop_words: whether stop words and punctuation count.

    >>> token_weights(["▁the", "▁red", "▁circle"], stop_words=False)
    array([0. , 0.5, 0.5])
    """
    words = [plain(token) for token in tokens]
    carries = [word not in STOP_WORDS and any(map(str.isalnum, word)) for word in words]
    weights = np.array([stop_words or each for each in carries], float)
    weights = weights if weights.any() else np.ones(len(tokens))
    return weights / weights.sum()


def place_of(expression: str) -> Place:
    """The place that an expression names in the image; whole words only.

    A side that relates the object to another one is none of the image: "to the left of the car".

    >>> place_of("the second man from the left")
    Place(sides=('left',), ordinal=2, count=None)
    >>> place_of("the two left dots")
    Place(sides=('left',), ordinal=None, count=2)
    >>> place_of("the cup to the left of the plate").sides, place_of("the cup on the left").sides
    ((), ('left',))
    """
    words = words_of(expression)
    sides = [
        SIDE_OF[word]
        for at, word in enumerate(words)
        if word in SIDE_OF and not _relates(words, at)
    ]
    ordinal = next((ORDINALS[word] for word in words if word in ORDINALS), None)
    count = next(
        (
            NUMBERS[word]
            for at, word in enumerate(words)
            if word in NUMBERS and "of" not in words[max(at - 2, 0) : at]
        ),
        None,
    )
    if not sides or ordinal:
        return Place(tuple(dict.fromkeys(sides)), ordinal if sides else None)
    return Place(tuple(dict.fromkeys(sides)), None, count)


def place_prior(place: Place, grid: tuple[int, int]) -> Float[np.ndarray, "rows cols"]:
    """How well each token's position fits a place: 1 at the side itself, 0 at the far one.

    Counted objects ("second from the left", "the two left dots") may lie anywhere, and add nothing
    here.
    """
    rows, cols = ((np.arange(size) + 0.5) / size for size in grid)
    position = np.meshgrid(rows, cols, indexing="ij")
    fit = np.ones(grid)
    nearest = place.ordinal in (None, 1) and place.count is None
    for side in place.sides if nearest else ():
        if side == "middle":
            away = np.hypot(position[0] - 0.5, position[1] - 0.5)
            fit *= 1 - away / away.max()
        else:
            axis, sign = _AXES[side]
            fit *= position[axis] if sign > 0 else 1 - position[axis]
    return fit


def counted(
    mask: Bool[np.ndarray, "height width"], place: Place
) -> Bool[np.ndarray, "height width"]:
    """Keep the connected region that an ordinal counts to, or as many as there are meant to be.

    All of them stay where there are too few. Regions are counted from the place's first side.

    >>> counted(np.array([[True, False, True]]), place_of("second from the left"))
    array([[False, False,  True]])
    >>> counted(np.array([[True, False, True, False, True]]), place_of("the two left dots"))
    array([[ True, False,  True, False, False]])
    """
    sides = [side for side in place.sides if side in _AXES]
    last = place.ordinal or place.count
    if not sides or last is None:
        return mask
    regions = label(mask)
    if last > regions.max():
        return mask
    axis, sign = _AXES[sides[0]]
    order = sorted(regionprops(regions), key=lambda region: -sign * region.centroid[axis])
    first = last - 1 if place.ordinal else 0
    return np.isin(regions, [region.label for region in order[first:last]])


def _relates(words: Sequence[str], at: int) -> bool:
    """ "left of X", but not "left of the image" nor "the left of two"."""
    after = [word for word in words[at + 1 : at + 5] if word not in ("the", "most", "side", "hand")]
    whole = {"image", "picture", "photo", "pic", "screen", "frame", "two", "three", "all", "them"}
    return len(after) > 1 and after[0] == "of" and after[1] not in whole
