"""Run the notebooks; print their two tables and where the results are."""

from __future__ import annotations

import argparse

from ground_probe.cli import loading, options
from ground_probe.cli.options import Answer, records

EXAMPLE = "--limit 32 --out runs/short"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_model(parser)
    options.add_data(parser, split=None)
    options.add_recipe(parser)
    parser.add_argument("--out", default="runs/study", metavar="DIR", help="default: runs/study")
    parser.add_argument(
        "--workers",
        type=options.positive,
        metavar="N",
        help="notebooks, and images of each, at a time; default: the cores, for a small model",
    )


def run(arguments: argparse.Namespace) -> Answer:
    """Run the study."""
    from ground_probe.datasets import splits_of

    splits_of(arguments.dataset)
    options.recipe(arguments)  # a mistake in it is found now, not in the first notebook
    loading.check_weights(arguments, dataset=arguments.dataset, split="val")
    from ground_probe.study.page import tables
    from ground_probe.study.run import run_study
    from ground_probe.study.workers import cores

    page = run_study(
        arguments.out,
        model=arguments.model,
        loading={k: v for k, v in loading.loading(arguments).items() if v and k != "download"},
        dataset=arguments.dataset,
        root=arguments.root,
        recipe=arguments.recipe,
        limit=arguments.limit,
        workers=arguments.workers or (cores() if loading.is_small(arguments) else 1),
        seed=arguments.seed,
    )
    scores = tables(page.parent)
    shown = [
        f"\n{title}\n{table.to_string(float_format='{:.3f}'.format)}"
        for title, table in scores.items()
    ]
    return Answer(
        "\n".join([*shown, f"\nResults: {page}"]),
        {
            "page": str(page),
            "tables": {title: records(table.reset_index()) for title, table in scores.items()},
        },
    )
