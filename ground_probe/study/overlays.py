"""Attention to the phrase over a whole image: one head's, or the mean of a block's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ground_probe.capture import Trace, trace
from ground_probe.datasets.example import RefExample
from ground_probe.editors import Editor, fill
from ground_probe.probes import hard_labels
from ground_probe.study.spec import Spec
from ground_probe.study.workers import each_image


class Overlay(NamedTuple):
    """A map of attention and where it is highest.

    Args:
        pixels: from 0 to 1 between its least and its most.
        on_referent: whether the highest token of the whole grid lies on the referent.
        highest_share: of the map's mass, that the highest token takes; a sink's is large.
    """

    pixels: Float[np.ndarray, "height width"]
    on_referent: bool
    highest_share: float


def attention_overlays(
    editor: Editor,
    split: Sequence[RefExample],
    spec: Spec,
    heads: Sequence[tuple[str, int | None]],
    workers: int = 0,
) -> list[list[Overlay]]:
    """How much each place attends to the expression: a list an example, with an overlay a head.

    A head is (block, number), chosen elsewhere; None for the mean of a block's heads. They are read
    at the first of the spec's steps.
    """

    def of_example(position: int) -> list[Overlay]:
        example = split[position]
        traced = trace(
            editor,
            example.image,
            *fill(spec.template, example.expression),
            blocks=list(dict.fromkeys(block for block, _ in heads)),
            steps=spec.steps[:1],
            streams=(),
            num_steps=spec.num_steps,
            seed=spec.noise_seed(example.key),
        )
        return [_overlay(traced, example, block, head) for block, head in heads]

    return list(each_image(editor, of_example, range(len(split)), workers))


def _overlay(traced: Trace, example: RefExample, block: str, head: int | None) -> Overlay:
    stream = "reference" if "reference" in traced.layout.grids else "noise"
    maps = traced.attention[block, traced.steps[0]][:, traced.image_tokens(stream)].float().sum(-1)
    mass = (maps.mean(0) if head is None else maps[head]).numpy()
    geometry = traced.grid(stream, block)
    target, _ = hard_labels(geometry.soft_labels(example.mask))
    pixels = geometry.to_pixels(mass.reshape(geometry.grid))
    least, span = pixels.min(), max(float(np.ptp(pixels)), 1e-12)
    highest = int(mass.argmax())
    share = float(mass[highest] / max(mass.sum(), 1e-30))
    return Overlay((pixels - least) / span, bool(target.ravel()[highest]), share)
