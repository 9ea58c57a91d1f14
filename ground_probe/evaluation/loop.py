"""Evaluate a segmenter on a split, resumably; `evaluate` is the one entry for every engine."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ground_probe.datasets.example import RefExample, Split
from ground_probe.datasets.listed import as_split
from ground_probe.errors import GroundProbeError, IncompleteError, InputError
from ground_probe.evaluation import tables
from ground_probe.evaluation.baselines import BASELINES, CONTROLS
from ground_probe.evaluation.identity import UNIDENTIFIED, identity_of
from ground_probe.evaluation.job import Item, Job, Rows, library_segmenter
from ground_probe.evaluation.rows import error_row
from ground_probe.evaluation.store import MANIFEST_COLUMNS, Counts, Store
from ground_probe.io import canonical_json, digest, whole_file, writable_folder
from ground_probe.run_record import RunRecord, recording

DEATHS = 3
"""Processes that may die of a sentence before it is an error."""
ALIKE = 5
"""Sentences that may fail alike, with nothing before them that worked, before a run gives up."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation's folder holds: every expected key, how many there are, the scores."""

    folder: Path
    counts: Counts
    rows: pd.DataFrame
    summary: pd.DataFrame
    failed: int = 0
    """Sentences that failed and are not waived; their methods have no scores."""


class Workers(Protocol):
    """What runs sentences: this process, processes beside it, or actors on many devices."""

    facts: dict[str, Any]
    where: dict[str, Any]

    def run(
        self, items: Iterable[Item], started: Callable[[Iterable[str]], None]
    ) -> Iterator[tuple[Item, Rows]]:
        """Yield each item and its rows in any order; `started` where this process may die of it."""


Engine = Callable[[Job], AbstractContextManager[Workers]]


class InProcess:
    """Run every sentence here, one after the other; the default engine."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __enter__(self) -> InProcess:
        self._editor = self._job.load()
        self.facts = self._job.describe(self._editor)
        self.where = {"engine": "in process", **self._job.where(self._editor)}
        return self

    def __exit__(self, *exception: object) -> None:
        del self._editor

    def run(
        self, items: Iterable[Item], started: Callable[[Iterable[str]], None]
    ) -> Iterator[tuple[Item, Rows]]:
        """Yield each sentence as it is done."""
        with self._job.sharing(self._editor):
            for item in items:
                started(item.keys.values())
                yield item, self._job.run(self._editor, item)


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
    keep_masks: bool = True,
    engine: Engine = InProcess,
) -> Evaluation:
    """Evaluate every sentence of a split, skipping what the folder already holds.

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
        keep_masks: whether the rows hold the masks, as COCO run lengths; see `mask_of`.
        engine: what runs the work, `InProcess`, `Processes(2)` or `Ray(...)`.

    Raises:
        InputError: the folder holds another evaluation or cannot be written, a shard or a waived
            example does not exist, or there is nothing to evaluate.
        GroundProbeError: the first five sentences fail alike.
    """
    split, name, folder = as_split(split), _writer_name(shard), writable_folder(out)
    tables.check_waived(split.keys, waive)
    if segment is None and (own := [n for n in methods if n not in {**BASELINES, **CONTROLS}]):
        library_segmenter(own)
    load = editor if callable(editor) else lambda: editor
    job, store = Job(load, split, segment, recipe, seed, keep_masks), Store(folder)
    with engine(job) as workers:
        spec = _spec(job, workers.facts)
        _resumable(store, spec, shard)
        store.freeze(_manifest(split, methods, spec), spec)
        record_path = store.folder / ("run.json" if shard is None else f"run-{name}.json")
        facts = {"workers": workers.where, "shard": shard, "waived": list(waive)}
        with store.writer(name) as writer, recording(record_path, spec, **facts) as record:
            items, deadly = _pending(store, split, retry_errors, shard)
            writer.append([error_row(key, _DIED) for key in deadly])
            left = Counter(item.image_id for item in items)
            failures = _Failures()
            with tqdm(total=len(left), unit="image", leave=bool(items)) as bar:
                for item, rows in workers.run(items, writer.started):
                    writer.append(failures.one_traceback(rows))
                    failures.check(rows)
                    left[item.image_id] -= 1
                    bar.update(left[item.image_id] == 0)
            return _finish(store, record, waive)


def read(out: str | Path, waive: Collection[str] = ()) -> Evaluation:
    """The results of an evaluation's folder, from its rows.

    Raises:
        IncompleteError: a key has neither a result nor an error yet.
        InputError: the folder holds no evaluation.
    """
    evaluation = _evaluation(Store(Path(out)), waive)
    if evaluation.counts.missing:
        raise IncompleteError(f"{out}: {evaluation.counts}; run the same command again to resume")
    return evaluation


def _evaluation(store: Store, waive: Collection[str]) -> Evaluation:
    rows, counts = store.results()
    failed = (rows["status"].eq("error") & ~rows["example"].isin(list(waive))).sum()
    summary = tables.summarise(rows, waive, store.about())
    return Evaluation(store.folder, counts, rows, summary, int(failed))


def _finish(store: Store, record: RunRecord, waive: Collection[str]) -> Evaluation:
    """Print the counts and, once nothing is missing, write the tables."""
    evaluation = _evaluation(store, waive)
    rows, counts = evaluation.rows, evaluation.counts
    tqdm.write(f"{store.folder}: {counts}", file=sys.stderr)
    record.fields["counts"] = counts.as_json()
    if not counts.missing:
        with whole_file(store.folder / "rows.parquet") as part:
            pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), part)
        parts = tables.breakdown(rows, waive, store.about())
        for name, table in (("summary", evaluation.summary), ("breakdown", parts)):
            with whole_file(store.folder / f"{name}.csv") as part:
                table.to_csv(part, index=False)
    if evaluation.failed:
        first = rows[rows["status"].eq("error") & ~rows["example"].isin(list(waive))].iloc[0]
        message = f"{evaluation.failed} failed, the first is {first['example']}: {first['error']}"
        tqdm.write(
            f"{message}\nits traceback is in {store.folder}/rows-*.jsonl; retry them "
            "(--retry-errors; where memory ran out, with --offload model), or waive them by name "
            "(--waive EXAMPLE): without that their methods have no scores",
            file=sys.stderr,
        )
        record.finish("error", error=message)
    if not counts.missing and record.path.name != "run.json":  # the last shard speaks for all
        whole = RunRecord(store.folder / "run.json", dict(record.fields))
        whole.finish("error" if evaluation.failed else "success")
    return evaluation


class _Failures:
    """What failed so far, as far as a run must know: whether all did, and which kinds did."""

    def __init__(self) -> None:
        self._opening: list[str] | None = []
        self._kinds: set[str] = set()

    def one_traceback(self, rows: Rows) -> Rows:
        """The rows with a traceback where none of its kind was kept yet."""
        for row in rows:
            if row["status"] == "error":
                row["kind"] = _kind(row)
                if row["kind"] in self._kinds:
                    row.pop("traceback", None)
                self._kinds.add(row["kind"])
        return rows

    def check(self, rows: Rows) -> None:
        """Raise GroundProbeError once `ALIKE` sentences failed alike and none worked."""
        if self._opening is None:
            return
        kinds = {row.get("kind") for row in rows}
        if len(kinds) != 1 or None in kinds or {*self._opening, *kinds} != kinds:
            self._opening = None
            return
        self._opening += kinds
        if len(self._opening) == ALIKE:
            raise GroundProbeError(
                f"the first {ALIKE} sentences all failed alike ({rows[0]['error']}), so nothing "
                "more was tried: the traceback is in the rows file; once it is mended repeat the "
                "command with --retry-errors"
            )


def _kind(row: Mapping[str, Any]) -> str:
    """The class of an error and the line that raised it."""
    lines = row.get("traceback", "").splitlines()
    place = [line.strip() for line in lines if line.startswith("  File ")][-1:]
    return " ".join([row["error"].partition(":")[0], *place])


_DIED = f"ProcessDied: {DEATHS} processes ended during this sentence, without a word"


def _writer_name(shard: tuple[int, int] | None) -> str:
    if shard is None:
        return "main"
    if not 0 <= shard[0] < shard[1]:
        raise InputError(f"shard {shard[0]}/{shard[1]} does not exist: give i/n with 0 <= i < n")
    return f"{shard[0]}of{shard[1]}"


def _spec(job: Job, facts: dict[str, Any]) -> dict[str, Any]:
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


def _resumable(store: Store, spec: Mapping[str, Any], shard: tuple[int, int] | None) -> None:
    """Refuse a folder's results, or a shard, to what cannot be told from another."""
    unknown = [name for name in ("model", "segmenter") if str(spec[name]).startswith(UNIDENTIFIED)]
    if unknown and (shard is not None or (store.folder / "manifest.parquet").exists()):
        raise InputError(
            f"{store.folder}: the {unknown[0]} cannot be identified "
            f"({spec[unknown[0]].removeprefix(UNIDENTIFIED)}), so nothing can be resumed or shared "
            "with it: give it a `revision`, or a new folder"
        )


def _manifest(split: Split, methods: Sequence[str], spec: dict[str, Any]) -> pd.DataFrame:
    common, names = canonical_json(spec), (split.dataset, split.split)
    # What is judged is named by its key and the data's revision; in a list by its pixels as well.
    contents = getattr(split, "contents", split.keys)
    columns = zip(split.image_ids, split.keys, split.expressions, contents, strict=True)
    rows = [
        (digest([common, content, method], length=32), *names, image, example, text, method)
        for image, example, text, content in columns
        for method in dict.fromkeys(methods)
    ]
    for *_, example, text, _ in rows:
        if text != text.encode(errors="replace").decode():
            raise InputError(
                f"{example}: its expression {text[:60]!r} cannot be written, for it holds half a "
                "character: mend the data"
            )
    if not rows:
        raise InputError(f"nothing to evaluate: {len(split)} examples, methods {list(methods)}")
    return pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS), dtype="string")


def _pending(
    store: Store, split: Split, retry_errors: bool, shard: tuple[int, int] | None
) -> tuple[list[Item], list[str]]:
    """What is still to run, images together, and the keys that too many processes died of."""
    rows, _ = store.results()
    if shard is not None:
        images = pd.factorize(rows["image_id"])[0]
        rows = rows[images % shard[1] == shard[0]]
    deaths = store.deaths()
    deadly = rows["status"].eq("missing") & rows["key"].map(lambda key: deaths[key] >= DEATHS)
    again = rows["status"].eq("error") if retry_errors else False
    position = {example: index for index, example in enumerate(split.keys)}
    keys: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows[(rows["status"].eq("missing") & ~deadly) | again].itertuples():
        keys.setdefault((row.image_id, row.example), {})[row.method] = row.key
    order = {image: at for at, image in enumerate(dict.fromkeys(image for image, _ in keys))}
    items = [Item(position[example], image, methods) for (image, example), methods in keys.items()]
    return sorted(items, key=lambda item: order[item.image_id]), rows[deadly]["key"].tolist()
