"""Words of an instruction as spans of its characters."""

from __future__ import annotations

import re

from ground_probe.errors import PhraseError
from ground_probe.words import word_spans

Span = tuple[int, int]

# Hangul's particles follow a noun without a space.
_SUFFIX = re.compile("['\u2019]|(?<=[\uac00-\ud7af])[\uac00-\ud7af]")

# A piece of a word as SentencePiece, byte-level BPE and CLIP mark it.
_MARKS = str.maketrans("", "", "▁Ġ")


def plain(token: str) -> str:
    """A token's letters, without the marks of its tokenizer.

    >>> plain("▁The"), plain("cat</w>")
    ('the', 'cat')
    """
    return token.translate(_MARKS).removesuffix("</w>").lower()


def fill(template: str, expression: str) -> tuple[str, Span]:
    """The instruction that a template makes of an expression, and where the expression lies in it.

    Raises:
        PhraseError: the template has no `{expression}` slot, or the expression is empty.

    >>> fill("Change the color of {expression} to red", "red car")
    ('Change the color of red car to red', (20, 27))
    """
    before, slot, after = template.partition("{expression}")
    expression = " ".join(expression.split())
    if not slot or not expression:
        raise PhraseError(
            f"cannot fill {template!r} with {expression!r}: the template needs one "
            "'{expression}' and the expression at least one word"
        )
    return before + expression + after, (len(before), len(before) + len(expression))


def _whole(text: str, start: int, stop: int) -> bool:
    """Whether a span neither begins nor ends inside a word; a suffix is apart, as in "man's"."""
    inside = {at for a, b in word_spans(text) for at in range(a + 1, b)}
    return not any(at in inside and not _SUFFIX.match(text, at) for at in (start, stop))


def locate(instruction: str, phrase: str | Span | None) -> Span:
    """The half-open character span of a phrase in an instruction.

    Args:
        instruction: what the editor is told.
        phrase: words of the instruction; a span, where the words occur twice; None for all of it.

    Raises:
        PhraseError: the phrase is not there as whole words, or is there more than once.

    >>> locate("make the red circle blue", "red circle")
    (9, 19)
    """
    if phrase is None:
        phrase = (0, len(instruction))
    if not isinstance(phrase, str):
        start, stop = phrase
        if not (0 <= start < stop <= len(instruction) and instruction[start:stop].strip()):
            raise PhraseError(
                f"span {(start, stop)} holds no text of {instruction!r}: give half-open character "
                f"positions between 0 and {len(instruction)}"
            )
        words = instruction[start:stop]
        return start + len(words) - len(words.lstrip()), stop - len(words) + len(words.rstrip())
    words = phrase.strip()
    if not words:
        raise PhraseError("the phrase is empty: give words of the instruction, or None for all")
    matches = re.finditer(re.escape(words), instruction, re.IGNORECASE)
    places = [match.span() for match in matches if _whole(instruction, *match.span())]
    if len(places) == 1:
        return places[0]
    if not places:
        raise PhraseError(
            f"phrase {words!r} is not in the instruction {instruction!r} as whole words: "
            "give words exactly as they stand there"
        )
    raise PhraseError(
        f"phrase {words!r} stands {len(places)} times in {instruction!r}, at {places}: "
        "give the (start, stop) that is meant; `fill` returns it for a template"
    )
