"""Words of an expression: the only lists of them, and the only way to find them in a text."""

from __future__ import annotations

import re
from unicodedata import category


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


FUNCTION_WORDS = _listed(
    """a an the this that these those is are was be being been has have had of in on at to by from
    with and or for its his her their it he she they who which what there"""
)
"""English words that name nothing."""

PLACE_WORDS = _listed(
    """left leftmost lefthand right rightmost righthand top topmost upper uppermost up bottom
    bottommost lower lowermost lowest down middle center centre central corner side edge end front
    back far farthest near nearest closest"""
)
"""Words that say where in the image something lies."""

RELATION_WORDS = _listed("above below under over behind beside between next inside outside around")
"""Words that say how something lies to another thing."""

LOCATION_WORDS = PLACE_WORDS | RELATION_WORDS
"""Words that say where something lies; what expressions are broken down by."""

ACTION_WORDS = _listed("holding wearing riding sitting standing facing touching")
"""Words that relate something to another thing by what it does."""

ATTRIBUTES = _listed(
    """big large small little tall short long tiny huge dark light bright striped plaid black white
    gray grey brown pink beige gold silver tan old young"""
)
"""Words that say what something is like."""

ORDINALS = _listed("first 1st second 2nd third 3rd fourth 4th")

# Han, kana, Thai and Lao, Burmese, Khmer: no spaces tell where a word ends.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_APOSTROPHES = "'\u2019"
_JOINERS = "\u200c\u200d"


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each word of a text begins and ends, in characters.

    A word is a run of letters and digits of any script, with their marks and the apostrophes in
    it. Scripts that are written without spaces have a word for each letter.

    >>> texts = "the man's hat", "कुत्ता", "左の人"
    >>> [text[slice(*span)] for text in texts for span in word_spans(text)]
    ['the', "man's", 'hat', 'कुत्ता', '左', 'の', '人']
    """
    spans: list[tuple[int, int]] = []
    joined = False  # whether a letter here would belong to the last word
    for at, character in enumerate(text):
        kind = category(character)[0]
        attached = bool(spans) and spans[-1][1] == at
        inside = joined and text[at + 1 : at + 2].isalnum()
        if kind in "LN":
            unspaced = _UNSPACED.match(character) is not None
            if joined and attached and not unspaced:
                spans[-1] = spans[-1][0], at + 1
            else:
                spans.append((at, at + 1))
            joined = not unspaced
        elif attached and (
            kind == "M" or character in _JOINERS or (inside and character in _APOSTROPHES)
        ):
            spans[-1] = spans[-1][0], at + 1
        else:
            joined = False
    return spans


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; a text without letters (an emoji) is one word.

    >>> words_of("The cup, top-left"), words_of("🦊"), words_of(" ")
    (['the', 'cup', 'top', 'left'], ['🦊'], [])
    """
    words = [text[slice(*span)].lower() for span in word_spans(text)]
    return words or ([text.strip()] if text.strip() else [])
