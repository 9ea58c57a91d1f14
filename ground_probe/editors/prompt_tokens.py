"""From a phrase in an instruction to the keys that carry it, through tokenizer offsets.

Nothing is tokenized a second time: what the pipeline's own tokenizers and text encoders do is
recorded while it runs, so that chat templates, padding and dropped prefixes come for free.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ground_probe.editors.phrases import Span, locate
from ground_probe.editors.tokenized import Tokenized, tokenizers_of
from ground_probe.editors.wrapping import wrapped
from ground_probe.errors import PhraseError, UnknownWordsWarning


class Keys(NamedTuple):
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
    layers: tuple[Float[Tensor, "instruction _"], ...] = field(repr=False)
    unknown: tuple[str, ...] = ()

    def dropped(self, layer: Tensor, text: Tensor) -> tuple[int, list[str]] | None:
        """How many rows before the instruction the pipeline drops, and which tokens of the phrase.

        The pipeline may cut the beginning off and joins what it keeps, so one shift holds for all
        rows; the last of the best, for templates come before.
        """
        width = layer.shape[1]
        if width > text.shape[1]:
            return None
        same = torch.stack([(text[:, :width] == row).all(-1) for row in layer.to(text)]).cpu()
        if not same.any():
            return None
        row, key = same.nonzero().T
        shifts, counts = (key - row).unique(return_counts=True)
        shift = int(shifts[counts == counts.max()][-1])
        there = set(row[key - row == shift].tolist())
        tokens = zip(self.at, self.tokens, strict=True)
        return self.first - shift, [t for at, t in tokens if at - self.first not in there]


class Recorder:
    """Records every tokenization and every text encoding of a pipeline for one instruction.

    Args:
        instruction: what the editor is told; must reach a tokenizer as it is.
        phrase: see `locate`.
    """

    def __init__(self, instruction: str, phrase: str | Span | None = None) -> None:
        self.instruction = instruction
        self.span = locate(instruction, phrase)
        self._tokenized: list[Tokenized] = []
        self._encoded: list[_Encoded] = []
        self._lost: list[str] = []
        self._layers: list[Tensor] = []

    @contextmanager
    def recording(self, pipeline: Any) -> Iterator[None]:
        """Record what the pipeline's tokenizers and text encoders do, until the block is left."""
        with ExitStack() as stack:
            for tokenizer in tokenizers_of(pipeline):
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
                dropped, gone = place
                if gone:
                    lost = lost or gone
                    continue
                if encoded.unknown:
                    warnings.warn(
                        "the editor's tokenizer does not know "
                        f"{', '.join(map(repr, encoded.unknown))} of {self.instruction!r}: they "
                        "all are one token to it, so nothing refers to them",
                        UnknownWordsWarning,
                        stacklevel=2,
                    )
                phrase = torch.tensor(encoded.at) - dropped
                padding = torch.tensor(encoded.padding, dtype=torch.long) - dropped
                padding = padding[(padding >= 0) & (padding < len(text))]
                return Keys(phrase.to(text.device), encoded.tokens, padding.to(text.device))
        words = self.instruction[slice(*self.span)]
        if self._lost:
            raise PhraseError(f"phrase {words!r} lost its tokens: {self._lost[-1]}")
        if not self.texts:
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
        return [text.text for text in self._tokenized if self.instruction in text.text]

    def _tokenize(
        self, tokenizer: Any, encode: Callable, text: Any = None, *args: Any, **more: Any
    ) -> Any:
        encoding = encode(text, *args, **more)
        texts = [text] if isinstance(text, str) else text or ()
        for one, encoded in zip(texts, getattr(encoding, "encodings", None) or (), strict=False):
            if isinstance(one, str):
                self._tokenized.append(Tokenized(one, encoded, tokenizer.unk_token_id))
        return encoding

    def _pass_layer(self, layer: nn.Module, args: tuple, output: Any) -> None:
        self._layers += _tensors(output)

    def _encode(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        layers, self._layers = self._layers, []
        ids = kwargs.get("input_ids", args[0] if args else None)
        if not isinstance(ids, Tensor) or ids.ndim != 2:
            return
        states = [s for s in (*_tensors(output), *layers) if s.shape[:2] == ids.shape]
        candidates = [text for text in self._tokenized if self.instruction in text.text]
        for row, row_ids in enumerate(ids.tolist()):
            # Pipelines also encode without padding, to warn of truncation: prefer what was used.
            for text in sorted(candidates, key=lambda text: text.encoding.ids != row_ids):
                shift = text.position_in(row_ids)
                if shift is not None:
                    self._keep(text, shift, [state[row] for state in states])
                    break

    def _keep(self, text: Tokenized, shift: int, layers: list[Tensor]) -> None:
        begin = text.text.rfind(self.instruction)
        start, stop = begin + self.span[0], begin + self.span[1]
        phrase, encoding = text.within(start, stop), text.encoding
        if not phrase:
            kept = [t for t, (a, b) in zip(encoding.tokens, encoding.offsets, strict=True) if b > a]
            self._lost.append(f"the text is cut at {len(encoding.ids)} tokens, which keep {kept}")
            return
        whole = text.within(begin, min(begin + len(self.instruction), text.reach)) or phrase
        rows = slice(whole[0] + shift, whole[-1] + shift + 1)
        self._encoded.append(
            _Encoded(
                at=tuple(i + shift for i in phrase),
                tokens=tuple(encoding.tokens[i] for i in phrase),
                padding=tuple(i + shift for i, m in enumerate(encoding.attention_mask) if not m),
                first=rows.start,
                layers=tuple(layer[rows].detach() for layer in layers),
                unknown=tuple(text.unknown_words(start, stop)),
            )
        )


def _tensors(output: Any) -> list[Tensor]:
    leaves = tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim == 3]
