"""Evaluate a segmenter on a split, resumably; `evaluate` is the one entry for every engine."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ground_probe.datasets.example import RefExample
from ground_probe.errors import IncompleteError, InputError
from ground_probe.evaluation import tables
from ground_probe.evaluation.store import (
    MANIFEST_COLUMNS,
    Counts,
    Store,
    counts_of,
)
from ground_probe.evaluation.work import Chunk, Item, Job, Rows, chunks
from ground_probe.run_record import RunRecord, canonical_json, digest, recording, whole_file


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation's folder holds: every expected key, how many there are, the scores."""

    folder: Path
    counts: Counts
    rows: pd.DataFrame
    summary: pd.DataFrame


class Workers(Protocol):
    """What runs chunks: this process, or actors on many devices."""

    facts: dict[str, Any]
    where: dict[str, Any]

    def run(self, work: Iterable[Chunk]) -> Iterator[tuple[Chunk, Rows]]:
        """Yield what was finished and its rows, in any order."""


Engine = Callable[[Job], AbstractContextManager[Workers]]


class InProcess:
    """Run every chunk here, one sentence after the other; the default engine."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __enter__(self) -> InProcess:
        self._editor = self._job.load()
        self.facts = self._job.describe(self._editor)
        self.where = {"engine": "in process", **self._job.where(self._editor)}
        return self

    def __exit__(self, *exception: object) -> None:
        del self._editor

    def run(self, work: Iterable[Chunk]) -> Iterator[tuple[Chunk, Rows]]:
        """Yield each sentence as it is done."""
        for chunk in work:
            for item, rows in zip(chunk, self._job.run(self._editor, chunk), strict=True):
                yield (item,), rows


def evaluate(
    editor: Any,
    split: Sequence[RefExample],
    out: str | Path,
    recipe: Any = None,
    *,
    methods: Sequence[str] = ("full",),
    segment: Callable[..., Any] | None = None,
    seed: int = 0,
    shard: tuple[int, int] | None = None,
    retry_errors: bool = False,
    waive: Collection[str] = (),
    engine: Engine = InProcess,
) -> Evaluation:
    """Evaluate every sentence of a split, skipping what the folder already holds.

    A sentence that raises becomes an error row, and the scores of its method are withheld until it
    is retried or waived. After a kill, the same call resumes: the finished table does not depend
    on how often, where or in which order the work was done.

    Args:
        editor: an `Editor`, or a function that loads one (an engine's workers call it).
        split: see `load_split`.
        out: folder of `manifest.parquet`, `rows-*.jsonl`, and at the end `rows.parquet`,
            `summary.csv`, `breakdown.csv` and `run.json`.
        recipe: handed to the segmenter and part of every key; None for the editor's default.
        methods: names of the masks to count. Those in `BASELINES` need no segmenter; the others
            are the keys of the mapping that `segment` returns, or the name of its only mask.
        segment: `segment(editor, image, expression, recipe=..., seed=...)`, returning a mask, a
            `Segmentation` or a mapping of methods to either; by default `ground_probe.segment`.
        seed: of the noise; each example's own seed is derived from it and the example's key.
        shard: (i, n): evaluate each n-th image from the i-th on. The n runs share `out`.
        retry_errors: also run the sentences whose last row is an error.
        waive: `example` names of failed sentences that the scores may leave out.
        engine: what runs the work, `InProcess` or `ray_runner.Ray(...)`.

    Raises:
        InputError: the folder holds another evaluation or cannot be written, a shard or a waived
            example does not exist, or there is nothing to evaluate.
    """
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise InputError(f"shard {shard[0]}/{shard[1]} does not exist: give i/n with 0 <= i < n")
    tables.check_waived(split.keys, waive)
    if segment is None:
        from ground_probe.segmentation import segment
    load = editor if callable(editor) else lambda: editor
    job, store = Job(load, split, segment, recipe, seed), Store(Path(out))
    name = "main" if shard is None else f"{shard[0]}of{shard[1]}"
    with engine(job) as workers:
        spec = _spec(job, workers.facts)
        manifest = _manifest(split, methods, spec)
        spec["methods"] = list(methods)
        store.freeze(manifest, spec)
        record_path = store.folder / ("run.json" if shard is None else f"run-{name}.json")
        facts = {"workers": workers.where, "shard": shard, "waived": list(waive)}
        with store.writer(name) as writer, recording(record_path, spec, **facts) as record:
            items = _pending(store, split, retry_errors, shard)
            left = Counter(item.image_id for item in items)
            with tqdm(total=len(left), unit="image", leave=bool(items)) as bar:
                for done, rows in workers.run(chunks(items, sentences=1)):
                    writer.append(rows)
                    left.subtract(item.image_id for item in done)
                    bar.update(sum(left[image] == 0 for image in {i.image_id for i in done}))
            return _finish(store, record, waive)


def read(out: str | Path, waive: Collection[str] = ()) -> Evaluation:
    """The results of an evaluation's folder, from its rows.

    Raises:
        IncompleteError: a key has neither a result nor an error yet.
        InputError: the folder holds no evaluation.
    """
    store = Store(Path(out))
    rows, counts = store.results()
    if counts.missing:
        raise IncompleteError(f"{out}: {counts}; run the same command again to resume")
    return Evaluation(store.folder, counts, rows, tables.summarise(rows, waive))


def _finish(store: Store, record: RunRecord, waive: Collection[str]) -> Evaluation:
    """Print the counts and, once nothing is missing, write the tables."""
    rows, counts = store.results()
    summary = tables.summarise(rows, waive)
    tqdm.write(f"{store.folder}: {counts}", file=sys.stderr)
    if counts.error:
        first = rows[rows["status"] == "error"].iloc[0]
        tqdm.write(
            f"{counts.error} failed, the first is {first['example']}: {first['error']}\n"
            "retry them (--retry-errors; where memory ran out, with --offload model), or waive "
            "them by name (--waive EXAMPLE): without that their methods have no scores",
            file=sys.stderr,
        )
    record.fields["counts"] = counts_of(counts)
    if not counts.missing:
        with whole_file(store.folder / "rows.parquet") as part:
            pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), part)
        for name, table in (("summary", summary), ("breakdown", tables.breakdown(rows, waive))):
            with whole_file(store.folder / f"{name}.csv") as part:
                table.to_csv(part, index=False)
        if record.path.name != "run.json":  # the last shard speaks for all
            RunRecord(store.folder / "run.json", dict(record.fields)).finish()
    return Evaluation(store.folder, counts, rows, summary)


def _spec(job: Job, facts: dict[str, Any]) -> dict[str, Any]:
    """Everything that changes numbers."""
    return {
        "dataset": job.split.dataset,
        "split": job.split.split,
        "data_revision": job.split.revision,
        **facts,
        "segmenter": f"{job.segment.__module__}.{job.segment.__qualname__}",
        "seed": job.seed,
    }


def _manifest(
    split: Sequence[RefExample], methods: Sequence[str], spec: dict[str, Any]
) -> pd.DataFrame:
    common, names = canonical_json(spec), (split.dataset, split.split)
    columns = zip(split.image_ids, split.keys, split.expressions, strict=True)
    rows = [
        (digest([common, example, method], length=32), *names, image, example, text, method)
        for image, example, text in columns
        for method in methods
    ]
    if not rows:
        raise InputError(f"nothing to evaluate: {len(split)} examples, methods {list(methods)}")
    return pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS), dtype="string")


def _pending(
    store: Store,
    split: Sequence[RefExample],
    retry_errors: bool,
    shard: tuple[int, int] | None,
) -> list[Item]:
    """What is still to run, in the manifest's order, the methods of an example together."""
    rows, _ = store.results()
    if shard is not None:
        images = pd.factorize(rows["image_id"])[0]
        rows = rows[images % shard[1] == shard[0]]
    rows = rows[rows["status"].isin(["missing", "error"] if retry_errors else ["missing"])]
    position = {example: index for index, example in enumerate(split.keys)}
    keys: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows.itertuples():
        keys.setdefault((row.example, row.image_id), {})[row.method] = row.key
    return [Item(position[example], image, found) for (example, image), found in keys.items()]
