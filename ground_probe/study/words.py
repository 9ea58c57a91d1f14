"""Classes of an instruction's tokens: what each word does, and which token stands for it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ground_probe.datasets.scenes import COLORS
from ground_probe.editors.phrases import Span, plain
from ground_probe.words import (
    ACTION_WORDS,
    ATTRIBUTES,
    FUNCTION_WORDS,
    ORDINALS,
    PLACE_WORDS,
    RELATION_WORDS,
    word_spans,
)

IN_EXPRESSION = ("head noun", "attribute", "location", "relation", "other noun", "stop word")
CLASSES = (*IN_EXPRESSION, "template", "padding", "end of sequence")
"""The expression's words, the template's, and what the tokenizer adds."""

_CLASS = dict.fromkeys(ATTRIBUTES.union(COLORS), "attribute")
_CLASS |= dict.fromkeys(PLACE_WORDS.union(ORDINALS), "location")
_CLASS |= dict.fromkeys(RELATION_WORDS | ACTION_WORDS, "relation")
_CLASS |= dict.fromkeys(FUNCTION_WORDS, "stop word")


def word_classes(expression: str) -> list[tuple[Span, str]]:
    """Each word's span and class; a side that relates two objects is a relation.

    The head noun ends the first run of words that are nothing else.

    >>> [name for _, name in word_classes("red ring to the left of the star")]
    ['attribute', 'head noun', 'stop word', 'stop word', 'relation', 'stop word', 'stop word', \
'other noun']
    """
    words = [(span, expression[slice(*span)].lower()) for span in word_spans(expression)]
    names = [_CLASS.get(word, "other noun") for _, word in words]
    for i, (_, word) in enumerate(words[:-2]):
        if names[i] == "location" and words[i + 1][1] == "of" and word != "middle":
            names[i] = "relation"
    nouns = [i for i, name in enumerate(names) if name == "other noun"]
    if nouns:
        run = [i for n, i in enumerate(nouns) if i == nouns[0] + n]
        names[run[-1]] = "head noun"
        for i in run[:-1]:
            names[i] = "attribute"
    return [(span, name) for (span, _), name in zip(words, names, strict=True)]


def token_classes(tokens: Sequence[str], instruction: str, phrase: Span) -> list[str]:
    """The class of every token of an instruction, in order, as the tokenizer spells them.

    >>> token_classes(["▁remove", "▁the", "▁ci", "rcle"], "Remove the circle", (7, 17))
    ['template', 'stop word', 'head noun', 'head noun']
    """
    words = word_classes(instruction[slice(*phrase)])
    spans = [((phrase[0] + a, phrase[0] + b), name) for (a, b), name in words]
    text, at, classes = instruction.lower(), 0, []
    for token in tokens:
        piece = plain(token)
        start = text.find(piece, at) if piece else -1
        if start < 0:  # a token that stands for an unknown word
            start = at + len(text[at:]) - len(text[at:].lstrip())
            piece = re.split(r"\W", text[start:], maxsplit=1)[0]
        beyond = "stop word" if phrase[0] <= start < phrase[1] else "template"
        classes.append(next((name for (a, b), name in spans if a <= start < b), beyond))
        at = start + len(piece)
    return classes
