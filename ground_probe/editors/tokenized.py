"""Texts as a pipeline's own tokenizers encode them: which tokens stand for which characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from ground_probe.words import FUNCTION_WORDS, word_spans


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A text as a tokenizer encoded it.

    Args:
        text: what was encoded.
        encoding: of a fast tokenizer: token ids and strings, the characters of `text` that each
            token stands for, and in its attention mask which of them are no padding.
        unknown: the id that stands for whatever the tokenizer does not know, if there is one.
    """

    text: str
    encoding: tokenizers.Encoding
    unknown: int | None = None

    @property
    def reach(self) -> int:
        """Where the text is cut off."""
        ends = zip(self.encoding.offsets, self.encoding.attention_mask, strict=True)
        return max(stop for (_, stop), real in ends if real)

    def within(self, start: int, stop: int) -> list[int]:
        """The tokens of a span of the text, or none if it was cut off.

        A token belongs to the span if it stands for any of its characters but white space.
        """
        if self.reach < stop:
            return []
        tokens = zip(self.encoding.offsets, self.encoding.attention_mask, strict=True)
        return [
            token
            for token, ((a, b), real) in enumerate(tokens)
            if real and self.text[max(a, start) : min(b, stop)].strip()
        ]

    def unknown_words(self, start: int, stop: int) -> list[str]:
        """The words of a span that the tokenizer does not know, but those that name nothing."""
        ids, offsets = self.encoding.ids, self.encoding.offsets
        if self.unknown is None or self.unknown not in ids:
            return []
        tokens = self.within(start, min(stop, self.reach))
        lost = [offsets[token] for token in tokens if ids[token] == self.unknown]
        spans = [(a, b) for a, b in word_spans(self.text) if any(a < d and c < b for c, d in lost)]
        named = [self.text[a:b] for a, b in spans]
        return [word for word in dict.fromkeys(named) if word.lower() not in FUNCTION_WORDS]

    def position_in(self, ids: list[int]) -> int | None:
        """Where the text starts in an encoder's input, for pipelines that join several."""
        own, mask = self.encoding.ids, self.encoding.attention_mask
        if own == ids:
            return 0
        real = [token for token, is_real in zip(own, mask, strict=True) if is_real]
        first = mask.index(1) if real else 0
        for at in range(len(ids) - len(real) + 1 if real else 0):
            if ids[at : at + len(real)] == real:
                return at - first
        return None


def tokenizers_of(pipeline: Any) -> list[Any]:
    """The fast tokenizers of a pipeline, those inside its processors too."""
    parts = pipeline.components.values()
    every = [*parts, *(getattr(part, "tokenizer", None) for part in parts)]
    fast = {id(part): part for part in every if getattr(part, "is_fast", False)}
    return list(fast.values())


def unknown_words(pipeline: Any, texts: Sequence[str]) -> list[list[str]]:
    """The words of each text that one of a pipeline's tokenizers does not know.

    Words that name nothing are left out, and tokenizers that know every word take no time.
    """
    words: list[list[str]] = [[] for _ in texts]
    for tokenizer in tokenizers_of(pipeline):
        if tokenizer.unk_token_id is None or not texts:
            continue
        encodings = tokenizer(list(texts), add_special_tokens=False, verbose=False).encodings
        for text, encoding, strange in zip(texts, encodings, words, strict=True):
            tokenized = Tokenized(text, encoding, tokenizer.unk_token_id)
            strange += [w for w in tokenized.unknown_words(0, len(text)) if w not in strange]
    return words
