"""Which words the image attends to, and whether their maps point to the referent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ground_probe.capture import Trace, trace
from ground_probe.datasets.example import RefExample
from ground_probe.editors import Editor, fill
from ground_probe.probes import per_image
from ground_probe.stats import bootstrap
from ground_probe.study.reduced import Tokens, sample_tokens
from ground_probe.study.spec import Spec
from ground_probe.study.words import CLASSES, token_classes
from ground_probe.study.workers import each_image

BEYOND = "padding and end"
"""Keys of the text that are no token of the instruction: one map for all of them."""


def attended_words(
    editor: Editor, split: Sequence[RefExample], spec: Spec, workers: int = 0
) -> pd.DataFrame:
    """Attention by class of token at the spec's first step: one row an image, block, stream, class.

    Returns:
        image_id, block, stream, name (one of `CLASSES`, or "padding and end"), tokens: how many;
        mass: the share of an image token's attention that goes to them, of all keys, meaned over
        heads and the image tokens of all streams; auc: of the map for the referent's sampled tokens
        against those of the other objects, NaN where there is none.
    """
    tables = each_image(
        editor, lambda at: list(_of_example(editor, split[at], spec)), range(len(split)), workers
    )
    bar = tqdm(tables, desc="words", unit="image", leave=False, total=len(split))
    return pd.DataFrame([row for rows in bar for row in rows])


def summarize_words(words: pd.DataFrame) -> pd.DataFrame:
    """Means over images with intervals, of `attended_words`: a row a class, block and stream.

    Returns:
        name, block, stream, tokens (mean), mass, mass_per_token, auc, low, high, n_images (of the
        AUC) and n_seen (images that hold such a token).
    """
    rows = []
    for (name, block, stream), of in words.groupby(["name", "block", "stream"], sort=False):
        means = of.groupby("image_id")[["tokens", "mass", "auc"]].mean()
        ((auc,), (low,), (high,)) = bootstrap(means[["auc"]].to_numpy())
        rows.append(
            {
                "name": name,
                "block": block,
                "stream": stream,
                "tokens": means.tokens.mean(),
                "mass": means.mass.mean(),
                "mass_per_token": (means.mass / means.tokens).mean(),
                "auc": auc,
                "low": low,
                "high": high,
                "n_images": means.auc.notna().sum(),
                "n_seen": len(means),
            }
        )
    order = {name: i for i, name in enumerate((*CLASSES, BEYOND))}
    return pd.DataFrame(rows).sort_values("name", key=lambda c: c.map(order), kind="stable")


def sinks(words: pd.DataFrame) -> pd.DataFrame:
    """By block, the class that takes most of the attention to text, and its share.

    A class without meaning that takes half of it or more is called a sink.
    """
    text = words[(words.name != BEYOND) & (words.stream == words.stream.iloc[0])]
    masses = text.groupby("block", sort=False)["mass"]
    most = text.loc[masses.idxmax(), ["block", "name", "mass"]]
    most["share"] = most["mass"].to_numpy() / masses.sum().to_numpy()
    empty = ("stop word", "template", "padding", "end of sequence")
    return most.assign(sink=most.name.isin(empty) & (most.share >= 0.5)).reset_index(drop=True)


def _of_example(editor: Editor, example: RefExample, spec: Spec) -> Iterator[dict[str, Any]]:
    instruction, span = fill(spec.template, example.expression)
    tokens = sample_tokens(editor.geometry(example.image), example, spec.tokens)
    # The sampled tokens among image tokens: those of the noise, then of the reference.
    places = [*tokens.place, *(tokens.place + prod(tokens.grid))]
    traced = trace(
        editor,
        example.image,
        instruction,
        steps=spec.steps[:1],
        streams=(),
        mass=True,
        affinity=list(map(int, places)) if "reference" in editor.family.streams else (),
        num_steps=spec.num_steps,
        seed=spec.noise_seed(example.key),
    )
    names = np.array(token_classes(traced.phrase_tokens, instruction, span))
    objects = tokens.target | tokens.distractor
    target, group = tokens.target[objects], np.zeros(objects.sum())
    for block, stream in product(traced.blocks, traced.layout.grids):
        where = {"image_id": example.image_id, "block": block, "stream": stream}
        for name, count, mass, scores in _classes(traced, tokens, names, block, stream):
            asked = scores is not None and target.any() and not target.all()
            auc = per_image(scores.numpy()[objects], target, group)[0] if asked else np.nan
            yield {**where, "name": name, "tokens": count, "mass": mass, "auc": auc}


def _classes(
    traced: Trace, tokens: Tokens, names: np.ndarray, block: str, stream: str
) -> Iterator[tuple[str, int, float, Any]]:
    """(class, its tokens, its mass, its map at the sampled tokens) that an instruction has."""
    at, step = traced.image_tokens(stream), traced.steps[0]
    every = traced.attention[block, step].mean(0)
    maps = every[at]
    kept = maps[torch.from_numpy(tokens.on(len(maps)))]
    for name in dict.fromkeys(names):
        of = torch.from_numpy(np.flatnonzero(names == name))
        yield name, len(of), float(every[:, of].sum(1).mean()), kept[:, of].sum(1)
    mass = traced.mass(block, step)
    padding = len(traced.padding)
    special = traced.layout.text - len(traced.phrase_keys) - padding
    if padding:
        yield "padding", padding, mass["padding"], None
    if special:
        yield "end of sequence", special, mass["other text"], None
    if padding + special:
        rest = 1 - kept.sum(1)
        if traced.layout.joint:
            rows = slice(0, len(kept)) if stream == "noise" else slice(len(kept), 2 * len(kept))
            rest = rest - traced.affinity[block, step].mean(0)[rows].sum(1)
        yield BEYOND, padding + special, mass["padding"] + mass["other text"], rest
