"""Evaluate the segmenter on a split, resumably."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ground_probe.cli import loading, options
from ground_probe.cli.answer import Answer
from ground_probe.errors import InputError, unknown

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
    parser.add_argument("--workers", default="1", metavar="N|ray", help="more than 1 need ray")
    parser.add_argument("--address", help="of a running Ray cluster; for --workers")
    parser.add_argument("--retry-errors", action="store_true", help="run failed examples again")
    parser.add_argument(
        "--waive",
        action="append",
        default=[],
        metavar="EXAMPLE",
        help="leave a failed example out of the scores; may be repeated",
    )
    options.add_seed(parser)


def run(arguments: argparse.Namespace) -> Answer:
    """Evaluate."""
    import ground_probe as gp

    engine, how = _engine(arguments), _methods(arguments.method)
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

    split = options.split(arguments, overlap=arguments.overlap)
    load = Load(
        arguments.model,
        loading.loading(arguments),
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
        **how,
        **engine,
    )
    return Answer(
        f"{result.summary.to_string(index=False)}\n\nResults: {result.folder}",
        {
            "folder": str(result.folder),
            "summary": json.loads(result.summary.to_json(orient="records")),
        },
        f"{result.failed} results failed and are not waived" if result.failed else "",
    )


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 0 <= I < N, such as 0/4")
    return int(index), int(count)


def _methods(names: list[str] | None) -> dict[str, Any]:
    """The methods of `evaluate`, and the function that gives them all from one look."""
    if names is None:
        return {}
    from ground_probe.evaluation import BASELINES
    from ground_probe.segmentation import compare
    from ground_probe.segmentation.methods import METHODS

    for name in names:
        if name not in (*METHODS, *BASELINES):
            raise unknown("method", name, (*METHODS, *BASELINES))
    many = set(names) & set(METHODS) - {"full"}
    return {"methods": tuple(dict.fromkeys(names))} | ({"segment": compare} if many else {})


def _engine(arguments: argparse.Namespace) -> dict[str, Any]:
    workers, address = arguments.workers, arguments.address
    if workers != "ray" and not workers.isdecimal():
        raise InputError(f"--workers {workers!r}: give a number or ray")
    if workers == "1" and address is None:
        return {}
    from ground_probe.evaluation.ray import Ray

    return {"engine": Ray(None if workers == "ray" else int(workers), address)}
