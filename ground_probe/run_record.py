"""`run.json`: what was run, with what, and how it ended, written whole at every change."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from ground_probe.errors import InputError
from ground_probe.io import digest, whole_file, writable_folder

DISTRIBUTION = "ground-probe"
TERMINATED = 128 + signal.SIGTERM
_PATIENCE_SECONDS = 30


@dataclass
class RunRecord:
    """The record of one run: its file and what the file says."""

    path: Path
    fields: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def begin(cls, path: Path, spec: dict[str, Any], **fields: Any) -> RunRecord:
        """Start a run, or start it anew where one of the same spec was before.

        `spec` is all that decides the result, as JSON values; `fields` is what else is worth
        knowing.

        Raises:
            InputError: the file holds a run of another spec; the message says what differs.
        """
        before = read_record(path) if path.exists() else {"digest": digest(spec)}
        if before.get("digest") != digest(spec):
            raise InputError(
                f"{path.parent} holds a run with other settings "
                f"({_difference(before.get('spec') or {}, spec)}): choose another output folder, "
                "or remove this one"
            )
        fields |= {"spec": spec, "digest": digest(spec), **environment()}
        record = cls(path, fields | {"started_utc": _now(), "ended_utc": None})
        record.write("started")
        return record

    @property
    def folder(self) -> Path:
        """The folder the results belong in."""
        return self.path.parent

    def write(self, status: str, **fields: Any) -> None:
        """Set the status and the given fields, and write the whole file."""
        self.fields.update(fields, status=status)
        with whole_file(self.path) as part:
            part.write_text(json.dumps(self.fields, indent=2, default=str) + "\n")

    def finish(self, status: str = "success", **fields: Any) -> None:
        """Write how the run ended, and when."""
        self.write(status, **fields, ended_utc=_now())


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """A scheduler's notice ends what runs as Ctrl-C does: with clean-up, and within 30 s."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: object) -> None:
        if not late.is_alive():
            late.start()
        raise SystemExit(TERMINATED)

    # Somebody else's code may swallow the exit, as an import does that is interrupted half-way.
    late = threading.Timer(_PATIENCE_SECONDS, os._exit, (TERMINATED,))
    late.daemon = True
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        late.cancel()


@contextmanager
def recording(path: Path, spec: dict[str, Any], **fields: Any) -> Iterator[RunRecord]:
    """Keep a run's record: `started`, then `success`, `interrupted` or `error`.

    SIGTERM ends the run as Ctrl-C does, so that a scheduler's notice is recorded too.
    """
    record = RunRecord.begin(path, spec, **fields)
    with sigterm_as_exit():
        try:
            yield record
        except (KeyboardInterrupt, SystemExit):
            record.finish("interrupted")
            raise
        except BaseException as error:
            record.finish("error", error=f"{type(error).__name__}: {error}")
            raise
    if record.fields["status"] == "started":  # nobody said how it ended
        record.finish()


def open_run(notebook: str, out: str, **parameters: Any) -> RunRecord:
    """Begin a notebook's own record; call its `finish` in the last cell.

    ```python
    run = gp.open_run("10_emergence", out, model=model, limit=limit)
    run.finish(verdicts={"is it there?": verdict})
    ```

    Args:
        notebook: the notebook's name, without suffix.
        out: folder of results; empty for one named after notebook and parameters in `runs/`, where
            the kernel runs.
        parameters: the notebook's parameters, without `out`.

    Raises:
        InputError: a package is missing or too old, or the folder cannot be written or holds this
            notebook with other parameters.
    """
    check_packages()
    folder = writable_folder(out or Path("runs") / f"{notebook}-{digest(parameters)}")
    return RunRecord.begin(status_path(folder, notebook), parameters)


def status_path(folder: Path, notebook: str) -> Path:
    """Where a notebook's record lies in a folder of results."""
    return folder / f"{notebook}.run.json"


def read_record(path: Path) -> dict[str, Any]:
    """What a run's file says.

    Raises:
        InputError: the file is not a run record.
    """
    try:
        fields = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a run record ({error}): move it away") from error
    if not isinstance(fields, dict) or "status" not in fields:
        raise InputError(f"{path} is not a run record (no status in it): move it away")
    return fields


def environment() -> dict[str, Any]:
    """Package versions, commit and machine: what a reader needs to repeat a run."""
    return {
        "packages": {requirement.name: installed for requirement, installed in requirements()},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **_commit(),
    }


def requirements() -> list[tuple[Requirement, str | None]]:
    """This package and what it requires (without extras), each with the version installed."""
    declared = [Requirement(text) for text in [DISTRIBUTION, *(requires(DISTRIBUTION) or ())]]
    return [
        (requirement, _version(requirement.name))
        for requirement in declared
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]


def outdated() -> list[str]:
    """What to install where a package is missing or not of the version needed; mostly nothing."""
    return [
        f"pip install '{requirement}' (found {installed})"
        for requirement, installed in requirements()
        if installed is None or not requirement.specifier.contains(installed, prereleases=True)
    ]


def check_packages() -> None:
    """Look at the packages before anything is run with them.

    Raises:
        InputError: one is missing or too old; the message holds the command that gets it.
    """
    if wrong := outdated():
        raise InputError(f"the packages here are not those needed: {'; '.join(wrong)}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
    checkout = Path(__file__).parents[1]
    if not (checkout / ".git").exists():
        return {"commit": None, "dirty": None}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    return {
        "commit": git("rev-parse", "--verify", "--quiet", "HEAD") or None,
        "dirty": bool(git("status", "--porcelain")),
    }


def _difference(before: Any, after: Any, name: str = "") -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted({*before, *after})
        inner = [(key, before.get(key), after.get(key)) for key in keys]
        parts = [_difference(b, a, f"{name}.{key}".lstrip(".")) for key, b, a in inner if b != a]
        return ", ".join(parts)
    return f"{name}: {before!r} there, {after!r} now"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
