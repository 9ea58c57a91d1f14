"""From a phrase in an instruction to the keys that carry it, through tokenizer offsets.

Nothing is tokenised a second time: what the pipeline's own tokenizers and text encoders did is
heard while the pipeline runs, so that chat templates, padding and dropped prefixes come for free.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ground_probe.editors.phrases import Span, locate
from ground_probe.errors import PhraseError


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
    """

    text: str
    ids: tuple[int, ...]
    real: tuple[bool, ...]
    spans: tuple[Span, ...]
    tokens: tuple[str, ...]

    @classmethod
    def of(cls, text: str, encoding: Any) -> Heard:
        """From an encoding of a fast tokenizer."""
        real = tuple(bool(mask) for mask in encoding.attention_mask)
        return cls(text, tuple(encoding.ids), real, tuple(encoding.offsets), tuple(encoding.tokens))

    def within(self, start: int, stop: int) -> list[int]:
        """The tokens of a span of the text, or none if it was cut off.

        A token belongs to the span if it stands for any of its characters but white space.
        """
        reach = max((b for (_, b), real in zip(self.spans, self.real, strict=True) if real))
        if reach < stop:
            return []
        return [
            i
            for i, (a, b) in enumerate(self.spans)
            if self.real[i] and self.text[max(a, start) : min(b, stop)].strip()
        ]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The rows that a text encoder returned for a phrase, one candidate for each of its layers."""

    at: tuple[int, ...]
    tokens: tuple[str, ...]
    padding: tuple[int, ...]
    layers: tuple[Float[Tensor, "phrase dim"], ...] = field(repr=False)


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
        from transformers import PreTrainedTokenizerBase

        call = PreTrainedTokenizerBase.__call__

        def tokenize(tokenizer, text=None, *args, **kwargs):
            encoding = call(tokenizer, text, *args, **kwargs)
            self._hear([text] if isinstance(text, str) else text, encoding)
            return encoding

        with ExitStack() as stack:
            stack.enter_context(patch.object(PreTrainedTokenizerBase, "__call__", tokenize))
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
        for encoded in reversed(self._encoded):
            for layer in encoded.layers:
                found = _find(layer, text)
                if found is not None:
                    dropped = encoded.at[0] - int(found[0])
                    padding = torch.tensor(encoded.padding, dtype=torch.long) - dropped
                    padding = padding[(padding >= 0) & (padding < len(text))]
                    return Keys(found, encoded.tokens, padding.to(text.device))
        words = self.instruction[slice(*self.span)]
        if self._lost:
            raise PhraseError(f"phrase {words!r} lost its tokens: {self._lost[-1]}")
        if not any(self.instruction in heard.text for heard in self._heard):
            raise PhraseError(
                f"the instruction {self.instruction!r} reached no fast tokenizer as it is: pass "
                "the same string as the prompt, and let the pipeline encode it"
            )
        lost = self._dropped(text)
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

    def _dropped(self, text: Tensor) -> list[str]:
        """The phrase's tokens that are not among the text tokens where others are."""
        for encoded in reversed(self._encoded):
            for layer in encoded.layers:
                there = [_find(row[None], text) is not None for row in layer]
                if any(there):
                    return [t for t, here in zip(encoded.tokens, there, strict=True) if not here]
        return []

    def _hear(self, texts: Any, encoding: Any) -> None:
        for text, one in zip(texts or (), getattr(encoding, "encodings", None) or (), strict=False):
            if isinstance(text, str):
                self._heard.append(Heard.of(text, one))

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
        where = tuple(i + shift for i in inside)
        padding = tuple(i + shift for i, real in enumerate(heard.real) if not real)
        rows = tuple(layer[list(where)].detach() for layer in layers)
        self._encoded.append(_Encoded(where, tuple(heard.tokens[i] for i in inside), padding, rows))


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


def _find(rows: Tensor, text: Tensor) -> Tensor | None:
    """The indices in `text` whose first channels are these rows, if each is there."""
    dim = rows.shape[1]
    if dim > text.shape[1]:
        return None
    same = (text[:, None, :dim] == rows.to(text)[None]).all(-1)
    return same.int().argmax(0) if same.any(0).all() else None


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
