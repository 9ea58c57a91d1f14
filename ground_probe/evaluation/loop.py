"""Evaluate a segmenter on a split, resumably; `evaluate` is the one entry for every engine."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from ground_probe.datasets.example import RefExample
from ground_probe.datasets.listed import as_split
from ground_probe.errors import GroundProbeError, UnknownNameError, UnknownWordsWarning
from ground_probe.evaluation import tables
from ground_probe.evaluation.baselines import BASELINES, CONTROLS
from ground_probe.evaluation.expected import DIED, manifest_of, pending, spec_of, writer_name
from ground_probe.evaluation.job import Item, Job, Rows, library_segmenter
from ground_probe.evaluation.rows import error_row, kind_of
from ground_probe.evaluation.store import Counts, Store
from ground_probe.io import whole_file, writable_folder
from ground_probe.run_record import RunRecord, recording

ALIKE = 5
"""Sentences that may fail alike, with nothing before them that worked, before a run gives up."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation's folder holds: every expected key, how many there are, the scores."""

    folder: Path
    counts: Counts
    rows: pd.DataFrame
    summary: pd.DataFrame
    failed: int
    """Sentences that failed and are not waived; their methods have no scores."""


Engine = Callable[[Job], AbstractContextManager[Any]]
"""Gives the workers of a job: `facts` and `where` as `Job.describe` has them, and `run(items,
started)`, which yields the rows of each item in any order, having said by `started(keys)` which of
them this process may die of."""


class InProcess(AbstractContextManager):
    """Run every sentence here, one after the other; the default engine."""

    def __init__(self, job: Job) -> None:
        self._job, self._editor = job, job.load()
        self.facts, where = job.describe(self._editor)
        self.where = {"engine": "in process", **where}

    def __exit__(self, *exception: object) -> None:
        del self._editor

    def run(
        self, items: Iterable[Item], started: Callable[[Iterable[str]], None]
    ) -> Iterator[Rows]:
        """Yield each sentence's rows as it is done."""
        with self._job.sharing(self._editor):
            for item in items:
                started(item.keys.values())
                yield self._job.run(self._editor, item)


def evaluate(
    editor: Any,
    split: Sequence[RefExample],
    out: str | Path,
    recipe: Any = None,
    methods: Sequence[str] = ("full",),
    shard: tuple[int, int] | None = None,
    *,
    segment: Callable[..., Any] | None = None,
    seed: int = 0,
    retry_errors: bool = False,
    waive: Collection[str] = (),
    engine: Engine = InProcess,
) -> Evaluation:
    """Evaluate every sentence of a split, skipping what the folder already holds.

    ```python
    gp.evaluate(editor, gp.load_split("cartoons", "test", limit=64), "runs/a").summary
    ```

    A sentence that raises becomes an error row, and the scores of its method are withheld until it
    is retried or waived; so does one that three processes died of. After a kill, the same call
    resumes, and with more examples or methods it goes on from what is there: the finished table
    does not depend on how often, where or in which order the work was done.

    Args:
        editor: an `Editor`, or a function that loads one (an engine's workers call it).
        split: see `load_split`; or a list of `RefExample`.
        out: the folder of `Store`.
        recipe: handed to the segmenter and part of every key; None for the editor's default.
        methods: names of the masks to count: the segmenter's own ("full", "attention", ...; one
            forward pass gives them all), those in `BASELINES`, which need none, and in `CONTROLS`.
            With `segment` they are the keys of the mapping that it returns, or the name of its
            only mask.
        shard: (i, n): evaluate each n-th image from the i-th on. The n runs share `out`.
        segment: `segment(editor, image, expression, recipe=..., seed=...)`, returning a mask, a
            `Segmentation` or a mapping of methods to either; by default the library's own.
            Its code and all that it holds is part of every key.
        seed: of the noise; each example's own seed is derived from it and the example's key.
        retry_errors: also run the sentences whose last row is an error.
        waive: `example` names of failed sentences that the scores may leave out.
        engine: what runs the work, `InProcess`, `Processes(2)` or `Ray(...)`.

    Raises:
        InputError: the folder holds another evaluation or cannot be written, a shard or a waived
            example does not exist, or there is nothing to evaluate.
        GroundProbeError: the first five sentences fail alike.
    """
    split, name, folder = as_split(split), writer_name(shard), writable_folder(out)
    if wrong := sorted(set(waive) - set(split.keys)):
        raise UnknownNameError(
            f"unknown example {wrong[0]!r}: waive by the names in the column `example` of "
            f"rows.parquet, such as {split.keys[0]!r}"
        )
    if segment is None and (own := [n for n in methods if n not in {**BASELINES, **CONTROLS}]):
        library_segmenter(own)
    load = editor if callable(editor) else lambda: editor
    job, store = Job(load, split, segment, recipe, seed), Store(folder)
    with engine(job) as workers:
        spec = spec_of(job, workers.facts)
        store.freeze(manifest_of(split, methods, spec), spec)
        record_path = folder / ("run.json" if shard is None else f"run-{name}.json")
        _say_unknown_words(workers.where)
        facts = {"workers": workers.where, "shard": shard, "waived": list(waive)}
        with store.writer(name) as writer, recording(record_path, spec, **facts) as record:
            items, deadly = pending(store, split, retry_errors, shard)
            writer.append([error_row(key, DIED) for key in deadly])
            kinds = set()
            bar = {"total": len(items), "unit": "sentence", "leave": bool(items)}
            for done, rows in enumerate(tqdm(workers.run(items, writer.started), **bar), start=1):
                writer.append(rows)
                kinds |= {kind_of(row) for row in rows}
                if done == ALIKE and len(kinds) == 1 and None not in kinds:
                    raise GroundProbeError(
                        f"the first {ALIKE} sentences all failed alike ({rows[0]['error']}), so "
                        "nothing more was tried: the traceback is in the rows file; once it is "
                        "mended repeat the command with --retry-errors"
                    )
            return _finish(store, record, waive)


def _say_unknown_words(where: Mapping[str, Any]) -> None:
    first, *_ = where.get("workers", [where])
    if first.get("unknown_words"):
        warnings.warn(first["unknown_words"], UnknownWordsWarning, stacklevel=3)


def _finish(store: Store, record: RunRecord, waive: Collection[str]) -> Evaluation:
    """Print the counts and, once nothing is missing, write the tables."""
    (rows, counts), about = store.results(), store.about()
    summary, lost = tables.summarize(rows, waive, about), rows[tables.failed(rows, waive)]
    tqdm.write(f"{store.folder}: {counts}", file=sys.stderr)
    record.fields["counts"] = counts._asdict()
    if not counts.missing:
        with whole_file(store.folder / "rows.parquet") as part:
            rows.to_parquet(part, index=False)
        parts = tables.breakdown(rows, waive, about)
        for name, table in (("summary", summary), ("breakdown", parts)):
            with whole_file(store.folder / f"{name}.csv") as part:
                table.to_csv(part, index=False)
    if len(lost):
        first = lost.iloc[0]
        message = f"{len(lost)} failed, the first is {first['example']}: {first['error']}"
        tqdm.write(
            f"{message}\nits traceback is in {store.folder}/rows-*.jsonl; retry them "
            "(--retry-errors; where memory ran out, with --offload model), or waive them by name "
            "(--waive EXAMPLE): without that their methods have no scores",
            file=sys.stderr,
        )
        record.finish("error", error=message)
    if not counts.missing and record.path.name != "run.json":  # the last shard speaks for all
        whole = RunRecord(store.folder / "run.json", dict(record.fields))
        whole.finish("error" if len(lost) else "success")
    return Evaluation(store.folder, counts, rows, summary, len(lost))
