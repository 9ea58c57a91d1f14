"""What is kept of one attention: which rows and keys are meant, and the maps that come of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ground_probe.capture.attention import Attention
from ground_probe.capture.layout import Layout
from ground_probe.capture.wanted import Wanted

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
    wanted: Wanted,
    roles: Sequence[str],
    layout: Layout,
    phrase: Tensor | None,
    lse: Tensor | None,
    carry: Callable[..., Iterator[tuple[str, Tensor]]],
) -> Iterator[tuple[str, tuple[str, ...], Tensor]]:
    """(kind, rest of the site, map) of each map that is asked for and that this attention has.

    Args:
        call: the attention.
        at: where its streams lie.
        wanted: what is asked for.
        roles: of the rows of its batch.
        layout: of the denoiser's call.
        phrase: the phrase's keys, in the attention's own count.
        lse: every row's log-sum-exp, if the phrase's keys are asked for.
        carry: carries the block's map on, if that is asked for.
    """
    mean = wanted.attention == "mean"
    for row, role in enumerate(roles):
        one = call.one(row)
        if lse is not None and role == "cond":
            probabilities = one.to_keys(lse[row, None], at.rows, phrase)[0]
            yield "attention", (role,), _kept(probabilities, mean)
            if wanted.propagate:
                for stream, maps in carry(one, at.rows, layout, probabilities):
                    yield "propagated", (stream,), _kept(maps, mean)
            if at.image is not None:
                rows = one.from_rows(phrase)[0, ..., at.image]
                yield "attention_from_text", (role,), _kept(rows, mean)
        if role not in wanted.roles:
            continue
        if len(wanted.affinity) and at.image is not None:
            chosen = _affinity_rows(wanted.affinity, at.rows, layout)
            yield "affinity", (role,), _by_head(one, chosen, mean, lambda p: p[..., at.image])
        if wanted.mass and at.text is not None:
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
    if mean:
        return _kept(sum(parts)[None] / len(heads), mean)
    return _kept(torch.stack(list(parts)), mean)


def _kept(maps: Tensor, mean: bool) -> Tensor:
    if mean and len(maps) > 1:
        maps = maps.mean(0, keepdim=True)
    return maps.detach().to("cpu", copy=True)
