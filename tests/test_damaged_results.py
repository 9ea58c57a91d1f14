"""A folder of results that was damaged, or made to hurt, is refused in a sentence that names it."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ground_probe import cli
from ground_probe.errors import InputError
from ground_probe.evaluation import Store, evaluate
from ground_probe.evaluation.rows import error_row, row
from ground_probe.evaluation.store import MANIFEST_COLUMNS
from ground_probe.study import collect_report

SPEC = {"dataset": "scenes", "split": "test", "model": "m", "recipe": "abc"}
COUNTS = {"inter_px": 1, "union_px": 4, "pred_px": 2, "gold_px": 3}
ROWS, MANIFEST, RECORD = "rows-main.jsonl", "manifest.parquet", "run.json"


@pytest.fixture
def folder(tmp_path):
    store = Store(tmp_path / "run")
    rows = [(key, "scenes", "test", key, key, "ring", "full") for key in "abc"]
    store.freeze(pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS)), SPEC)
    with store.writer("main") as writer:
        writer.append([row(key, COUNTS, 0.1) for key in "abc"])
    record = {"status": "success", "workers": {"name": "an editor"}, "waived": []}
    (store.folder / RECORD).write_text(json.dumps(record))
    return store.folder


def line(**changes):
    """A row with something changed, followed by a sound one: no torn tail."""
    changed = {**row("a", COUNTS, 0.1), **changes}
    return (json.dumps(changed) + "\n" + json.dumps(row("b", COUNTS, 0.1)) + "\n").encode()


def parquet(table, spec=SPEC):
    sink = pa.BufferOutputStream()
    text = spec if isinstance(spec, bytes) else json.dumps(spec).encode()
    pq.write_table(table.replace_schema_metadata({b"ground_probe.spec": text}), sink)
    return sink.getvalue().to_pybytes()


SOUND = pa.table({name: ["a", "b"] for name in MANIFEST_COLUMNS})
FILES = {
    "empty manifest": (MANIFEST, b""),
    "cut manifest": (MANIFEST, parquet(SOUND)[:-20]),
    "manifest without a middle": (MANIFEST, parquet(SOUND)[:40] + parquet(SOUND)[-200:]),
    "foreign text as manifest": (MANIFEST, b"version https://git-lfs.github.com/spec/v1\n"),
    "foreign table": (MANIFEST, parquet(pa.table({"a": [1]}))),
    "manifest without spec": (MANIFEST, parquet(SOUND, b"")),
    "spec that is a list": (MANIFEST, parquet(SOUND, b"[]")),
    "spec that is a number": (MANIFEST, parquet(SOUND, b"3")),
    "spec without a model": (MANIFEST, parquet(SOUND, {"recipe": 1})),
    "no status": (ROWS, line(status=None)),
    "unknown status": (ROWS, line(status="okay")),
    "key that is a number": (ROWS, line(key=3)),
    "key of another evaluation": (ROWS, line(key="z")),
    "pixels as text": (ROWS, line(inter_px="1")),
    "pixels as fractions": (ROWS, line(inter_px=1.0)),
    "negative pixels": (ROWS, line(inter_px=-1, union_px=6)),
    "more pixels than there are": (ROWS, line(inter_px=10**30, union_px=10**30)),
    "pixels that do not add up": (ROWS, line(union_px=400)),
    "seconds as text": (ROWS, line(seconds="fast")),
    "error without message": (ROWS, line(status="error", error=None)),
    "started without keys": (ROWS, line(status="started", keys=3)),
    "a list as row": (ROWS, b"[1]\n" + line()),
    "a number too long": (ROWS, b'{"key": ' + b"1" * 5000 + b"}\n" + line()),
    "brackets without end": (ROWS, b"[" * 100_000 + b"\n" + line()),
    "bytes as row": (ROWS, b"\xff\xfe\n" + line()),
    "empty record": (RECORD, b""),
    "cut record": (RECORD, b'{"status": "succ'),
    "record of bytes": (RECORD, b"\xff\xfe{}"),
    "record that is a list": (RECORD, b"[]"),
}  # fmt: skip


def refused(folder, name):
    """Every reader refuses, in a sentence with the file's name."""
    for look in (
        lambda: Store(folder).about() and Store(folder).results(),
        lambda: collect_report(folder),
    ):
        with pytest.raises(InputError, match=name) as raised:
            look()
        assert len(str(raised.value)) < 1500


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_is_named(folder, kind):
    name, content = FILES[kind]
    Store(folder).results()
    (folder / name).write_bytes(content)
    refused(folder, name)


@pytest.mark.parametrize("name", [ROWS, MANIFEST, RECORD])
def test_a_folder_in_a_file_s_place_is_named(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(folder, name)
    with pytest.raises(InputError, match=name), Store(folder).writer("main"):
        Store(folder).about()


def test_a_damaged_folder_is_not_evaluated_into(folder, capsys):
    (folder / ROWS).write_bytes(line(union_px=400))
    for out in (str(folder), ""):
        assert cli.main(["evaluate", "--method", "whole_image", "--limit", "2", "--out", out]) == 2
        (said,) = (x for x in capsys.readouterr().err.splitlines() if "ground-probe:" in x)
        assert ("holds another evaluation" if out else "no name") in said


def test_an_error_cannot_write_to_the_terminal_or_break_the_table(tmp_path):
    error = ValueError("red \x1b[31m, half \ud800, two\nlines, a bell \a")
    found = error_row("a", error)
    assert found["error"] == r"ValueError: red \x1b[31m, half \ud800, two lines, a bell \x07"
    pa.table({name: [found[name]] for name in ("error", "traceback")})


def test_a_hostile_sentence_is_an_error_of_its_own(tmp_path):
    """What a data set holds reaches the manifest, the table and the terminal."""
    from dataclasses import replace

    from ground_probe import load_split

    examples = list(load_split("scenes", "test", limit=4))
    texts = ["\x1b[2J", "x" * 300_000, "nul \0", "🙂"]
    examples = [replace(e, expression=text) for e, text in zip(examples, texts, strict=True)]
    result = evaluate(None, examples, tmp_path / "run", methods=["whole_image"])
    assert result.counts.ok == 4 and result.rows["expression"].tolist() == texts
