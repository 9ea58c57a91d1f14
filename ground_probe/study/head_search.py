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

from ground_probe.segmentation.look import Look
from ground_probe.segmentation.prior import head_maps
from ground_probe.segmentation.recipe import Head, Recipe, Streams
from ground_probe.study.bench import Bench

MOST = 4
"""Heads in a prior."""
_POOL = 64  # heads that pairs are formed of
_BOTH = ("from_image", "from_text")
_WORDS = ("content", "all")
Way = tuple[Streams, str, str]


class Fit(NamedTuple):
    """How well heads agree with masks, alone and together.

    Args:
        heads: (depth of its block, number) of each.
        own: covariance of each head's map with the mask, by example.
        among: covariance of the maps with one another.
    """

    heads: list[Head]
    own: Float[np.ndarray, "examples heads"]
    among: Float[np.ndarray, "examples heads heads"]


class HeadSearch:
    """Ranks sets of heads by the correlation of their prior with the mask on the token grid.

    Args:
        bench: whose looks to read; each kind is read once.
        streams: choices of image tokens whose attention is averaged.
    """

    def __init__(self, bench: Bench, streams: Sequence[Streams]) -> None:
        self._bench = bench
        self._ways: list[Way] = list(product(streams, (*_BOTH, "both"), _WORDS))
        self._fits: dict[tuple, dict[Way, Fit]] = {}

    def best(
        self, recipe: Recipe, rows: np.ndarray, count: int, until: float = 1.0
    ) -> Iterator[Recipe]:
        """The recipe with the heads, streams, direction and words that agree best with the masks.

        Args:
            recipe: whose template, step and contrast is looked at.
            rows: the examples that count.
            count: how many variants to give, best first.
            until: only heads of blocks whose middle lies before this depth.
        """
        found = []
        for way, fit in self._fit(recipe).items():
            inside = np.array([depth < until for depth, _ in fit.heads])
            for chosen, agreement in _greedy(fit, rows, inside):
                found.append((agreement, way, tuple(sorted(fit.heads[at] for at in chosen))))
        found.sort(key=lambda each: -each[0])
        for _, (streams, direction, words), heads in found[:count]:
            yield replace(
                recipe, prior_streams=streams, direction=direction, words=words, heads=heads
            )

    def _fit(self, recipe: Recipe) -> dict[Way, Fit]:
        key = (recipe.template, recipe.magnets, recipe.step, recipe.seeds, recipe.contrast)
        if key not in self._fits:
            plain = replace(recipe, words="content")
            looks, examples = self._bench.looks(plain), self._bench.examples
            labels = [
                seen.geometry.soft_labels(e.mask) for seen, e in zip(looks, examples, strict=True)
            ]
            self._fits[key] = _fit(looks, labels, plain, self._ways)
        return self._fits[key]


def _fit(
    looks: Sequence[Look], labels: Sequence[np.ndarray], recipe: Recipe, ways: Sequence[Way]
) -> dict[Way, Fit]:
    own = {way: [] for way in ways}
    among = {way: [] for way in ways}
    for seen, label in zip(tqdm(looks, desc="heads", leave=False), labels, strict=True):
        label = torch.as_tensor(label, dtype=torch.float32).flatten()
        label = label - label.mean()
        label = label / label.norm().clamp_min(1e-12)
        heads, parts = _parts(seen, recipe, ways)
        for streams, direction, words in ways:
            maps = sum(
                parts[stream, each, words]
                for stream in streams
                for each in (_BOTH if direction == "both" else (direction,))
            )
            own[streams, direction, words].append(maps @ label)
            among[streams, direction, words].append(maps @ maps.T)
    return {
        way: _pooled(heads, torch.stack(own[way]).numpy(), torch.stack(among[way]).numpy())
        for way in ways
    }


def _parts(
    seen: Look, recipe: Recipe, ways: Sequence[Way]
) -> tuple[list[Head], dict[tuple[str, str, str], Tensor]]:
    """Each head's centred map in every stream and direction that the ways are made of."""
    parts = {}
    for stream in sorted({stream for streams, _, _ in ways for stream in streams}):
        for direction, words in product(_BOTH, _WORDS):
            one = replace(recipe, prior_streams=(stream,), direction=direction, words=words)
            heads, maps = head_maps(seen.traces[0], seen.blocks, one)
            parts[stream, direction, words] = maps - maps.mean(-1, keepdim=True)
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
