"""Files that are whole whenever they are there, and digests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ground_probe.errors import InputError
from ground_probe.io import canonical_json, digest, whole_file, writable_folder

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with whole_file(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path):
    path = tmp_path / ("n" * 250 + ".png")
    with whole_file(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("name", ["n" * 300, "none/file", "folder"])
def test_a_file_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "folder").mkdir()
    said = pytest.raises(InputError, match=r"cannot write .*; choose another")
    with said, whole_file(tmp_path / name) as part:
        part.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_killed_writer_leaves_the_old_file_and_its_rest_goes_with_the_next(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    text = f"""
import os, signal
from ground_probe.io import whole_file
with whole_file({str(path)!r}) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", text]).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    (rest,) = (other for other in tmp_path.iterdir() if other != path)
    long_ago = time.time() - 2 * 3600
    os.utime(rest, (long_ago, long_ago))
    with whole_file(path) as part:
        part.write_text("new")
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "new"


def test_a_planted_link_is_replaced_and_its_target_stays(tmp_path):
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with whole_file(tmp_path / "link") as part:
        part.write_text("ours")
    assert (tmp_path / "target").read_text() == "theirs"
    assert (tmp_path / "link").read_text() == "ours"


def test_many_writers_of_one_file_leave_one_of_theirs(tmp_path):
    def write(number):
        with whole_file(tmp_path / "file") as part:
            part.write_text(str(number) * 10_000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    (path,) = tmp_path.iterdir()
    text = path.read_text()
    assert len(set(text)) == 1 and len(text) == 10_000


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match=r"cannot make the output folder .*/file/out: Not a dir"):
        writable_folder(file / "out")
    with pytest.raises(InputError, match="cannot make the output folder"):
        writable_folder(file)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_the_digest_ignores_order_and_survives_a_file(spec):
    shuffled = dict(reversed(spec.items()))
    assert digest(shuffled) == digest(spec) == digest(json.loads(json.dumps(spec)))


@given(JSON, JSON)
def test_another_spec_has_another_digest(one, other):
    same = canonical_json(one) == canonical_json(other)
    assert (digest(one) == digest(other)) == same


def test_a_spec_that_json_cannot_say_is_no_spec():
    with pytest.raises(ValueError):
        digest({"share": float("nan")})
    with pytest.raises(TypeError):
        digest({"out": os})
