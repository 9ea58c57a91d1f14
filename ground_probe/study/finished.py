"""What of a study need not be run again: parts whose every input is as it was."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import ground_probe
from ground_probe.editors.hub import cached_index, repository
from ground_probe.errors import InputError
from ground_probe.run_record import environment, read_record

_DATA = ("*.json", "*.jsonl", "*.p", "*.parquet")


def finished_parts(folder: Path) -> dict[str, dict[str, Any]]:
    """The parts of the last run in a folder that ended well and whose pages are there."""
    try:
        parts = read_record(folder / "run.json").get("parts", {})
    except InputError:
        return {}
    return {
        name: part
        for name, part in parts.items()
        if isinstance(part, dict)
        and part.get("status") == "success"
        and all((folder / f"{name}{end}").is_file() for end in (".html", ".ipynb", ".run.json"))
    }


def inputs(model: str, root: str | None, recipe: str | None) -> list[Any]:
    """Everything besides a notebook and its parameters that its results depend on.

    The package with its embedded weights, the versions of all others, the model's files, the
    data's and the recipe's, by their contents or, where they are large, by their sizes and times.
    """
    package = Path(ground_probe.__file__).parent
    code = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            code.update(str(path.relative_to(package)).encode() + path.read_bytes())
    installed = environment()
    return [
        code.hexdigest(),
        [installed[name] for name in ("packages", "python", "machine")],
        _model(model),
        _stats(Path(root).expanduser(), _DATA) if root else [],
        Path(recipe).expanduser().read_text() if recipe and Path(recipe).is_file() else recipe,
    ]


def evaluations(folder: Path) -> list[Any]:
    """The evaluations under a folder, as they are now."""
    return _stats(folder, ("manifest.parquet", "rows*.parquet", "rows*.jsonl"))


def _model(model: str) -> Any:
    folder = Path(model).expanduser()
    if model == "tiny":  # it comes with the package
        return model
    if folder.is_dir():
        return _stats(folder, ("*",))
    index = cached_index(repository(model))
    return str(index and index.parent.name)


def _stats(folder: Path, patterns: tuple[str, ...]) -> list[Any]:
    paths = {path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()}
    stats = [(path, path.stat()) for path in sorted(paths)]
    return [[str(path.relative_to(folder)), s.st_size, s.st_mtime_ns] for path, s in stats]
