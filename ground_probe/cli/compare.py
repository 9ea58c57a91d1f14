"""Compare two evaluations of the same examples."""

from __future__ import annotations

import argparse
import json

from ground_probe.cli.answer import Answer

EXAMPLE = "runs/kontext runs/qwen --out differences.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run_a", metavar="RUN_A", help="what `evaluate` left in --out")
    parser.add_argument("run_b", metavar="RUN_B", help="another run of the same examples")
    parser.add_argument("--out", metavar="FILE.csv", help="every metric and group as a table")
    parser.add_argument("--moved", type=int, default=20, metavar="N", help="examples; default: 20")


def run(arguments: argparse.Namespace) -> Answer:
    """Compare."""
    import ground_probe as gp
    from ground_probe.evaluation import moved_most
    from ground_probe.io import whole_file

    table = gp.compare_runs(arguments.run_a, arguments.run_b)
    if arguments.out:
        with whole_file(arguments.out) as part:
            table.to_csv(part, index=False)
    shown = table[table["metric"].isin(["miou", "oiou"])]
    moved = moved_most(arguments.run_a, arguments.run_b, table["method"].iloc[0])
    moved = moved[moved["difference"].ne(0)].head(arguments.moved)
    text = (
        f"A {arguments.run_a}\nB {arguments.run_b}\n\n{shown.round(4).to_string(index=False)}\n\n"
        f"moved most ({table['method'].iloc[0]}):\n"
        f"{moved.round(3).to_string(index=False) if len(moved) else 'nothing'}"
    )
    data = {
        "differences": json.loads(table.to_json(orient="records")),
        "moved": json.loads(moved.to_json(orient="records")),
    }
    return Answer(text, data)
