from __future__ import annotations

import os
import signal
from collections.abc import Iterator

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

settings.register_profile("patient", deadline=None, print_blob=True)  # nothing here is timed
settings.load_profile("patient")

# Under nohup or a shell's `&` Ctrl-C is ignored, and programs started here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Commands set variables of their process, which here is that of the other tests too."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """The table of an evaluation in one process, in one go."""
    from evaluation_runs import run, table

    out = tmp_path_factory.mktemp("runs") / "whole"
    run(out)
    return table(out)
