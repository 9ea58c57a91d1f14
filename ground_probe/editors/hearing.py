"""From a phrase in an instruction to the keys that carry it, through tokenizer offsets.

Nothing is tokenised a second time: what the pipeline's own tokenizers and text encoders did is
heard while the pipeline runs, so that chat templates, padding and dropped prefixes come for free.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ground_probe.editors.phrases import Span, locate
from ground_probe.editors.wrapping import wrapped
from ground_probe.errors import PhraseError, UnknownWordsWarning
from ground_probe.words import FUNCTION_WORDS, word_spans


@dataclass(frozen=True, slots=True)
class Keys:
    """Where an instruction lies among the denoiser's text tokens.

    Args:
        phrase: indices of the phrase's tokens, in order.
        tokens: their strings, as the tokenizer spells them.
        padding: indices of the text tokens that are padding.
    """

    phrase: Int[Tensor, " phrase"]
    tokens: tuple[str, ...]
    padding: Int[Tensor, " padding"]


@dataclass(frozen=True, slots=True)
class Heard:
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
    def of(cls, text: str, encoding: Any, unknown: int | None = None) -> Heard:
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


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The rows that a text encoder returned for an instruction, a candidate for each layer.

    Args:
        at: where the phrase's tokens stand in the encoder's input.
        tokens: their strings.
        padding: where its padding stands.
        first: where the instruction begins.
        layers: the instruction's rows, for they tell equal phrases in it apart.
        unknown: words of the phrase that the tokenizer does not know.
    """

    at: tuple[int, ...]
    tokens: tuple[str, ...]
    padding: tuple[int, ...]
    first: int
    layers: tuple[Float[Tensor, "instruction dim"], ...] = field(repr=False)
    unknown: tuple[str, ...] = ()

    def dropped(self, layer: Tensor, text: Tensor) -> tuple[int, list[bool]] | None:
        """How many rows before the instruction the pipeline drops, and which rows are there.

        The pipeline may cut the beginning off and joins what it keeps, so one shift holds for all
        rows; the last of the best, for templates come before.
        """
        same = _same(layer, text)
        if same is None or not same.any():
            return None
        row, key = same.nonzero().T
        shifts, counts = (key - row).unique(return_counts=True)
        shift = int(shifts[counts == counts.max()][-1])
        there = [0 <= i + shift < len(text) and bool(same[i, i + shift]) for i in range(len(layer))]
        return self.first - shift, there


class Recorder:
    """Hears every tokenisation and every text encoding of a pipeline for one instruction.

    Args:
        instruction: what the editor is told; must reach a tokenizer as it is.
        phrase: see `locate`.
    """

    def __init__(self, instruction: str, phrase: str | Span | None = None) -> None:
        self.instruction = instruction
        self.span = locate(instruction, phrase)
        self._heard: list[Heard] = []
        self._encoded: list[_Encoded] = []
        self._lost: list[str] = []
        self._layers: list[Tensor] = []

    @contextmanager
    def listening(self, pipeline: Any) -> Iterator[None]:
        """Hear what the pipeline's tokenizers and text encoders do, until the block is left."""
        with ExitStack() as stack:
            for tokenizer in _tokenizers(pipeline):
                stack.enter_context(
                    wrapped(tokenizer, "_encode_plus", partial(self._tokenize, tokenizer))
                )
            for name, module in pipeline.components.items():
                if "text_encoder" in name and isinstance(module, nn.Module):
                    handles = [module.register_forward_hook(self._encode, with_kwargs=True)]
                    # Some pipelines take the last layer's states from before the final norm.
                    for part in module.modules():
                        if isinstance(part, nn.ModuleList) and len(part):
                            handles.append(part[-1].register_forward_hook(self._pass_layer))
                    for handle in handles:
                        stack.callback(handle.remove)
            yield

    def keys(self, text: Float[Tensor, "tokens dim"]) -> Keys:
        """The keys of the phrase among the text tokens that the denoiser is given.

        Raises:
            PhraseError: the phrase was cut off, or no text encoder's rows are found in `text`.
        """
        lost: list[str] = []
        for encoded in reversed(self._encoded):
            for layer in encoded.layers:
                place = encoded.dropped(layer, text)
                if place is None:
                    continue
                dropped, there = place
                gone = [
                    token
                    for at, token in zip(encoded.at, encoded.tokens, strict=True)
                    if not there[at - encoded.first]
                ]
                if gone:
                    lost = lost or gone
                    continue
                self._warn(encoded.unknown)
                phrase = torch.tensor(encoded.at) - dropped
                padding = torch.tensor(encoded.padding, dtype=torch.long) - dropped
                padding = padding[(padding >= 0) & (padding < len(text))]
                return Keys(phrase.to(text.device), encoded.tokens, padding.to(text.device))
        words = self.instruction[slice(*self.span)]
        if self._lost:
            raise PhraseError(f"phrase {words!r} lost its tokens: {self._lost[-1]}")
        if not any(self.instruction in heard.text for heard in self._heard):
            raise PhraseError(
                f"the instruction {self.instruction!r} reached no fast tokenizer as it is: pass "
                "the same string as the prompt, and let the pipeline encode it"
            )
        if lost:
            raise PhraseError(
                f"phrase {words!r} lost its tokens {lost}: the pipeline drops them with its "
                "template; begin the instruction with words that may be lost"
            )
        raise PhraseError(
            f"the rows of {words!r} are not among the denoiser's text tokens: the pipeline changes "
            "them after its text encoder, so its keys cannot be told"
        )

    @property
    def texts(self) -> list[str]:
        """The texts that were encoded with the instruction in them."""
        return [heard.text for heard in self._heard if self.instruction in heard.text]

    def _warn(self, words: Sequence[str]) -> None:
        if words:
            warnings.warn(
                f"the editor's tokenizer does not know {', '.join(map(repr, words))} of "
                f"{self.instruction!r}: they all are one token to it, so nothing refers to them",
                UnknownWordsWarning,
                stacklevel=2,
            )

    def _tokenize(
        self, tokenizer: Any, encode: Callable, text: Any = None, *args: Any, **more: Any
    ) -> Any:
        encoding = encode(text, *args, **more)
        texts = [text] if isinstance(text, str) else text
        for one, encoded in zip(
            texts or (), getattr(encoding, "encodings", None) or (), strict=False
        ):
            if isinstance(one, str):
                self._heard.append(Heard.of(one, encoded, tokenizer.unk_token_id))
        return encoding

    def _pass_layer(self, layer: nn.Module, args: tuple, output: Any) -> None:
        self._layers += _tensors(output)

    def _encode(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        layers, self._layers = self._layers, []
        ids = kwargs.get("input_ids", args[0] if args else None)
        if not isinstance(ids, Tensor) or ids.ndim != 2:
            return
        states = [s for s in (*_tensors(output), *layers) if s.shape[:2] == ids.shape]
        for row, row_ids in enumerate(ids.tolist()):
            told = [heard for heard in self._heard if self.instruction in heard.text]
            # Pipelines also encode without padding, to warn of truncation: prefer what was used.
            for heard in [h for h in told if list(h.ids) == row_ids] or told:
                shift = _position(heard, row_ids)
                if shift is not None:
                    at = heard.text.rfind(self.instruction)
                    self._keep(heard, at, shift, [state[row] for state in states])
                    break

    def _keep(self, heard: Heard, at: int, shift: int, layers: list[Tensor]) -> None:
        inside = heard.within(at + self.span[0], at + self.span[1])
        if not inside:
            kept = [t for t, (a, b) in zip(heard.tokens, heard.spans, strict=True) if b > a]
            self._lost.append(f"the text is cut at {len(heard.ids)} tokens, which keep {kept}")
            return
        told = heard.within(at, min(at + len(self.instruction), heard.reach)) or inside
        where = slice(told[0] + shift, told[-1] + shift + 1)
        self._encoded.append(
            _Encoded(
                at=tuple(i + shift for i in inside),
                tokens=tuple(heard.tokens[i] for i in inside),
                padding=tuple(i + shift for i, real in enumerate(heard.real) if not real),
                first=where.start,
                layers=tuple(layer[where].detach() for layer in layers),
                unknown=tuple(heard.unknown_words(at + self.span[0], at + self.span[1])),
            )
        )


def unknown_words(pipeline: Any, texts: Sequence[str]) -> list[list[str]]:
    """The words of each text that one of a pipeline's tokenizers does not know.

    Words that name nothing are left out, and tokenizers that know every word take no time.
    """
    words: list[list[str]] = [[] for _ in texts]
    for tokenizer in _tokenizers(pipeline):
        if tokenizer.unk_token_id is None or not texts:
            continue
        encodings = tokenizer(list(texts), add_special_tokens=False, verbose=False).encodings
        for text, encoding, strange in zip(texts, encodings, words, strict=True):
            heard = Heard.of(text, encoding, tokenizer.unk_token_id)
            strange += [w for w in heard.unknown_words(0, len(text)) if w not in strange]
    return words


def _position(heard: Heard, ids: list[int]) -> int | None:
    """Where an encoding starts in the encoder's input, for pipelines that join several."""
    if list(heard.ids) == ids:
        return 0
    real = [i for i, real in zip(heard.ids, heard.real, strict=True) if real]
    first = heard.real.index(True) if real else 0
    for at in range(len(ids) - len(real) + 1 if real else 0):
        if ids[at : at + len(real)] == real:
            return at - first
    return None


def _same(rows: Tensor, text: Tensor) -> Bool[Tensor, "rows text"] | None:
    """Which rows of `text` begin with which of these."""
    dim = rows.shape[1]
    if dim > text.shape[1]:
        return None
    rows = rows.to(text)
    return torch.stack([(text[:, :dim] == row).all(-1) for row in rows]).cpu()


def _tokenizers(pipeline: Any) -> list[Any]:
    """The fast tokenizers of a pipeline, those inside its processors too."""
    parts = pipeline.components.values()
    every = [*parts, *(getattr(part, "tokenizer", None) for part in parts)]
    fast = {id(part): part for part in every if getattr(part, "is_fast", False)}
    return list(fast.values())


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.ndim == 3:
            yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)
