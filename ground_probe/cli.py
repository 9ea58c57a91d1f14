"""The command line: `ground-probe study | segment | evaluate | models | doctor | train-tiny`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import ground_probe as gp
from ground_probe.errors import GroundProbeError, InputError, unknown

# Heavy imports stand inside the commands, so that --help is instant.


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0, 2 for a user's mistake, 130 when interrupted."""
    for library in ("TRANSFORMERS", "DIFFUSERS"):  # their advice is not for a user of this command
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    try:
        arguments = _parser().parse_args(argv)
        arguments.command(arguments)
    except GroundProbeError as error:
        print(f"ground-probe: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ground-probe: interrupted", file=sys.stderr)
        return 130
    return 0


def study(arguments: argparse.Namespace) -> None:
    """Run the notebooks; print their two tables and where the results are."""
    from ground_probe.datasets import DATASETS

    if arguments.dataset not in DATASETS:
        raise unknown("dataset", arguments.dataset, DATASETS)
    from ground_probe.study import run_study, tables

    page = run_study(
        arguments.out,
        model=arguments.model,
        dataset=arguments.dataset,
        limit=arguments.limit,
        seed=arguments.seed,
    )
    for title, table in tables(page.parent).items():
        print(f"\n{title}\n{table.to_string(float_format='{:.3f}'.format)}")
    print(f"\nResults: {page}")


def segment(arguments: argparse.Namespace) -> None:
    """Segment what an expression refers to in a photo."""
    from PIL import Image

    from ground_probe import photos
    from ground_probe.datasets.scenes.draw import SIZE_PX

    targets = [photos.check_target(path) for path in (arguments.out, arguments.overlay) if path]
    photo = photos.read_photo(arguments.photo)
    if not arguments.expression.strip():
        raise InputError('the expression is empty: say what to segment, such as "left man"')
    if arguments.model == "tiny" and photo.size != (SIZE_PX, SIZE_PX):
        print(
            "ground-probe: the embedded editor only knows generated scenes "
            f"({SIZE_PX} x {SIZE_PX} px); for a photo give --model a FLUX.1-Kontext folder or id",
            file=sys.stderr,
        )
    editor = gp.load_editor(arguments.model)
    mask = gp.segment(editor, photo, arguments.expression, seed=arguments.seed).mask
    photos.save_image(Image.fromarray(mask.astype("uint8") * 255), targets[0])
    if arguments.overlay:
        photos.save_image(photos.overlay(photo, mask), targets[1])
    print(f"{' '.join(map(str, targets))}: {mask.mean():.1%} of the image")


def evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate the segmenter on a split, resumably."""
    split = gp.load_split(
        arguments.dataset,
        arguments.split,
        root=arguments.root,
        limit=arguments.limit,
        seed=arguments.seed,
    )
    result = gp.evaluate(
        partial(gp.load_editor, arguments.model),
        split,
        arguments.out,
        seed=arguments.seed,
        shard=arguments.shard,
        retry_errors=arguments.retry_errors,
        waive=arguments.waive,
        **_engine(arguments.workers),
    )
    print(result.summary.to_string(index=False))
    print(f"\nResults: {result.folder}")


def models(arguments: argparse.Namespace) -> None:
    """List the families of editors that can be probed."""
    from ground_probe.editors import models

    for model in models():
        name, *facts = model.items()
        print(name[1])
        for key, value in facts:
            if value:
                print(f"    {key}: {value}")


def doctor(arguments: argparse.Namespace) -> None:
    """Say whether this machine is ready: versions, device, memory, disk, data."""
    import psutil

    from ground_probe.datasets import DATASETS, check_data
    from ground_probe.run_record import requirements
    from ground_probe.study import NOTEBOOKS, notebook_path

    problems = []
    print(f"python {sys.version.split()[0]} at {sys.executable}")
    for requirement, found in requirements():
        print(f"{requirement.name} {found or 'is not installed'}")
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            problems.append(f"pip install '{requirement}'  (found {found})")
    print(f"device {_device()}")
    memory = psutil.virtual_memory()
    print(f"memory {memory.available / 2**30:.0f} of {memory.total / 2**30:.0f} GiB available")
    print(f"disk {shutil.disk_usage('.').free / 2**30:.0f} GiB free in {Path.cwd()}")
    for name in NOTEBOOKS:
        try:
            print(f"notebook {notebook_path(name)}")
        except InputError as error:
            problems.append(str(error))
    for dataset, splits in DATASETS.items():
        here = [split for split in splits if check_data(dataset, split).ok]
        which = ", ".join(here) or "evaluate says how to get them"
        print(f"data {dataset}: {len(here)} of {len(splits)} splits here ({which})")
    if problems:
        raise GroundProbeError(f"not ready: {'; '.join(problems)}")
    print("ready")


def train_tiny(arguments: argparse.Namespace) -> None:
    """Train the embedded editor from scratch on edits of generated scenes."""
    from ground_probe.run_record import writable_folder

    out = writable_folder(arguments.out)
    from ground_probe.editors.tiny.train import train

    folder = train(
        minutes=arguments.minutes,
        device=arguments.device,
        out=out,
        resume=arguments.resume,
        seed=arguments.seed,
    )
    print(f"Results: {folder}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ground-probe", description=gp.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=gp.__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(command, name: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=command.__doc__,
            description=command.__doc__,
            epilog=f"example:\n  ground-probe {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=command)
        return sub

    sub = add(study, "study", "--limit 32 --out runs/short")
    _model(sub, "tiny")
    sub.add_argument("--dataset", default="scenes", help="default: scenes")
    sub.add_argument("--out", default="runs/study", metavar="DIR", help="default: runs/study")
    _limit(sub)
    _seed(sub)

    sub = add(
        segment,
        "segment",
        'photo.jpg "left man" --model path/to/FLUX.1-Kontext-dev -o mask.png --overlay seen.png',
    )
    sub.add_argument("photo", metavar="PHOTO", help="any image; EXIF orientation is applied")
    sub.add_argument("expression", metavar="EXPRESSION", help="what to segment")
    _model(sub, "tiny")
    sub.add_argument("-o", "--out", default="mask.png", metavar="FILE", help="default: mask.png")
    sub.add_argument("--overlay", metavar="FILE", help="also write the photo with the mask on it")
    _seed(sub)

    sub = add(evaluate, "evaluate", "--dataset scenes --split test --limit 64 --out runs/scenes")
    _model(sub, "tiny")
    sub.add_argument("--dataset", default="scenes", help="default: scenes")
    sub.add_argument("--split", default="test", help="default: test")
    sub.add_argument("--root", metavar="DIR", help="of the data; default: the hub's local cache")
    sub.add_argument("--out", required=True, metavar="DIR", help="resumed if it holds a part")
    sub.add_argument("--shard", type=_shard, metavar="I/N", help="only each N-th image, from I")
    sub.add_argument("--workers", default="1", metavar="N|ray", help="more than 1 need ray")
    sub.add_argument("--retry-errors", action="store_true", help="run failed examples again")
    sub.add_argument(
        "--waive",
        action="append",
        default=[],
        metavar="EXAMPLE",
        help="leave a failed example out of the scores; may be repeated",
    )
    _limit(sub)
    _seed(sub)

    add(models, "models", "")
    add(doctor, "doctor", "")

    sub = add(train_tiny, "train-tiny", "--minutes 60 --out runs/tiny --resume")
    sub.add_argument("--minutes", type=_minutes, default=60.0, help="of training, default: 60")
    sub.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    sub.add_argument("--out", default="runs/tiny", metavar="DIR", help="default: runs/tiny")
    sub.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR")
    _seed(sub)
    return parser


def _model(parser: argparse.ArgumentParser, default: str) -> None:
    help_ = f"{default} (embedded), a folder or a hub id; default: {default}"
    parser.add_argument("--model", default=default, metavar="DIR_OR_ID", help=help_)


def _limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=_positive, metavar="N", help="about N examples a split")


def _seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="default: 0")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return minutes


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 0 <= I < N, such as 0/4")
    return int(index), int(count)


def _engine(workers: str) -> dict:
    if workers == "1":
        return {}
    if workers != "ray" and not workers.isdecimal():
        raise InputError(f"--workers {workers!r}: give a number or ray")
    from ground_probe.evaluation.ray_runner import Ray

    return {"engine": Ray() if workers == "ray" else Ray(int(workers))}


def _device() -> str:
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        return f"cpu, {torch.get_num_threads()} threads"
    return str(found)
