"""Which heads ground: attention head by head, chosen on val, reported on test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import methodcaller
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm import tqdm

from ground_probe.capture import Trace, trace
from ground_probe.capture.layout import carrier_of
from ground_probe.datasets.example import RefExample
from ground_probe.editors import Editor, fill
from ground_probe.errors import InputError
from ground_probe.probes import hard_labels
from ground_probe.study.samples import Samples
from ground_probe.study.spec import Spec
from ground_probe.study.stack import LABELS, Scored, Stack
from ground_probe.study.table import summarize
from ground_probe.study.workers import each_image

MEAN = "mean"
_CHOICE = ["map", "metric", "labels"]


def head_table(fit: Samples, test: Samples) -> pd.DataFrame:
    """What each head's attention scores, nothing fitted, beside the mean over the heads.

    Both collections are with `heads=True`.

    Returns:
        map ("attention" of image tokens to the phrase, or "attention_from_text"), metric ("auc" of
        the sampled tokens, or "pointing": the share of images whose highest token, of the whole
        grid or (grounding) of all tokens on objects, is the referent's), labels, block, stream,
        step, sigma, head (a number, or "mean"), split, value, low, high, n_images.
    """
    stack, scored = Stack.of([fit, test]), list[Scored]()
    for cell in tqdm(fit.cells, desc="heads", leave=False):
        for kind in fit.maps:
            maps = stack.read(methodcaller("attention_heads", kind, cell))
            if maps.shape[1] == 1:
                raise InputError("the samples hold one map a block: collect with heads=True")
            where = fit.where(cell)
            hits = stack.read(methodcaller("pointing", kind, cell))
            heads = [(MEAN, np.nanmean(maps, axis=1)), *enumerate(maps.T)]
            for (head, scores), hit in zip(heads, hits.swapaxes(0, 1), strict=True):
                if np.isnan(scores).all():  # a block with fewer heads than another
                    continue
                name = f"{kind}/{head}"
                scored += stack.aucs(scores, probe=f"{name}/auc", **where)
                scored += _hits(stack, hit, probe=f"{name}/pointing", **where)
    table = summarize(stack.table(scored))
    table[["map", "head", "metric"]] = table.pop("probe").str.split("/", expand=True).to_numpy()
    return table.drop(columns=["control", "seed"])


def chosen_heads(table: pd.DataFrame) -> pd.DataFrame:
    """The head that is best on val, and the best mean over heads, as they are on test.

    Returns:
        test rows of a table from `head_table`, two for each map, metric, label set and stream, with
        `chosen` ("one head" or "mean of heads") and `val`, the value that they were chosen by.
    """
    parts = []
    for chosen, rows in table.groupby(np.where(table["head"] == MEAN, "mean of heads", "one head")):
        val = rows[(rows.split == "val") & rows.value.notna()]
        best = val.loc[val.groupby([*_CHOICE, "stream"])["value"].idxmax()]
        keys = [*_CHOICE, "stream", "block", "head"]
        best = best[[*keys, "value"]].rename(columns={"value": "val"})
        parts.append(best.merge(rows[rows.split == "test"], on=keys).assign(chosen=chosen))
    return pd.concat(parts, ignore_index=True).sort_values([*_CHOICE, "stream", "chosen"])


def _hits(stack: Stack, hits: np.ndarray, **about: Any) -> Iterator[Scored]:
    """The pointing game of the whole grid, image by image."""
    first = np.unique(stack.example, return_index=True)[1]
    for labels in stack.questions:
        values = pd.Series(hits[first, LABELS.index(labels)]).groupby(stack.group[first]).mean()
        yield {"labels": labels, **about}, values.index.to_numpy(), values.to_numpy()


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
    stream = carrier_of(traced.layout.grids)
    maps = traced.attention[block, traced.steps[0]][:, traced.image_tokens(stream)].float().sum(-1)
    mass = (maps.mean(0) if head is None else maps[head]).numpy()
    geometry = traced.grid(stream, block)
    target, _ = hard_labels(geometry.soft_labels(example.mask))
    pixels = geometry.to_pixels(mass.reshape(geometry.grid))
    least, span = pixels.min(), max(float(np.ptp(pixels)), 1e-12)
    highest = int(mass.argmax())
    share = float(mass[highest] / max(mass.sum(), 1e-30))
    return Overlay((pixels - least) / span, bool(target.ravel()[highest]), share)
