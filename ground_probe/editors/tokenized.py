"""Texts as a pipeline's own tokenizers encode them: which tokens stand for which characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ground_probe.editors.phrases import Span
from ground_probe.words import FUNCTION_WORDS, word_spans


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A text as a tokenizer encoded it.

    Args:
        text: what was encoded.
        ids: of its tokens.
        real: which of them are no padding.
        spans: the half-open characters of `text` that each stands for; empty for special tokens.
        tokens: as the tokenizer spells them.
        unknown: the id that stands for whatever the tokenizer does not know, if there is one.
    """

    text: str
    ids: tuple[int, ...]
    real: tuple[bool, ...]
    spans: tuple[Span, ...]
    tokens: tuple[str, ...]
    unknown: int | None = None

    @classmethod
    def of(cls, text: str, encoding: Any, unknown: int | None = None) -> Tokenized:
        """From an encoding of a fast tokenizer."""
        real = tuple(bool(mask) for mask in encoding.attention_mask)
        ids, spans = tuple(encoding.ids), tuple(encoding.offsets)
        return cls(text, ids, real, spans, tuple(encoding.tokens), unknown)

    @property
    def reach(self) -> int:
        """Where the text is cut off."""
        return max((b for (_, b), real in zip(self.spans, self.real, strict=True) if real))

    def within(self, start: int, stop: int) -> list[int]:
        """The tokens of a span of the text, or none if it was cut off.

        A token belongs to the span if it stands for any of its characters but white space.
        """
        if self.reach < stop:
            return []
        return [
            i
            for i, (a, b) in enumerate(self.spans)
            if self.real[i] and self.text[max(a, start) : min(b, stop)].strip()
        ]

    def unknown_words(self, start: int, stop: int) -> list[str]:
        """The words of a span that the tokenizer does not know, but those that name nothing."""
        if self.unknown is None or self.unknown not in self.ids:
            return []
        stop = min(stop, self.reach)
        lost = [self.spans[i] for i in self.within(start, stop) if self.ids[i] == self.unknown]
        spans = [(a, b) for a, b in word_spans(self.text) if any(a < d and c < b for c, d in lost)]
        named = [self.text[a:b] for a, b in spans]
        return [word for word in dict.fromkeys(named) if word.lower() not in FUNCTION_WORDS]

    def position_in(self, ids: list[int]) -> int | None:
        """Where the text starts in an encoder's input, for pipelines that join several."""
        if list(self.ids) == ids:
            return 0
        real = [i for i, real in zip(self.ids, self.real, strict=True) if real]
        first = self.real.index(True) if real else 0
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
            tokenized = Tokenized.of(text, encoding, tokenizer.unk_token_id)
            strange += [w for w in tokenized.unknown_words(0, len(text)) if w not in strange]
    return words
