"""Compare evaluations of the same examples."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ground_probe.cli.options import Answer, add_root, records
from ground_probe.errors import InputError

if TYPE_CHECKING:
    from ground_probe.datasets import Split

EXAMPLE = "runs/kontext runs/qwen --out table.md table.tex table.csv --page moved.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="what `evaluate` left in --out, of the same examples: each is compared with the first",
    )
    help_ = "one table: .csv has every metric and group, .md and .tex the runs side by side"
    parser.add_argument("--out", nargs="+", default=[], metavar="FILE", help=help_)
    parser.add_argument("--moved", type=int, default=20, metavar="N", help="examples; default: 20")
    parser.add_argument(
        "--page", metavar="FILE.html", help="of the examples that moved most in the second run"
    )
    group = parser.add_argument_group("photos of the page")
    group.add_argument(
        "--dataset", metavar="NAME|PATH", help="default: what was evaluated; a path of one's own"
    )
    add_root(group)


def run(arguments: argparse.Namespace) -> Answer:
    """Compare."""
    runs = arguments.runs
    if len(runs) < 2:
        raise InputError(f"{runs[0]} is one run: give at least two")
    import ground_probe as gp
    from ground_probe.evaluation import moved_most, moved_page, side_by_side, write_comparison
    from ground_probe.io import whole_file

    table = gp.compare_runs(*runs)
    for path in arguments.out:
        write_comparison(table, path)
    method = table["method"].iloc[0]
    moved = moved_most(runs[0], runs[1], method)
    moved = moved[moved["difference"].ne(0)].head(arguments.moved)
    if arguments.page:
        page = moved_page(runs[0], runs[1], _split(arguments), method, arguments.moved)
        with whole_file(arguments.page) as part:
            part.write_text(page, encoding="utf-8")
    shown = table[table["metric"].isin(["miou", "oiou", "giou", "ciou"])]
    shown = shown.drop(columns=["against", *(["run"] if len(runs) == 2 else [])]).round(4)
    files = [*arguments.out, *([arguments.page] if arguments.page else [])]
    text = [
        *(f"{name} {run}" for name, run in zip("AB", runs, strict=False)),
        f"\n{side_by_side(table).to_string()}",
        f"\n{shown.to_string(index=False)}",
        f"\nmoved most ({method}):",
        moved.round(3).to_string(index=False) if len(moved) else "nothing",
        *(f"\n{file}" for file in files),
    ]
    data = {"differences": records(table), "moved": records(moved), "files": files}
    return Answer("\n".join(text), data)


def _split(arguments: argparse.Namespace) -> Split:
    """The split that the first run is of, by its name or where the caller says it is."""
    import ground_probe as gp
    from ground_probe.datasets import DATASETS
    from ground_probe.evaluation import Store

    spec = Store(Path(arguments.runs[0])).spec()
    dataset = arguments.dataset or spec["dataset"]
    if dataset == spec["dataset"] and dataset not in DATASETS:
        raise InputError(
            f"{dataset} is data of your own: say by --dataset PATH where its photos are"
        )
    return gp.load_split(
        dataset,
        spec["split"],
        root=arguments.root,
        seed=spec.get("seed", 0),
        text=spec.get("text") or "sent",
        overlap=spec.get("overlap") or "union",
    )
