"""Where results live: a frozen manifest, append-only rows, and the table that joins them.

A folder holds `manifest.parquet` (what is expected, frozen before the first inference, with the
spec it was made from) and one `rows-<writer>.jsonl` for each writer, appended to and never
rewritten. Every table is the manifest joined with the rows, so nothing is lost, counted twice or
invented by the order in which work was done.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ground_probe.errors import GroundProbeError, InputError
from ground_probe.run_record import canonical_json, whole_file, writable_folder

try:
    import fcntl
except ImportError:  # Windows: one writer a name is then the caller's care
    fcntl = None

MANIFEST_COLUMNS = ("key", "dataset", "split", "image_id", "example", "expression", "method")
COUNTS = ("inter_px", "union_px", "pred_px", "gold_px")
SYNC_SECONDS = 1.0
_SPEC = b"ground_probe.spec"


@dataclass(frozen=True, slots=True)
class Counts:
    """How many results are expected and what became of them."""

    expected: int
    ok: int
    error: int
    duplicates: int

    @property
    def missing(self) -> int:
        """Keys that have neither a result nor an error."""
        return self.expected - self.ok - self.error

    def __str__(self) -> str:
        counts = f"expected {self.expected} / ok {self.ok} / error {self.error}"
        late = f" / missing {self.missing}" if self.missing else ""
        return f"{counts} / duplicates dropped {self.duplicates}{late}"


class Writer:
    """The one process that appends to a rows file; see `Store.writer`."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("ab+")
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from error
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.close()
                raise InputError(
                    f"{path} is being written by another process: wait for it, or give each "
                    "process its own --shard i/n"
                ) from None
        whole = sum(len(line) for _, line in _whole_lines(path))
        torn = path.stat().st_size - whole
        if torn:
            warnings.warn(
                f"{path}: a torn last line ({torn} bytes, an interrupted write) was cut off",
                stacklevel=3,
            )
            self._file.truncate(whole)
        self._sync()

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Hand rows to the system, where a killed process cannot lose them.

        At most `SYNC_SECONDS` of rows are not on the disk yet, should the machine itself fail.
        """
        self._file.write(b"".join(canonical_json(row).encode() + b"\n" for row in rows))
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._sync()

    def close(self) -> None:
        """Put everything on the disk and release the file and its lock."""
        self._sync()
        self._file.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


@dataclass(frozen=True, slots=True)
class Store:
    """One evaluation's folder."""

    folder: Path

    def freeze(self, manifest: pd.DataFrame, spec: Mapping[str, Any]) -> None:
        """Write what is expected, or check that the folder already expects exactly this.

        Raises:
            InputError: the folder cannot be written, or holds another evaluation.
        """
        path = self.folder / "manifest.parquet"
        if path.exists():
            self._same(manifest, spec)
            return
        if repeated := manifest["key"][manifest["key"].duplicated()].tolist():
            raise InputError(f"{len(repeated)} keys of the manifest are not unique: {repeated[:3]}")
        writable_folder(self.folder)
        table = pa.Table.from_pandas(manifest, preserve_index=False)
        with whole_file(path) as part:
            pq.write_table(table.replace_schema_metadata({_SPEC: canonical_json(spec)}), part)

    def _same(self, manifest: pd.DataFrame, spec: Mapping[str, Any]) -> None:
        there, frozen = self.spec(), self.manifest()
        spec = json.loads(canonical_json(spec))
        differ = [name for name in {**there, **spec} if there.get(name) != spec.get(name)]
        if not differ and set(frozen["key"]) != set(manifest["key"]):
            differ = [f"examples ({len(frozen)} rows there, {len(manifest)} now)"]
        if differ:
            raise InputError(
                f"{self.folder} holds another evaluation: {', '.join(differ)} differ; "
                "give another output folder, or repeat the arguments it was started with"
            )

    def spec(self) -> dict[str, Any]:
        """The choices the manifest was made from."""
        return json.loads(pq.read_schema(self._manifest_path()).metadata[_SPEC])

    def manifest(self) -> pd.DataFrame:
        """What is expected, one row a key."""
        return pd.read_parquet(self._manifest_path())

    def _manifest_path(self) -> Path:
        path = self.folder / "manifest.parquet"
        if not path.is_file():
            raise InputError(f"{self.folder} holds no evaluation: {path.name} is not there")
        return path

    @contextmanager
    def writer(self, name: str) -> Iterator[Writer]:
        """Open `rows-<name>.jsonl` for appending, alone; repairs a torn last line.

        Raises:
            InputError: another process holds this writer's file.
        """
        writer = Writer(self.folder / f"rows-{name}.jsonl")
        try:
            yield writer
        finally:
            writer.close()

    def results(self) -> tuple[pd.DataFrame, Counts]:
        """The manifest joined with the rows: status `ok`, `error` or `missing`.

        The first `ok` of a key wins, whatever came before it; without one, the last error stands.

        Raises:
            GroundProbeError: two `ok` rows of one key disagree.
        """
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for path in sorted(self.folder.glob("rows-*.jsonl")):
            for row, _ in _whole_lines(path):
                found[row["key"]].append(row)
        manifest, duplicates, joined = self.manifest(), 0, []
        for key in manifest["key"]:
            rows = found[key]
            done = [row for row in rows if row["status"] == "ok"]
            for row in done[1:]:
                if any(row[name] != done[0][name] for name in COUNTS):
                    raise GroundProbeError(
                        f"two results of {key} disagree ({done[0]} and {row}): the same inputs "
                        "gave different masks; keep one writer's file and say which"
                    )
            duplicates += max(len(done) - 1, 0)
            row = done[0] if done else rows[-1] if rows else {"status": "missing"}
            joined.append({**row, "attempts": len(rows) - max(len(done) - 1, 0)})
        columns = ["status", *COUNTS, "seconds", "error", "attempts"]
        rows = pd.DataFrame(joined).reindex(columns=columns)
        rows = rows.astype({**dict.fromkeys(COUNTS, "Int64"), "seconds": float, "error": "string"})
        status = rows["status"].value_counts()
        counts = Counts(
            len(manifest), int(status.get("ok", 0)), int(status.get("error", 0)), duplicates
        )
        return pd.concat([manifest, rows], axis=1), counts


def row(key: str, counts: Mapping[str, int], seconds: float) -> dict[str, Any]:
    """One result: pixels counted, from which every score is derived."""
    return {"key": key, "status": "ok", **counts, "seconds": round(seconds, 4)}


def error_row(key: str, error: BaseException | str, seconds: float = 0.0) -> dict[str, Any]:
    """One failure, with its class and its message on one line."""
    if isinstance(error, BaseException):
        error = f"{type(error).__name__}: {error}"
    message = " ".join(error.split())[:500]
    return {"key": key, "status": "error", "seconds": round(seconds, 4), "error": message}


def counts_of(counts: Counts) -> dict[str, int]:
    """The counts as JSON holds them, `missing` included."""
    return {**asdict(counts), "missing": counts.missing}


def _whole_lines(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Every row of a file up to a torn tail, with its bytes.

    Raises:
        GroundProbeError: a damaged line is followed by sound ones: no interrupted write does that.
    """
    damaged = None
    with suppress(FileNotFoundError), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            parsed = None
            if line.endswith(b"\n"):
                with suppress(ValueError):
                    parsed = json.loads(line)
            if not isinstance(parsed, dict):
                damaged = damaged or number
            elif damaged:
                raise GroundProbeError(f"{path} is damaged at line {damaged}: restore or remove it")
            else:
                yield parsed, line
