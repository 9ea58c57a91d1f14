"""Attention to a phrase, heard where the fused kernel computes it, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ground_probe.capture.clock import Clock
from ground_probe.capture.edits import Edits
from ground_probe.capture.kernel import Attention, Listening
from ground_probe.capture.layout import Layout
from ground_probe.capture.propagation import Carrier
from ground_probe.capture.record import Record
from ground_probe.capture.sites import attentions_of, key_of

_MASS_ROWS = 256


class Places(NamedTuple):
    """Where the streams lie in an attention.

    Args:
        rows: queries of image tokens.
        text: keys of text tokens; None where an attention has none.
        image: keys of image tokens; None where it has none.
    """

    rows: slice
    text: slice | None
    image: slice | None


class Attentions:
    """The hooks on attention modules.

    1. Before a module runs, a mode is entered that hears F.scaled_dot_product_attention.
    2. Each call that is one of image tokens to a stream is edited, then computed by the kernel that
       PyTorch would choose, and the maps that were asked for are taken from its log-sum-exp.
    3. After the module, errors included, the mode is left.

    Attributes:
        phrase: the phrase's keys among the text's, once they are known.
    """

    def __init__(self, record: Record, edits: Edits, clock: Clock) -> None:
        self._record, self._edits, self._clock = record, edits, clock
        self._options = record.options
        self._carrier = Carrier(record.blocks, record.options)
        self._modes: list[Listening] = []
        self.phrase: Tensor | None = None

    def listen(self, name: str, block: nn.Module) -> Iterator[Any]:
        """Register the hooks of a block's attention modules, and yield their handles."""
        for inside, module in attentions_of(block).items():
            enter = partial(self._enter, name, inside)
            yield module.register_forward_pre_hook(enter, with_kwargs=True)
            yield module.register_forward_hook(self._leave, always_call=True)

    def block_ran(self, name: str) -> None:
        """Carry a UNet's maps on once its last block has run."""
        step, kind = self._clock.step, "propagated"
        if self._record.awaits(kind, key_of(name, step, "noise")):
            attention = self._record.trace.attention
            maps = {b: attention[b, step] for b in self._record.blocks if (b, step) in attention}
            for block, carried in self._carrier.by_finest(name, self._clock.layout, maps):
                self._record.put(kind, key_of(block, step, "noise"), carried)

    def let_go(self) -> None:
        """Leave every mode: an interrupt skips their own exits."""
        while self._modes:
            self._leave()

    def _enter(self, name: str, inside: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if self._clock.step not in self._options.steps and not self._options.edits:
            return  # hearing slows a step down that nobody asked for
        # An attention is given these if its keys come from elsewhere than its queries.
        others = kwargs.get("encoder_hidden_states", args[1] if len(args) > 1 else None)
        self._modes.append(Listening(partial(self._heard, name, inside, others is not None)))
        self._modes[-1].__enter__()

    def _leave(self, *_: Any) -> None:
        if self._modes:
            self._modes.pop().__exit__(None, None, None)

    def _heard(self, name: str, inside: str, cross: bool, call: Attention) -> Tensor:
        clock, options = self._clock, self._options
        at = places_of(clock.layout, call, cross)
        if at is None:
            return call.output()
        keys = None
        if self.phrase is not None and at.text is not None and "cond" in clock.roles:
            keys = self.phrase + at.text.start
            call = self._edits.of_attention(name, inside, keys, call)
        modules = self._record.blocks.get(name)
        if clock.step not in options.steps or modules is None:
            return call.output()
        if options.propagate and at.text is None and "cond" in clock.roles:
            self._carrier.hold(name, call.one(clock.roles.index("cond")))
        if inside not in modules:
            return call.output()
        if options.attention and keys is not None:
            output, lse = call.output_and_lse()
            row = clock.roles.index("cond")
            self._keep_phrase(name, call.one(row), at, keys, lse[row, None])
        else:
            output = call.output()
        for row, role in enumerate(clock.roles):
            if role in options.roles:
                self._keep_rows(name, role, call.one(row), at)
        return output

    def _keep_phrase(
        self, name: str, call: Attention, at: Places, keys: Tensor, lse: Tensor
    ) -> None:
        """Keep the maps to and from the phrase, carried on where that is asked for."""
        layout = self._clock.layout
        maps = call.to_keys(lse, at.rows, keys)[0]
        self._put("attention", name, "cond", self._over_heads(maps))
        if self._options.propagate:
            carried = self._carrier.by_own_heads(name, call, at.rows, layout, maps)
            for stream, maps_of_stream in carried:
                self._put("propagated", name, stream, self._over_heads(maps_of_stream))
        if at.image is not None:
            from_text = call.from_rows(keys)[0, ..., at.image]
            self._put("attention_from_text", name, "cond", self._over_heads(from_text))

    def _keep_rows(self, name: str, role: str, call: Attention, at: Places) -> None:
        """Keep what whole softmax rows are needed for."""
        affinity = self._options.affinity
        if len(affinity) and at.image is not None:
            rows = _affinity_rows(affinity, at.rows, self._clock.layout)
            self._put("affinity", name, role, self._by_head(call, rows, lambda p: p[..., at.image]))
        if self._options.mass and at.text is not None:
            count = min(_MASS_ROWS, at.rows.stop - at.rows.start)
            sample = torch.linspace(at.rows.start, at.rows.stop - 1, count).long()
            sample = sample.to(call.query.device)
            self._put("key_mass", name, role, self._by_head(call, sample, lambda p: p.mean(2)))

    def _put(self, kind: str, name: str, rest: str, maps: Tensor) -> None:
        self._record.put(kind, key_of(name, self._clock.step, rest), maps)

    def _over_heads(self, maps: Tensor) -> Tensor:
        mean = self._options.attention == "mean" and len(maps) > 1
        return maps.mean(0, keepdim=True) if mean else maps

    def _by_head(self, call: Attention, rows: Any, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """A reduction of whole softmax rows, one head at a time: never all heads at once."""
        heads = range(call.query.shape[1])
        parts = (reduce(call.from_rows(rows, slice(h, h + 1)))[0, 0] for h in heads)
        if self._options.attention == "mean":
            return sum(parts)[None] / len(heads)
        return torch.stack(list(parts))


def places_of(layout: Layout, call: Attention, cross: bool) -> Places | None:
    """Where the streams lie in an attention; None if it is not one of image tokens to a stream.

    In a denoiser that is not joint, the keys of a cross-attention come from outside the image.
    """
    queries, keys = call.query.shape[2], call.key.shape[2]
    if layout.joint:
        text, image = layout.within_sequence()
        whole = layout.text + layout.image
        return Places(image, text, image) if (queries, keys) == (whole, whole) else None
    rows = slice(0, queries)
    if not cross:
        return Places(rows, None, rows)
    # Adapters attend to tokens of their own by a second call from the same module.
    return Places(rows, slice(0, keys), None) if keys == layout.text else None


def _affinity_rows(chosen: str | Sequence[int], rows: slice, layout: Layout) -> slice | Tensor:
    if not isinstance(chosen, str):
        return torch.as_tensor(list(chosen)) + rows.start
    if not layout.joint:
        return rows
    within = layout.within_image(chosen)
    return slice(rows.start + within.start, rows.start + within.stop)
