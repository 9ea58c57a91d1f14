"""The study as a batch: notebooks run strictly, one folder of results, one page to read it by.

A notebook says itself how it ended, through `gp.open_run` and `finish`; what papermill left in the
executed notebook is never taken for success.
"""

from __future__ import annotations

import ast
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import nbformat
import papermill
from jinja2 import DictLoader
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from traitlets import default

from ground_probe.errors import GroundProbeError, unknown
from ground_probe.io import canonical_json, digest, whole_file, writable_folder
from ground_probe.run_record import RunRecord, read_record, recording, status_path
from ground_probe.study.finished import evaluations, finished_parts, inputs
from ground_probe.study.page import index_page
from ground_probe.study.parts import Part, run_parts, say
from ground_probe.study.spec import FOLDS, at_least

NOTEBOOKS = {
    "00_quickstart": ("model", "loading", "dataset", "root", "recipe", "seed"),
    "10_emergence": ("model", "loading", "dataset", "root", "limit", "workers", "seed"),
    "20_where_and_what": ("model", "loading", "dataset", "root", "limit", "workers", "seed"),
    "30_segmentation": ("model", "loading", "dataset", "root", "recipe", "limit", "seed"),
    "90_report": (),
}
_LAST = "90_report"  # it reads what the others leave
_IDLE = ("out", "workers")  # parameters that no result depends on
_COMMON = ("spec", "packages", "python", "machine", "commit", "dirty")  # to all parts


def notebook_path(name: str) -> Path:
    """Where a notebook's source lies: in the installed package, or in the checkout."""
    package = Path(__file__).parents[1]
    folders = (package / "notebooks", package.parent / "notebooks")
    paths = {path.stem: path for folder in folders for path in sorted(folder.glob("*.ipynb"))}
    if name not in paths:
        raise unknown("notebook", name, paths or ["(none: the installation holds no notebooks)"])
    return paths[name]


def resolve_parameters(source: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of a notebook: its defaults, with the given values in their place.

    The cell tagged `parameters` has lines `name: type = literal`.
    """
    cells = nbformat.read(source, as_version=4).cells
    (cell,) = (cell for cell in cells if "parameters" in cell.metadata.get("tags", ()))
    lines: Any = ast.parse(cell.source).body
    defaults = {line.target.id: ast.literal_eval(line.value) for line in lines}
    for name in given:
        if name not in defaults:
            raise unknown(f"parameter of {source.stem}", name, defaults)
    return defaults | dict(given)


def run_notebook(
    source: Path, folder: Path, parameters: dict[str, Any], progress: TextIO | None = None
) -> dict[str, Any]:
    """Execute a notebook into `folder` as a notebook and as HTML; return its own record.

    The folder exists and is the notebook's parameter `out`; `progress` is where the notebook's own
    bars go, by default standard error.

    Raises:
        GroundProbeError: the notebook failed, or ended without saying that it succeeded.
    """
    values = resolve_parameters(source, {**parameters, "out": str(folder)})
    status, executed = status_path(folder, source.stem), folder / source.name
    status.unlink(missing_ok=True)
    try:
        _execute(source, executed, values, progress or sys.stderr)
    except (KeyboardInterrupt, SystemExit):
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it misses what was cut off
        _end(status, "interrupted")
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, papermill.PapermillExecutionError):
            reason = f"{error.ename}: {error.evalue}"
        _end(status, "error", error=reason)
        raise GroundProbeError(f"{source.stem} failed: {reason} (see {executed})") from error
    record = read_record(status) if status.exists() else {"status": "never started"}
    if record["status"] != "success":
        reason = f"it ended as {record['status']!r}, by a dead kernel or without `run.finish`"
        _end(status, "error", error=reason)
        raise GroundProbeError(f"{source.stem} failed: {reason} (see {executed})")
    _overwrite_progress(executed)
    _write(executed.with_suffix(".html"), _as_html(executed))
    return record


def run_study(
    out: Path | str,
    *,
    model: str = "tiny",
    loading: Mapping[str, str] | None = None,
    dataset: str = "cartoons",
    root: str | None = None,
    recipe: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    workers: int = 1,
    notebooks: dict[str, tuple[str, ...]] = NOTEBOOKS,
) -> Path:
    """Run the notebooks; return the page that shows their results.

    A part that is there, of equal parameters, code, packages, weights and data, is kept.

    Args:
        out: folder of results; a run of the same settings in it is gone on with.
        model: what `load_editor` takes, as text.
        loading: further arguments of `load_editor`.
        dataset: what `load_split` takes.
        root: of the data; None for the hub's local cache.
        recipe: file of the segmenter's choices; None for the editor's own.
        limit: examples a split at most; by default what each notebook says.
        seed: of all noise and sampling.
        workers: notebooks at a time, and processes in which each collects; from a script, more
            than one need its `if __name__ == "__main__":`.
        notebooks: which to run, each with the names of those of the above that it takes.

    Raises:
        InputError: a setting is refused, or the folder cannot be used; nothing was run.
        GroundProbeError: a notebook failed.
    """
    settings = {
        "model": model,
        "loading": canonical_json(loading or {}),
        "dataset": dataset,
        "root": root,
        "recipe": recipe,
        "limit": limit,
        "workers": workers,
        "seed": seed,
    }
    if limit is not None:
        at_least(FOLDS, limit=limit)
    at_least(1, workers=workers)
    given = {name: value for name, value in settings.items() if value is not None}
    sources = {name: notebook_path(name) for name in notebooks}
    plan = {
        name: resolve_parameters(sources[name], {key: given[key] for key in takes if key in given})
        for name, takes in notebooks.items()
    }
    spec = {
        name: {key: value for key, value in parameters.items() if key not in _IDLE}
        for name, parameters in plan.items()
    }
    folder = writable_folder(out)
    before = finished_parts(folder)
    with recording(folder / "run.json", {"notebooks": spec}, seed=seed, parts={}) as run:
        parts, ours = run.fields["parts"], inputs(model, root, recipe)

        def keep(name: str, part: dict[str, Any], key: str) -> None:
            parts[name] = {k: v for k, v in part.items() if k not in _COMMON} | {"key": key}
            run.write("started")

        last = [name for name in plan if name == _LAST]
        for wave in ([name for name in plan if name != _LAST], last):
            read = [evaluations(folder), parts] if wave is last else []
            keys = {n: digest([sources[n].read_text(), spec[n], ours, *read]) for n in wave}
            new = []
            for name in wave:
                if before.get(name, {}).get("key") == keys[name]:
                    keep(name, before[name], keys[name])
                    say(f"{name}: finished before, with equal parameters, code and data; kept")
                else:
                    new.append(Part(name, sources[name], folder, plan[name]))
            for name, part in run_parts(new, workers):
                keep(name, part, keys[name])
        _write(folder / "index.html", index_page(folder, run.fields))
    return folder / "index.html"


class _OwnKernel(AsyncKernelManager):
    """Runs `python3` as this interpreter's own ipykernel.

    No folder of kernel specs is searched, so none can put another interpreter in its place.
    """

    @default("kernel_spec_manager")
    def _own_specs(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


def _execute(source: Path, executed: Path, values: dict[str, Any], progress: TextIO) -> None:
    # papermill's own look at parameters warns of types it cannot parse; ours are checked. What it
    # calls an error it raises as well.
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    papermill.execute_notebook(
        source,
        str(executed).replace("{", "{{").replace("}", "}}"),  # papermill formats the path
        parameters=values,
        kernel_name="python3",
        language="python",
        kernel_manager_class=_OwnKernel,
        extra_arguments=["--log-level=50"],  # of the kernel itself: it warns of TCP, and of Ctrl-C
        progress_bar=False,
        stderr_file=progress,
        iopub_timeout=600,  # on a busy machine a cell's last output comes later than in 4 s
    )


def _end(status: Path, how: str, **fields: Any) -> None:
    if status.exists():
        RunRecord(status, read_record(status)).finish(how, **fields)


def _write(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


_OFFLINE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js_requirejs %}{% endblock %}
"""


def _overwrite_progress(executed: Path) -> None:
    """Leave of every bar of progress its last state, as a terminal does."""
    notebook = nbformat.read(executed, as_version=4)
    CoalesceStreamsPreprocessor(enabled=True).preprocess(notebook, {})
    _write(executed, nbformat.writes(notebook))


def _as_html(executed: Path) -> str:
    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"offline.html.j2": _OFFLINE})],
        template_file="offline.html.j2",
        mathjax_url="",
    )
    text, _ = exporter.from_filename(str(executed))
    return text
