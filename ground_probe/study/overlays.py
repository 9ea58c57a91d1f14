"""Attention to the phrase over a whole image: one head's, or the mean of a block's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from ground_probe.capture import Trace, trace
from ground_probe.capture.sites import blocks_of
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
    *,
    step: int = 0,
    workers: int = 0,
) -> list[list[Overlay]]:
    """How much each place attends to the expression: a list an example, with an overlay a head.

    Args:
        editor: from `load_editor`.
        split: what to look at.
        spec: of the study.
        heads: (block, number) of each, chosen elsewhere; None for the mean of a block's heads.
        step: denoising step, from 0.
        workers: processes, 0 for as many as there are cores.
    """

    def of_example(position: int) -> list[Overlay]:
        example = split[position]
        blocks = list(dict.fromkeys(block for block, _ in heads))
        traced = _traced(editor, example, spec, blocks, step)
        return [_overlay(traced, example, block, head, step) for block, head in heads]

    return list(each_image(editor, of_example, range(len(split)), workers))


def pointing_heads(
    editor: Editor, split: Sequence[RefExample], spec: Spec, *, step: int = 0, workers: int = 0
) -> pd.DataFrame:
    """How often the highest token of the whole grid lies on the referent, by block and head.

    Args:
        editor: from `load_editor`.
        split: val, to choose a head on.
        spec: of the study.
        step: denoising step, from 0.
        workers: processes, 0 for as many as there are cores.

    Returns:
        block, head (a number, or "mean"), pointing: a share of the examples, best first.
    """
    blocks = tuple(blocks_of(editor.denoiser))

    def of_example(position: int) -> dict[tuple[str, int | str], bool]:
        traced = _traced(editor, split[position], spec, blocks, step)
        results = {}
        for block in traced.blocks:
            for head in (None, *range(len(traced.attention[block, step]))):
                overlay = _overlay(traced, split[position], block, head, step)
                results[block, "mean" if head is None else head] = overlay.on_referent
        return results

    every = pd.DataFrame(list(each_image(editor, of_example, range(len(split)), workers)))
    shares = every.mean()
    shares.index = pd.MultiIndex.from_tuples(shares.index, names=["block", "head"])
    return shares.sort_values(ascending=False, kind="stable").rename("pointing").reset_index()


def _traced(
    editor: Editor, example: RefExample, spec: Spec, blocks: Sequence[str], step: int
) -> Trace:
    return trace(
        editor,
        example.image,
        *fill(spec.template, example.expression),
        blocks=list(blocks),
        steps=(step,),
        streams=(),
        num_steps=spec.num_steps,
        seed=spec.noise_seed(example.key),
    )


def _overlay(
    traced: Trace, example: RefExample, block: str, head: int | None, step: int
) -> Overlay:
    stream = "reference" if "reference" in traced.layout.grids else "noise"
    maps = traced.attention[block, step][:, traced.image_tokens(stream)].float().sum(-1)
    mass = (maps.mean(0) if head is None else maps[head]).numpy()
    geometry = traced.grid(stream, block)
    target, _ = hard_labels(geometry.soft_labels(example.mask))
    pixels = geometry.to_pixels(mass.reshape(geometry.grid))
    least, span = pixels.min(), max(float(np.ptp(pixels)), 1e-12)
    highest = int(mass.argmax())
    share = float(mass[highest] / max(mass.sum(), 1e-30))
    return Overlay((pixels - least) / span, bool(target.ravel()[highest]), share)
