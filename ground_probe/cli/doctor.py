"""Say whether this machine is ready: versions, device, memory, disk, data."""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from ground_probe.cli.options import Answer, add_root
from ground_probe.errors import InputError, MissingWeightsError

EXAMPLE = "--model black-forest-labs/FLUX.1-Kontext-dev --dataset refcoco_unc"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    help_ = "its splits but train must be here; default: any data may be absent"
    parser.add_argument("--dataset", metavar="NAME|PATH", help=help_)
    parser.add_argument("--split", metavar="NAME", help="only this one; default: all but train")
    parser.add_argument("--deep", action="store_true", help="decode every photo and mask")
    parser.add_argument("--model", metavar="DIR_OR_ID", help="its weights must be here")
    add_root(parser)


def run(arguments: argparse.Namespace) -> Answer:
    """Look at everything, then say what is missing."""
    from ground_probe.editors.hub import absent
    from ground_probe.run_record import outdated, requirements
    from ground_probe.study.run import NOTEBOOKS, notebook_path

    machine, problems = _machine(), outdated()
    packages = {requirement.name: version for requirement, version in requirements()}
    notebooks = [str(notebook_path(name)) for name in NOTEBOOKS]
    lines = [
        *(f"{name} {version or 'is not installed'}" for name, version in packages.items()),
        *(f"{name} {version}" for name, version in machine.items()),
        *(f"notebook {path}" for path in notebooks),
    ]
    if arguments.model:
        try:
            absent(arguments.model)
            lines.append(f"weights {arguments.model}: here")
        except MissingWeightsError as error:
            problems.append(str(error))
    data, missing = _data(arguments)
    if arguments.dataset:
        lines += [f"data {c['dataset']} {c['split']}: {c['found']}".rstrip() for c in data]
    else:
        lines += _in_short(data)
    problems += missing
    return Answer(
        "\n".join([*lines, *([] if problems else ["ready"])]),
        {
            "ready": not problems,
            "machine": machine,
            "packages": packages,
            "notebooks": notebooks,
            "data": data,
            "problems": problems,
        },
        f"not ready: {'; '.join(problems)}" if problems else "",
    )


def _machine() -> dict[str, str]:
    import psutil
    import torch

    memory = psutil.virtual_memory()
    device = torch.accelerator.current_accelerator(check_available=True)
    return {
        "python": f"{sys.version.split()[0]} at {sys.executable}",
        "device": str(device or f"cpu, {torch.get_num_threads()} threads"),
        "memory": f"{memory.available / 2**30:.0f} of {memory.total / 2**30:.0f} GiB available",
        "disk": f"{shutil.disk_usage('.').free / 2**30:.0f} GiB free in {Path.cwd()}",
    }


def _data(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    from ground_probe.datasets import DATASETS, check_data, check_names, splits_of

    wanted, split = arguments.dataset, arguments.split
    if split and wanted is None:
        raise InputError(f"--split {split} is of which data? name it by --dataset")
    if split:
        check_names(wanted, split)
    chosen = [
        (name, part)
        for name in ([wanted] if wanted else DATASETS)
        for part in ([split] if split else splits_of(name))
    ]
    checks = [check_data(*pair, arguments.root, arguments.deep) for pair in chosen]
    # Nothing is evaluated on train, which the hub does not have.
    needed = [c for c in checks if wanted and (split or c.split != "train" or len(checks) == 1)]
    absent = [f"{c.dataset} {c.split}: {c.fix or c.found}" for c in needed if not c.ok]
    return [asdict(check) for check in checks], absent


def _in_short(checks: list[dict[str, Any]]) -> list[str]:
    lines = []
    for dataset, group in groupby(checks, key=itemgetter("dataset")):
        splits = list(group)
        here = [check["split"] for check in splits if check["ok"]]
        which = ", ".join(here) or f"how to get them: ground-probe doctor --dataset {dataset}"
        lines.append(f"data {dataset}: {len(here)} of {len(splits)} splits here ({which})")
    return lines
