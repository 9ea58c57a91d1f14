"""Evaluate the segmenter on a split, resumably."""

from __future__ import annotations

import argparse
import re
from typing import Any

from ground_probe.cli import loading, options
from ground_probe.cli.options import Answer, records
from ground_probe.errors import InputError

EXAMPLE = "--dataset scenes --split test --limit 64 --out runs/scenes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_model(parser)
    loading.add_smaller(parser)
    options.add_data(parser)
    options.add_recipe(parser)
    parser.add_argument(
        "--overlap",
        choices=("union", "refer"),
        default="union",
        help="where parts of a polygon overlap: object (default), or background as REFER has it",
    )
    parser.add_argument(
        "--method",
        action="append",
        metavar="NAME",
        help="what to score, default: full; may be repeated, for a baseline too",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="resumed if it holds a part")
    parser.add_argument("--shard", type=_shard, metavar="I/N", help="only each N-th image, from I")
    parser.add_argument(
        "--workers",
        default="1",
        metavar="N|ray|ray:N",
        help="processes of this machine, one thread each; or Ray's, by default one a GPU",
    )
    parser.add_argument("--address", help="of a running Ray cluster; for --workers ray")
    parser.add_argument("--retry-errors", action="store_true", help="run failed examples again")
    parser.add_argument(
        "--waive",
        action="append",
        default=[],
        metavar="EXAMPLE",
        help="leave a failed example out of the scores; may be repeated",
    )


def run(arguments: argparse.Namespace) -> Answer:
    """Evaluate."""
    import ground_probe as gp

    engine = _engine(arguments)
    recipe = options.recipe(arguments)
    from ground_probe.datasets import check_names

    check_names(arguments.dataset, arguments.split)
    loading.check_weights(
        arguments,
        dataset=arguments.dataset,
        split=arguments.split,
        drop=arguments.drop,
        encode_ahead=arguments.encode_ahead,
    )
    from ground_probe.evaluation.large import Load

    split = options.split(arguments, arguments.dataset, overlap=arguments.overlap)
    load = Load(
        arguments.model,
        loading.loading(arguments),
        recipe=recipe,
        drop=arguments.drop,
        expressions=tuple(split.expressions) if arguments.encode_ahead else (),
    )
    result = gp.evaluate(
        load,
        split,
        arguments.out,
        recipe,
        seed=arguments.seed,
        shard=arguments.shard,
        retry_errors=arguments.retry_errors,
        waive=arguments.waive,
        methods=arguments.method or ("full",),
        engine=engine,
    )
    return Answer(
        f"{result.summary.to_string(index=False)}\n\nResults: {result.folder}",
        {"folder": str(result.folder), "summary": records(result.summary)},
        f"{result.failed} results failed and are not waived" if result.failed else "",
    )


def _shard(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"\d+/\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 0/4")
    index, count = map(int, text.split("/"))
    return index, count


def _engine(arguments: argparse.Namespace) -> Any:
    match = re.fullmatch(r"(ray$|ray:)?(\d*)", arguments.workers)
    if not match or not any(match.groups()):
        raise InputError(f"--workers {arguments.workers!r}: give a number, ray or ray:N")
    on_ray, count = match[1] or arguments.address, int(match[2] or 0)
    if on_ray:
        from ground_probe.evaluation.ray import Ray

        return Ray(count or None, arguments.address)
    from ground_probe.evaluation import InProcess, Processes

    return InProcess if count == 1 else Processes(count)
