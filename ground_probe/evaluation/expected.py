"""What a run expects and what of that is still to do: spec, manifest, pending sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ground_probe.datasets.example import Split
from ground_probe.errors import InputError
from ground_probe.evaluation.identity import identity_of
from ground_probe.evaluation.job import Item, Job
from ground_probe.evaluation.store import MANIFEST_COLUMNS, Store
from ground_probe.io import canonical_json, digest

DEATHS = 3
"""Processes that may die of a sentence before it is an error."""
DIED = f"ProcessDied: {DEATHS} processes ended during this sentence, without a word"


def writer_name(shard: tuple[int, int] | None) -> str:
    """What a run's rows file is called; InputError for a shard that does not exist."""
    if shard is None:
        return "main"
    if not 0 <= shard[0] < shard[1]:
        raise InputError(f"shard {shard[0]}/{shard[1]} does not exist: give i/n with 0 <= i < n")
    return f"{shard[0]}of{shard[1]}"


def spec_of(job: Job, facts: dict[str, Any]) -> dict[str, Any]:
    """Everything that changes numbers."""
    spec = {
        "dataset": job.split.dataset,
        "split": job.split.split,
        "data_revision": job.split.revision,
        "text": getattr(job.split, "text", None),
        "overlap": getattr(job.split, "overlap", None),
        **facts,
        "segmenter": "ground_probe" if job.segment is None else identity_of(job.segment),
        "seed": job.seed,
    }
    try:
        canonical_json(spec)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the recipe cannot be written down ({error}), so its results could not be told from "
            "others: give a Recipe, or JSON values"
        ) from error
    return spec


def manifest_of(split: Split, methods: Sequence[str], spec: dict[str, Any]) -> pd.DataFrame:
    """A key for each method of each example: a digest of all that changes its numbers."""
    common, names = canonical_json(spec), (split.dataset, split.split)
    # What is judged is named by its key and the data's revision; in a list by its pixels as well.
    contents = getattr(split, "contents", split.keys)
    columns = zip(split.image_ids, split.keys, split.expressions, contents, strict=True)
    rows = [
        (digest([common, content, method], length=32), *names, image, example, text, method)
        for image, example, text, content in columns
        for method in dict.fromkeys(methods)
    ]
    if repeated := [key for key, count in Counter(split.keys).items() if count > 1]:
        raise InputError(f"{len(repeated)} keys name several examples, as {repeated[0]!r} does")
    if not rows:
        raise InputError(f"nothing to evaluate: {len(split)} examples, methods {list(methods)}")
    return pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS), dtype="string")


def pending(
    store: Store, split: Split, retry_errors: bool, shard: tuple[int, int] | None
) -> tuple[list[Item], list[str]]:
    """What is still to run, images together, and the keys that too many processes died of."""
    rows, _ = store.results()
    if shard is not None:
        images = pd.factorize(rows["image_id"])[0]
        rows = rows[images % shard[1] == shard[0]]
    deadly = rows["status"].eq("missing") & rows["attempts"].ge(DEATHS)
    again = rows["status"].eq("error") if retry_errors else False
    todo: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows[(rows["status"].eq("missing") & ~deadly) | again].itertuples():
        todo.setdefault(row.image_id, {}).setdefault(row.example, {})[row.method] = row.key
    position = {example: index for index, example in enumerate(split.keys)}
    items = [
        Item(position[example], image, methods)
        for image, examples in todo.items()
        for example, methods in examples.items()
    ]
    return items, rows[deadly]["key"].tolist()
