"""Which words the image attends to, and whether their maps tell the referent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ground_probe.capture import Trace, trace
from ground_probe.datasets.example import RefExample
from ground_probe.editors import Editor
from ground_probe.probes import per_image
from ground_probe.stats import estimate
from ground_probe.study.spec import Spec
from ground_probe.study.tokens import Tokens, sample_tokens
from ground_probe.study.words import CLASSES, token_classes
from ground_probe.study.workers import each_image

BEYOND = "padding and end"
"""Keys of the text that are no token of the instruction: one map for all of them."""


def attended_words(
    editor: Editor, split: Sequence[RefExample], spec: Spec, workers: int = 0
) -> pd.DataFrame:
    """Attention by class of token, one row an example, block, stream and class.

    Args:
        editor: from `load_editor`.
        split: from `load_split`.
        spec: whose first step and template are looked at.
        workers: processes, 0 for as many as there are cores.

    Returns:
        image_id, block, stream, name (one of `CLASSES`, or "padding and end"), tokens: how many;
        mass: the share of an image token's attention that goes to them, of all keys, meaned over
        heads and the image tokens of all streams; auc: of the map for the referent's sampled tokens
        against those of the other objects, NaN where there is none.
    """
    one = replace(spec, steps=spec.steps[:1])
    tables = each_image(
        editor, lambda at: list(_of_example(editor, split[at], one)), range(len(split)), workers
    )
    bar = tqdm(tables, desc="words", unit="image", leave=False, total=len(split))
    return pd.DataFrame([row for rows in bar for row in rows])


def summarise_words(words: pd.DataFrame) -> pd.DataFrame:
    """Means over images with intervals: a row a class, block and stream.

    Args:
        words: from `attended_words`.

    Returns:
        name, block, stream, tokens (mean), mass, mass_per_token, auc, low, high, n_images (of the
        AUC) and n_seen (images that hold such a token).
    """
    rows = []
    for (name, block, stream), of in words.groupby(["name", "block", "stream"], sort=False):
        means = of.groupby("image_id")[["tokens", "mass", "auc"]].mean()
        known = means.auc.notna().any()
        auc = estimate(means.auc.to_numpy()) if known else None
        rows.append(
            {
                "name": name,
                "block": block,
                "stream": stream,
                "tokens": means.tokens.mean(),
                "mass": means.mass.mean(),
                "mass_per_token": (means.mass / means.tokens).mean(),
                "auc": auc.value if auc else np.nan,
                "low": auc.low if auc else np.nan,
                "high": auc.high if auc else np.nan,
                "n_images": auc.n if auc else 0,
                "n_seen": len(means),
            }
        )
    order = {name: i for i, name in enumerate((*CLASSES, BEYOND))}
    return pd.DataFrame(rows).sort_values("name", key=lambda c: c.map(order), kind="stable")


def sinks(words: pd.DataFrame, share: float = 0.5) -> pd.DataFrame:
    """By block, the class that takes most of the attention to text, and its share.

    Args:
        words: from `summarise_words`.
        share: of the attention to text above which a class without meaning is called a sink.
    """
    text = words[(words.name != BEYOND) & (words.stream == words.stream.iloc[0])]
    masses = text.groupby("block", sort=False)["mass"]
    most = text.loc[masses.idxmax(), ["block", "name", "mass"]]
    most["share"] = most["mass"].to_numpy() / masses.sum().to_numpy()
    empty = ("stop word", "template", "padding", "end of sequence")
    return most.assign(sink=most.name.isin(empty) & (most.share >= share)).reset_index(drop=True)


def _of_example(editor: Editor, example: RefExample, spec: Spec) -> Iterator[dict[str, Any]]:
    instruction = spec.instruction(example, ())
    if instruction is None:
        return
    tokens = sample_tokens(editor.geometry(example.image), example, spec.tokens)
    joint = "reference" in editor.family.streams
    traced = trace(
        editor,
        example.image,
        instruction[0],
        steps=spec.steps,
        streams=(),
        mass=True,
        affinity=_places(tokens) if joint else (),
        num_steps=spec.num_steps,
        seed=spec.noise_seed(example.key),
    )
    names = np.array(token_classes(traced.phrase_tokens, *instruction))
    for block in traced.blocks:
        for stream in traced.layout.grids:
            for name, count, mass, scores in _classes(traced, tokens, names, block, stream):
                yield {
                    "image_id": example.image_id,
                    "block": block,
                    "stream": stream,
                    "name": name,
                    "tokens": count,
                    "mass": mass,
                    "auc": np.nan if scores is None else _grounding(scores, tokens),
                }


def _places(tokens: Tokens) -> list[int]:
    """The sampled tokens among image tokens: those of the noise, then of the reference."""
    size = tokens.grid[0] * tokens.grid[1]
    return [*tokens.place.tolist(), *(tokens.place + size).tolist()]


def _classes(
    traced: Trace, tokens: Tokens, names: np.ndarray, block: str, stream: str
) -> Iterator[tuple[str, int, float, Float[Tensor, " kept"] | None]]:
    """(class, its tokens, its mass, its map at the sampled tokens) that an instruction has."""
    at, step = traced.image_tokens(stream), traced.steps[0]
    every = traced.attention[block, step].mean(0)
    maps = every[at]
    kept = maps[torch.from_numpy(tokens.on(len(maps)))]
    for name in dict.fromkeys(names):
        of = torch.from_numpy(np.flatnonzero(names == name))
        yield name, len(of), float(every[:, of].sum(1).mean()), kept[:, of].sum(1)
    mass = traced.mass(block, step)
    special = traced.layout.text - len(traced.phrase_keys) - len(traced.padding)
    for name, count, key in (
        ("padding", len(traced.padding), "padding"),
        ("end of sequence", special, "other text"),
    ):
        if count:
            yield name, count, mass[key], None
    rest = 1 - kept.sum(1)
    if traced.layout.joint:
        rows = slice(0, len(kept)) if stream == "noise" else slice(len(kept), 2 * len(kept))
        rest = rest - traced.affinity[block, step].mean(0)[rows].sum(1)
    count = special + len(traced.padding)
    if count:
        yield BEYOND, count, mass["padding"] + mass["other text"], rest


def _grounding(scores: Float[Tensor, " kept"], tokens: Tokens) -> float:
    objects = tokens.target | tokens.distractor
    target = tokens.target[objects]
    if target.all() or not target.any():
        return float("nan")
    return float(per_image(scores.numpy()[objects], target, np.zeros(objects.sum()))[0])
