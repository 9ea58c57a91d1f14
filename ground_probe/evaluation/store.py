"""Where results live: a frozen manifest, append-only rows, and the table that joins them.

    manifest.parquet      what is expected, frozen before the first inference, with its spec
    rows-main.jsonl       one line an event, appended to and never rewritten; one file a writer
    rows.parquet          the manifest joined with the rows, once nothing is missing
    summary.csv, breakdown.csv, run.json

Nothing is lost, counted twice or invented by the order in which work was done.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.util import register_after_fork
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ground_probe.errors import InputError
from ground_probe.evaluation.rows import BOXES, COUNTS, Row, one_line, whole_lines
from ground_probe.io import canonical_json, digest, whole_file, writable_folder
from ground_probe.run_record import read_record

try:
    import fcntl
except ImportError:  # Windows: one writer a name is then the caller's care
    fcntl = None  # type: ignore[assignment]

MANIFEST_COLUMNS = ("key", "dataset", "split", "image_id", "example", "expression", "method")
_SPEC = b"ground_probe.spec"
_SPEC_NAMES = ("model", "recipe", "dataset", "split")


class Counts(NamedTuple):
    """How many results are expected and what became of them."""

    expected: int
    ok: int
    error: int
    missing: int
    duplicates: int

    def __str__(self) -> str:
        counts = f"expected {self.expected} / ok {self.ok} / error {self.error}"
        late = f" / missing {self.missing}" if self.missing else ""
        return f"{counts} / duplicates dropped {self.duplicates}{late}"


class Writer:
    """The one process that appends to a rows file; see `Store.writer`."""

    def __init__(self, path: Path) -> None:
        try:
            self.file = path.open("ab+")
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
        # A worker that is forked in a dead one's place must not hold the lock.
        register_after_fork(self, lambda writer: writer.file.close())
        if fcntl is not None:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.file.close()
                raise InputError(
                    f"{path} is being written by another process: wait for it, or give each "
                    "process its own --shard i/n"
                ) from None
        _, whole = whole_lines(path)
        if torn := path.stat().st_size - whole:
            warnings.warn(
                f"{path}: a torn last line ({torn} bytes, an interrupted write) was cut off",
                stacklevel=3,
            )
            self.file.truncate(whole)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Hand rows to the system, where a killed process cannot lose them."""
        self.file.write(b"".join(canonical_json(row).encode() + b"\n" for row in rows))
        self.file.flush()

    def started(self, keys: Iterable[str]) -> None:
        """Say what is run from now on: should the process die of it, the next one knows."""
        self.append([{"status": "started", "keys": list(keys)}])


@dataclass(frozen=True, slots=True)
class Store:
    """One evaluation's folder."""

    folder: Path

    def freeze(self, manifest: pd.DataFrame, spec: Mapping[str, Any]) -> None:
        """Write what is expected, or let the folder's own expectation grow to it.

        Raises:
            InputError: the folder cannot be written, or holds another evaluation, or a larger one.
        """
        writable_folder(self.folder)
        path = self.folder / "manifest.parquet"
        if path.exists() and not self._grows(manifest, spec):
            return
        table = pa.Table.from_pandas(manifest, preserve_index=False)
        with whole_file(path) as part:
            pq.write_table(table.replace_schema_metadata({_SPEC: canonical_json(spec)}), part)

    def _grows(self, manifest: pd.DataFrame, spec: Mapping[str, Any]) -> bool:
        """Whether more is expected now than before; everything else must be as it was."""
        frozen, there = self._read()
        spec = json.loads(canonical_json(spec))
        differ = [name for name in {**there, **spec} if there.get(name) != spec.get(name)]
        for name in ("example", "method"):
            if not differ and (left := set(frozen[name]) - set(manifest[name])):
                differ = [f"{name}s ({len(left)} there that are not asked for now)"]
        if not differ and (left := set(frozen["key"]) - set(manifest["key"])):
            differ = [f"data ({len(left)} examples are not what they were)"]
        if differ:
            raise InputError(
                f"{self.folder} holds another evaluation: {', '.join(differ)} differ; "
                "give another output folder, or repeat the arguments it was started with"
            )
        return len(manifest) > len(frozen)

    def spec(self) -> dict[str, Any]:
        """The choices the manifest was made from."""
        return self._read()[1]

    def manifest(self) -> pd.DataFrame:
        """What is expected, one row a key."""
        return self._read()[0]

    def _read(self) -> tuple[pd.DataFrame, dict[str, Any]]:
        path = self.folder / "manifest.parquet"
        if not path.exists():
            raise InputError(f"{self.folder} holds no evaluation: {path.name} is not there")
        try:
            table = pq.read_table(path)
            spec = json.loads((table.schema.metadata or {})[_SPEC])
            manifest = table.select(MANIFEST_COLUMNS).to_pandas().astype("string")
            if missing := [name for name in _SPEC_NAMES if name not in spec]:
                raise ValueError(f"its spec has no {missing[0]}")
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is no manifest of an evaluation ({one_line(error)}): restore it, or move "
                "the folder away"
            ) from error
        return manifest, spec

    def record(self) -> dict[str, Any]:
        """The last record of a run here, a shard's where the whole has none yet; or nothing."""
        paths = sorted(self.folder.glob("run*.json"), key=lambda path: path.stat().st_mtime)
        return read_record(paths[-1]) if paths else {}

    def about(self) -> dict[str, Any]:
        """What every row of a table must say of its run: the editor, the recipe, the data."""
        spec, workers = self.spec(), self.record().get("workers", {})
        names = [worker.get("name") for worker in [workers, *workers.get("workers", [])]]
        recipe = spec["recipe"]
        return {
            "model": next(filter(None, names), None),
            "revision": spec["model"],
            "recipe": digest(recipe) if isinstance(recipe, dict) else recipe,
            "text": spec.get("text"),
            "overlap": spec.get("overlap"),
        }

    @contextmanager
    def writer(self, name: str) -> Iterator[Writer]:
        """Open `rows-<name>.jsonl` for appending, alone; repairs a torn last line.

        Raises:
            InputError: another process holds this writer's file.
        """
        writer = Writer(self.folder / f"rows-{name}.jsonl")
        try:
            yield writer
        except (KeyboardInterrupt, SystemExit):
            writer.append([{"status": "stopped"}])  # nobody died of what was running
            raise
        finally:
            os.fsync(writer.file.fileno())
            writer.file.close()

    def results(self) -> tuple[pd.DataFrame, Counts]:
        """The manifest joined with the rows: status `ok`, `error` or `missing`.

        The first `ok` of a key wins, whatever came before it; without one, the last error stands.
        `attempts` counts its rows and the processes that ended during it without a word.

        Raises:
            InputError: two `ok` rows of one key disagree, or a file is damaged.
        """
        manifest = self.manifest()
        events, deaths = self._events(set(manifest["key"]))
        duplicates, joined = 0, []
        for key in manifest["key"]:
            rows = events[key]
            done = [row for row in rows if row["status"] == "ok"]
            for row in done[1:]:
                if any(row[name] != done[0][name] for name in COUNTS):
                    raise InputError(
                        f"two results of {key} disagree ({done[0]} and {row}): the same inputs "
                        "gave different masks; keep one writer's file and say which"
                    )
            repeated = max(len(done) - 1, 0)
            duplicates += repeated
            row = done[0] if done else rows[-1] if rows else {"status": "missing"}
            mask = canonical_json(row["mask"]) if row.get("mask") else None
            joined.append({**row, "attempts": len(rows) - repeated + deaths[key], "mask": mask})
        pixels = (*COUNTS, *BOXES)
        columns = ["status", *pixels, "seconds", "error", "traceback", "attempts", "mask"]
        rows = pd.DataFrame(joined).reindex(columns=columns)
        text = dict.fromkeys(("error", "traceback", "mask"), "string")
        rows = rows.astype({**dict.fromkeys(pixels, "Int64"), **text, "seconds": float})
        status = rows["status"].value_counts()
        ok, error, missing = (int(status.get(name, 0)) for name in ("ok", "error", "missing"))
        counts = Counts(len(manifest), ok, error, missing, duplicates)
        return pd.concat([manifest, rows], axis=1), counts

    def _events(self, keys: set[str]) -> tuple[dict[str, list[Row]], Counter[str]]:
        """The `ok` and `error` rows of each key, and how many processes died of it."""
        events: dict[str, list[Row]] = defaultdict(list)
        deaths: Counter[str] = Counter()
        for path in sorted(self.folder.glob("rows-*.jsonl")):
            running: set[str] = set()
            for row in whole_lines(path)[0]:
                if row["status"] == "started":
                    deaths.update(running)
                    running = set(row["keys"])
                elif row["status"] == "stopped":
                    running = set()
                elif row["key"] in keys:
                    running.discard(row["key"])
                    events[row["key"]].append(row)
                else:
                    raise InputError(
                        f"{path} holds results of another evaluation (key {row['key'][:40]!r}): "
                        "move it away"
                    )
            deaths.update(running)
        return events, deaths
