"""Attention to a phrase, heard where the fused kernel computes it, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ground_probe.capture.clock import Clock
from ground_probe.capture.edits import Edits
from ground_probe.capture.kernel import Attention, Listening
from ground_probe.capture.layout import Layout
from ground_probe.capture.options import Options
from ground_probe.capture.propagation import Carrier
from ground_probe.capture.record import Record
from ground_probe.capture.sites import attentions_of, key_of

_MASS_ROWS = 256


@dataclass(frozen=True)
class Places:
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
    """

    def __init__(
        self,
        chosen: Mapping[str, frozenset[str]],
        options: Options,
        edits: Edits,
        clock: Clock,
        record: Record,
    ) -> None:
        self._chosen, self._options, self._edits = chosen, options, edits
        self._clock, self._record = clock, record
        self._carrier = Carrier(chosen, options)
        self._modes: list[Listening] = []
        self.phrase: Tensor | None = None  # the phrase's keys among the text's

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
            maps = {b: attention[b, step] for b in self._chosen if (b, step) in attention}
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
        if self.phrase is not None and at.text is not None:
            keys = self.phrase + at.text.start
            call = self._edits.of_attention(name, inside, keys, call)
        if clock.step not in options.steps or name not in self._chosen:
            return call.output()
        if options.propagate and at.text is None and "cond" in clock.roles:
            self._carrier.hold(name, call.one(clock.roles.index("cond")))
        if inside not in self._chosen[name]:
            return call.output()
        lse = None
        if options.attention and keys is not None and "cond" in clock.roles:
            output, lse = call.output_and_lse()
        else:
            output = call.output()
        carry = partial(self._carrier.by_own_heads, name) if options.propagate else None
        for kind, rest, maps in maps_of(
            call, at, options, clock.roles, clock.layout, keys, lse, carry
        ):
            self._record.put(kind, key_of(name, clock.step, *rest), maps)
        return output


def places_of(layout: Layout, call: Attention, cross: bool) -> Places | None:
    """Where the streams lie in an attention; None if it is not one of image tokens to a stream.

    Args:
        layout: of the denoiser's call.
        call: the attention.
        cross: whether its keys come from outside the image, in a denoiser that is not joint.
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


def maps_of(
    call: Attention,
    at: Places,
    options: Options,
    roles: Sequence[str],
    layout: Layout,
    phrase: Tensor | None,
    lse: Tensor | None,
    carry: Callable[..., Iterator[tuple[str, Tensor]]] | None,
) -> Iterator[tuple[str, tuple[str, ...], Tensor]]:
    """(kind, rest of the site, map) of each map that is asked for and that this attention has.

    Args:
        call: the attention.
        at: where its streams lie.
        options: what is asked for.
        roles: of the rows of its batch.
        layout: of the denoiser's call.
        phrase: the phrase's keys, in the attention's own count.
        lse: every row's log-sum-exp, if the phrase's keys are asked for.
        carry: carries the block's map on, if that is asked for.
    """
    mean = options.attention == "mean"
    for row, role in enumerate(roles):
        one = call.one(row)
        if lse is not None and role == "cond":
            probabilities = one.to_keys(lse[row, None], at.rows, phrase)[0]
            yield "attention", (role,), _over_heads(probabilities, mean)
            if carry is not None:
                for stream, maps in carry(one, at.rows, layout, probabilities):
                    yield "propagated", (stream,), _over_heads(maps, mean)
            if at.image is not None:
                rows = one.from_rows(phrase)[0, ..., at.image]
                yield "attention_from_text", (role,), _over_heads(rows, mean)
        if role not in options.roles:
            continue
        if len(options.affinity) and at.image is not None:
            chosen = _affinity_rows(options.affinity, at.rows, layout)
            yield "affinity", (role,), _by_head(one, chosen, mean, lambda p: p[..., at.image])
        if options.mass and at.text is not None:
            count = min(_MASS_ROWS, at.rows.stop - at.rows.start)
            sample = torch.linspace(at.rows.start, at.rows.stop - 1, count).long()
            sample = sample.to(call.query.device)
            yield "key_mass", (role,), _by_head(one, sample, mean, lambda p: p.mean(2))


def _affinity_rows(chosen: str | Sequence[int], rows: slice, layout: Layout) -> slice | Tensor:
    if not isinstance(chosen, str):
        return torch.as_tensor(list(chosen)) + rows.start
    if not layout.joint:
        return rows
    within = layout.within_image(chosen)
    return slice(rows.start + within.start, rows.start + within.stop)


def _by_head(call: Attention, rows: Any, mean: bool, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """A reduction of whole softmax rows, one head at a time: never all heads at once."""
    heads = range(call.query.shape[1])
    parts = (reduce(call.from_rows(rows, slice(h, h + 1)))[0, 0] for h in heads)
    return sum(parts)[None] / len(heads) if mean else torch.stack(list(parts))


def _over_heads(maps: Tensor, mean: bool) -> Tensor:
    return maps.mean(0, keepdim=True) if mean and len(maps) > 1 else maps
