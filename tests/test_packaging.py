"""What holds of the package as a whole: who imports whom, what is declared, what is committed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import nbformat
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import ground_probe
from ground_probe.study import run as study

REPO = Path(__file__).parents[1]
PACKAGE = REPO / "ground_probe"
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))

EVERYTHING = "everything"
MAY_IMPORT = {  # directly; what these may import comes with them
    "errors": (),
    "words": (),
    "geometry": ("errors",),
    "metrics": ("errors",),
    "permutation": ("metrics",),
    "stats": ("permutation",),
    "io": ("errors",),
    "images": ("io",),
    "run_record": ("io",),
    "datasets": ("geometry", "images", "io"),
    "editors": ("geometry", "images", "io", "words"),
    "capture": ("editors",),
    "probes": ("stats",),
    "probes.table": ("capture", "datasets", "probes"),
    "segmentation": ("capture", "datasets", "metrics", "run_record", "words"),
    "evaluation": ("segmentation", "datasets", "stats", "run_record"),
    "testing": ("capture", "editors"),
    "inside": ("capture", "metrics"),
    "study": ("evaluation", "inside", "probes.table"),
    "cli": (EVERYTHING,),
}


def unit_of(module: str) -> str:
    """The row of the table that a module belongs to: its longest prefix there."""
    parts = module.removeprefix("ground_probe.").split(".")
    names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((name for name in names if name in MAY_IMPORT), names[-1])


def allowed(unit: str) -> set[str]:
    found = {unit}
    for other in MAY_IMPORT[unit]:
        found |= set(MAY_IMPORT) if other == EVERYTHING else allowed(other)
    return found


def imports(text: str, module: str) -> set[str]:
    """The absolute names of all modules that a source imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(
                [*module.split(".")[: -node.level or None], *filter(None, [node.module])]
            )
            base = base if node.level else node.module
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def wrong_imports(text: str, module: str) -> list[str]:
    unit = unit_of(module)
    if unit not in MAY_IMPORT:
        return [f"{module} has no row in the table"]
    own = {name for name in imports(text, module) if name.startswith("ground_probe.")}
    return sorted(f"{module} imports {name}" for name in own if unit_of(name) not in allowed(unit))


def modules() -> dict[str, str]:
    """Every module's name and source; `__init__` of the package itself only re-exports."""
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]
    names = [".".join(path.relative_to(REPO).with_suffix("").parts) for path in paths]
    return {
        name.removesuffix(".__init__"): path.read_text()
        for name, path in zip(names, paths, strict=True)
    }


def test_data_goes_one_way():
    wrong = [line for module, text in modules().items() for line in wrong_imports(text, module)]
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("ground_probe.probes.fisher", "from ground_probe.capture import trace"),
        ("ground_probe.probes.fisher", "def f():\n    import ground_probe.editors.editor"),
        ("ground_probe.probes.fisher", "from ..datasets import load_split"),
        ("ground_probe.metrics", "from ground_probe.study import figures"),
        ("ground_probe.editors.editor", "from ground_probe.datasets import load_split"),
        ("ground_probe.segmentation.segment", "import ground_probe.study.calibrate"),
        ("ground_probe.stray", "import ground_probe.errors"),
    ],
)
def test_a_planted_wrong_import_is_found(module, text):
    assert wrong_imports(text, module)


def test_the_table_allows_what_it_says():
    assert not wrong_imports("from ground_probe import geometry", "ground_probe.segmentation.prior")
    assert not wrong_imports("import ground_probe.datasets", "ground_probe.study.spec")


def test_every_import_is_declared():
    optional = [Requirement(text) for text in PROJECT["optional-dependencies"]["ray"]]
    declared = [Requirement(text) for text in PROJECT["dependencies"]] + optional
    names = {canonicalize_name(requirement.name) for requirement in declared}
    owners = packages_distributions()
    only_when_asked_for = {"torchao"}  # by --quantize, which says how to install it
    missing = {
        (module, name)
        for module, text in modules().items()
        for name in {found.partition(".")[0] for found in imports(text, module)}
        if name not in {*sys.stdlib_module_names, "ground_probe", *only_when_asked_for}
        if not names & {canonicalize_name(owner) for owner in owners.get(name, [name])}
    }
    assert missing == set()


def test_conda_gets_the_same_set():
    environment = yaml.safe_load((REPO / "environment.yml").read_text())
    python, pip, inner = environment["dependencies"]
    assert (python, pip) == (f"python{PROJECT['requires-python']}", "pip")
    assert inner["pip"] == ["-c constraints.txt", *PROJECT["dependencies"], "-e ."]


def pins_of(name):
    lines = (REPO / name).read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}


def test_the_oldest_set_is_what_is_allowed():
    declared = [Requirement(text) for text in PROJECT["dependencies"]]
    allowed = {canonicalize_name(lib.name): lib.specifier for lib in declared if lib.specifier}
    oldest = pins_of("constraints-oldest.txt")
    assert oldest.keys() == allowed.keys()
    for name, pin in oldest.items():
        lowest = str(allowed[name]).removeprefix(">=")
        assert Version(pin.removeprefix("==")) == Version(lowest), name


def test_the_tested_set_covers_what_is_declared():
    versions = pins_of("constraints.txt")
    assert all(specifier.startswith("==") for specifier in versions.values())
    assert versions["torch"] == "==2.13.0"
    extras = chain.from_iterable(PROJECT["optional-dependencies"].values())
    for text in chain(PROJECT["dependencies"], extras):
        requirement = Requirement(text)
        pinned = versions[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(pinned), text


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The wheel as someone installs it who has no checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_all_that_runs(unpacked):
    made = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    ours = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    needed = {path.relative_to(REPO).as_posix() for path in ours}
    needed |= {f"ground_probe/notebooks/{path.name}" for path in NOTEBOOKS}
    assert needed <= made
    for part in (
        "weights/model_index.json",
        "segmentation/recipes.json",
        "template.html",
        "py.typed",
    ):
        assert any(name.endswith(part) for name in needed), part
    assert {name.split("/")[0].partition("-")[0] for name in made} == {"ground_probe"}


def test_the_wheel_alone_finds_its_parts(unpacked, tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(unpacked)!r})\n"
        "from ground_probe.study import run as study\n"
        "print(study.__file__, *map(study.notebook_path, study.NOTEBOOKS), sep='\\n')"
    )
    result = run(code, tmp_path)
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert len(paths) == len(study.NOTEBOOKS) + 1, result.stderr
    assert all(path.is_relative_to(unpacked) and path.is_file() for path in paths)


def run(code: str, folder: Path) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter, at home and at work in an empty folder."""
    home = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MPL", "NUMBA"))}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env=environment | home,
        capture_output=True,
        text=True,
    )


def test_importing_is_free_and_has_no_effects(tmp_path):
    heavy = ("torch", "diffusers", "transformers", "umap", "pandas", "matplotlib", "sklearn")
    code = (
        "import os, sys; before = dict(os.environ); import ground_probe as gp; gp.__version__\n"
        f"print([name for name in {heavy} if name in sys.modules], os.environ == before)"
    )
    result = run(code, tmp_path)
    assert (result.stdout, result.stderr) == ("[] True\n", "")
    assert list(tmp_path.iterdir()) == []


def test_probes_and_metrics_need_no_diffusers(tmp_path):
    code = (
        "import sys, ground_probe.probes, ground_probe.metrics\n"
        "print([name for name in ('diffusers', 'transformers', 'umap') if name in sys.modules])"
    )
    assert run(code, tmp_path).stdout == "[]\n"


def test_public_names_exist_and_are_those_of_the_stub():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    listed = next(
        ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign)
    )
    assert sorted([*ground_probe.__all__, "__version__"]) == sorted(listed)
    for name in listed:
        assert getattr(ground_probe, name) is not None


def test_the_study_has_its_notebooks():
    for name in study.NOTEBOOKS:
        assert study.notebook_path(name).is_file()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_thin_and_carry_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    python = TransformerManager().transform_cell  # `%matplotlib inline` is no Python
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert study.resolve_parameters(path, {"out": "somewhere"})["out"] == "somewhere"
    assert set(study.NOTEBOOKS.get(path.stem, ())) <= study.resolve_parameters(path, {}).keys()
    nodes = [node for cell in code for node in ast.walk(ast.parse(python(cell.source)))]
    assert not [n for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Try)]


def test_every_module_is_read_in_one_sitting():
    lines = {str(path.relative_to(REPO)): len(path.read_text().splitlines())
             for path in PACKAGE.rglob("*.py")}  # fmt: skip
    assert {name: count for name, count in lines.items() if count > 320} == {}
    assert sorted(lines.values())[len(lines) // 2] <= 150, "half of them are short"
