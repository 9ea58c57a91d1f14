"""Processes that collect: the same results, and nothing that stays when one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

import ground_probe as gp
from ground_probe.errors import GroundProbeError, InputError
from ground_probe.study import Spec, attended_words, collect
from ground_probe.study.workers import each_image
from ground_probe.testing import kontext

SPEC = Spec(steps=(0, 2), num_steps=4, tokens=5)


@pytest.fixture(scope="module")
def editor():
    return gp.load_editor(kontext())


@pytest.fixture(scope="module")
def split():
    return gp.load_split("scenes", "test", limit=5)


def test_two_workers_keep_what_one_keeps_to_the_bit(editor, split, tmp_path):
    one, two = (collect(editor, split, SPEC, tmp_path / str(n), workers=n) for n in (1, 2))
    names = [[path.name for path in each.files] for each in (one, two)]
    assert names[0] == names[1] and len(names[0]) == len(split)
    for ours, theirs in zip(one.files, two.files, strict=True):
        assert ours.read_bytes() == theirs.read_bytes()
    words = [attended_words(editor, split, SPEC, workers=n) for n in (1, 2)]
    assert words[0].equals(words[1])


def test_results_come_in_order_from_processes_of_one_thread(editor):
    def work(position: int) -> tuple[int, int, int]:
        time.sleep(0.05 * (4 - position))
        return position, os.getpid(), torch.get_num_threads()

    found = list(each_image(editor, work, range(4), workers=2))
    assert [position for position, *_ in found] == [0, 1, 2, 3]
    assert len({pid for _, pid, _ in found}) == 2 and os.getpid() not in found[0]
    assert {threads for *_, threads in found} == {1}
    assert {pid for _, pid, _ in each_image(editor, work, range(2), workers=1)} == {os.getpid()}


def test_an_error_of_a_worker_is_that_of_the_work(editor):
    def work(position: int) -> None:
        raise InputError(f"image {position}")

    with pytest.raises(InputError, match="image 0"):
        list(each_image(editor, work, range(4), workers=2))


def test_a_killed_worker_is_said_and_what_is_there_is_not_done_again(editor, split, tmp_path):
    module = sys.modules[collect.__module__]
    reduced, marker = module.reduced, tmp_path / "killed"

    def dying(one, example, *more):
        if example.key == split.keys[3] and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return reduced(one, example, *more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "reduced", dying)
        with pytest.raises(GroundProbeError, match=r"died.*repeat it"):
            collect(editor, split, SPEC, tmp_path / "kept", workers=2)
    there = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    samples = collect(editor, split, SPEC, tmp_path / "kept", workers=2)
    assert len(samples.files) == len(split) and len(there) < len(split)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in there.items())


def test_workers_leave_with_a_parent_that_is_killed(tmp_path):
    code = (
        "import sys, time, pathlib, os; import ground_probe as gp\n"
        "from ground_probe.study.workers import each_image\n"
        "from ground_probe.testing import kontext\n"
        "def work(at):\n"
        "    (pathlib.Path(sys.argv[1]) / str(os.getpid())).touch(); time.sleep(60)\n"
        "list(each_image(gp.load_editor(kontext()), work, range(2), workers=2))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    while process.poll() is None and len(pids := list(tmp_path.iterdir())) < 2:
        time.sleep(0.1)
    process.kill()
    process.wait()
    ends = time.monotonic() + 20
    while (left := [p for p in pids if psutil.pid_exists(int(p.name))]) and time.monotonic() < ends:
        time.sleep(0.1)
    assert left == []
    assert len(pids) == 2
