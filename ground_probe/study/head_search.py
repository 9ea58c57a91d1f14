"""Which attention heads point at what is meant: a fast search on training images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ground_probe.capture import Trace
from ground_probe.segmentation.prior import head_maps
from ground_probe.segmentation.recipe import Head, Recipe, Streams, Words
from ground_probe.study.bench import Bench

MOST = 4
"""Heads in a prior."""
_POOL = 64  # heads that pairs are formed of
_WORDS: tuple[Words, ...] = ("content", "all")
Way = tuple[Streams, Words]


class Fit(NamedTuple):
    """How well heads (depth of its block, number) agree with masks, alone and together.

    `own` are covariances of each head's map with the mask, `among` those of maps with one another.
    """

    heads: list[Head]
    own: Float[np.ndarray, "examples heads"]
    among: Float[np.ndarray, "examples heads heads"]


class HeadSearch:
    """Ranks sets of heads by the correlation of their prior with the mask on the token grid.

    Args:
        bench: whose traces to read; each kind is read once.
        streams: choices of image tokens whose attention is averaged.
    """

    def __init__(self, bench: Bench, streams: Sequence[Streams]) -> None:
        self._bench = bench
        self._ways: list[Way] = list(product(streams, _WORDS))
        self._fits: dict[tuple, dict[Way, Fit]] = {}

    def best(
        self, recipe: Recipe, rows: np.ndarray, count: int, until: float = 1.0
    ) -> Iterator[Recipe]:
        """The recipe with the heads, streams and words that agree best with the masks of some rows.

        So many variants are given, best first, of heads in blocks whose middle lies before `until`.
        """
        key = (recipe.template, recipe.step, recipe.propagation, recipe.normalize)
        if key not in self._fits:
            self._fits[key] = _fit(self._bench, recipe, self._ways)
        candidates = []
        for way, fit in self._fits[key].items():
            inside = np.array([depth < until for depth, _ in fit.heads])
            for chosen, agreement in _greedy(fit, rows, inside):
                candidates.append((agreement, way, tuple(sorted(fit.heads[at] for at in chosen))))
        candidates.sort(key=lambda each: -each[0])
        for _, (streams, words), heads in candidates[:count]:
            yield replace(recipe, prior_streams=streams, words=words, heads=heads)


def _fit(bench: Bench, recipe: Recipe, ways: Sequence[Way]) -> dict[Way, Fit]:
    own: dict[Way, list[Tensor]] = {way: [] for way in ways}
    among: dict[Way, list[Tensor]] = {way: [] for way in ways}
    traces = tqdm(bench.traces(recipe), desc="heads", leave=False)
    for trace, example in zip(traces, bench.examples, strict=True):
        label = torch.as_tensor(trace.geometry.soft_labels(example.mask), dtype=torch.float32)
        label = label.flatten() - label.mean()
        label = label / label.norm().clamp_min(1e-12)
        heads, parts = _parts(trace, bench.blocks, recipe, ways)
        for streams, words in ways:
            maps = sum(parts[stream, words] for stream in streams)
            own[streams, words].append(maps @ label)
            among[streams, words].append(maps @ maps.T)
    return {
        way: _pooled(heads, torch.stack(own[way]).numpy(), torch.stack(among[way]).numpy())
        for way in ways
    }


def _parts(
    trace: Trace, blocks: Sequence[str], recipe: Recipe, ways: Sequence[Way]
) -> tuple[list[Head], dict[tuple[str, Words], Tensor]]:
    """Each head's centered map in every stream and choice of words that the ways are made of."""
    parts = {}
    for stream in sorted({stream for streams, _ in ways for stream in streams}):
        for words in _WORDS:
            one = replace(recipe, prior_streams=(stream,), words=words)
            heads, maps = head_maps(trace, blocks, one)
            parts[stream, words] = maps - maps.mean(-1, keepdim=True)
    return heads, parts


def _pooled(heads: list[Head], own: np.ndarray, among: np.ndarray) -> Fit:
    """The heads that agree best alone: of the hundreds that a large editor has, few need pairs."""
    alone = own / np.sqrt(np.diagonal(among, axis1=1, axis2=2) + 1e-12)
    pool = np.sort(np.argsort(-alone.mean(0))[:_POOL])
    return Fit([heads[at] for at in pool], own[:, pool], among[:, pool][:, :, pool])


def _greedy(fit: Fit, rows: np.ndarray, inside: np.ndarray) -> Iterator[tuple[list[int], float]]:
    """Growing sets of heads, each with its mean correlation with the mask."""
    own, among = fit.own[rows], fit.among[rows]
    chosen: list[int] = []
    sums = np.zeros(len(own)), np.zeros(len(own))
    while len(chosen) < min(MOST, inside.sum()):
        over = sums[0][:, None] + own
        under = sums[1][:, None] + np.diagonal(among, axis1=1, axis2=2)
        under = under + 2 * among[:, :, chosen].sum(-1)
        agreement = (over / np.sqrt(under + 1e-12)).mean(0)
        agreement[~inside | np.isin(np.arange(len(agreement)), chosen)] = -np.inf
        at = int(agreement.argmax())
        sums = over[:, at], under[:, at]
        chosen = [*chosen, at]
        yield chosen, float(agreement[at])
