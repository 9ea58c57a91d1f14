"""Ray as an engine: who reaches a cluster, one that is not there, what a killed driver leaves."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from evaluation_script import METHODS, segment

from ground_probe import load_split
from ground_probe.errors import InputError
from ground_probe.evaluation import evaluate
from ground_probe.evaluation.ray import Ray

pytest.importorskip("ray")
SCRIPT = Path(__file__).with_name("evaluation_script.py")
STRANGER = "import ray; ray.init(address={!r}, logging_level='error'); print(ray.nodes())"
TOKENS = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}


def driver(out, seconds):
    command = [sys.executable, str(SCRIPT), str(out), "ray1", "12", str(seconds)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, **quiet)


def of_cluster(before=()):
    """The folders of clusters that are not those of before, and the processes that name them."""
    folders = set(glob.glob("/tmp/ground-probe-ray-*")) - set(before)
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(folder in " ".join(process.cmdline()) for folder in folders):
                processes.append(process)
    return folders, processes


def wait_for(condition, process, seconds=90):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if found := condition():
            return found
        time.sleep(0.05)
    stderr = process.communicate()[1] if process.poll() is not None else "still running"
    if "Ray cannot start" in stderr:
        pytest.skip("this machine is too busy for Ray to start within its 30 s")
    raise AssertionError(stderr)


def head_of(before):
    """The address of a cluster's head, as the first process that joins it is told."""
    for process in of_cluster(before)[1]:
        with contextlib.suppress(psutil.Error):
            for argument in process.cmdline():
                if found := re.fullmatch(r"--gcs-address=(.+:\d+)", argument):
                    return found[1]
    return None


def test_a_stranger_is_refused(tmp_path):
    """Ray's services listen on every interface: who reached the port ran code."""
    before = glob.glob("/tmp/ground-probe-ray-*")
    process = driver(tmp_path / "run", 0.5)
    try:
        address = wait_for(lambda: head_of(before), process)
        nobody = {name: value for name, value in os.environ.items() if name not in TOKENS}
        disabled = {"RAY_AUTH_MODE": "disabled"}
        for token in (disabled, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
            command = [sys.executable, "-c", STRANGER.format(address)]
            quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            stranger = subprocess.Popen(command, env=nobody | token, **quiet)
            said = ""
            for line in stranger.stderr:  # Ray would go on trying for minutes
                said += line
                if "InvalidAuthToken" in line:
                    break
            stranger.kill()
            assert "InvalidAuthToken" in said and "NodeID" not in stranger.communicate()[0]
        assert not TOKENS & os.environ.keys(), "the token is the driver's alone"
    finally:
        stderr = process.communicate(timeout=200)[1]
    if "Ray cannot start" not in stderr:  # on a busy machine the rest of Ray is too slow for it
        assert process.returncode == 0, stderr
    assert not of_cluster(before)[0], "nothing is left"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no.such.host.invalid:1"])
def test_a_head_that_is_not_there_is_said_within_seconds(tmp_path, address):
    start = time.monotonic()
    with pytest.raises(InputError, match=r"no head of a Ray cluster can be reached at .*leave it"):
        evaluate(
            None, load_split("scenes", "test", limit=2), tmp_path / "run", {"seconds": 0}, METHODS,
            segment=segment, engine=Ray(address=address),
        )  # fmt: skip
    assert time.monotonic() - start < 20


def test_an_address_without_a_port_is_refused(tmp_path):
    with pytest.raises(InputError, match="give host:port"):
        evaluate(
            None, load_split("scenes", "test", limit=2), tmp_path / "run", {"seconds": 0}, METHODS,
            segment=segment, engine=Ray(address="head:port"),
        )  # fmt: skip


def test_a_driver_killed_while_starting_leaves_nothing(tmp_path):
    before = glob.glob("/tmp/ground-probe-ray-*")
    process = driver(tmp_path / "run", 0)
    started = wait_for(
        lambda: [p for p in of_cluster(before)[1] if "gcs_server" in "".join(p.cmdline()[:1])],
        process,
    )
    process.kill()
    process.communicate()
    assert started and not list((tmp_path / "run").glob("rows-*.jsonl")), "it was still starting"
    end = time.monotonic() + 30
    while any(of_cluster(before)) and time.monotonic() < end:
        time.sleep(0.1)
    assert of_cluster(before) == (set(), []), "services and folder are gone"
