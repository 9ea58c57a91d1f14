"""Choose a recipe for the segmenter on training images."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ground_probe.cli import loading, options
from ground_probe.cli.answer import Answer

EXAMPLE = "--dataset scenes,scenes+,scenesg --limit 100 --out recipe.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_model(parser)
    options.add_data(parser, split="train", limit=100)  # of what is generated there is no end
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="the recipe, JSON; accuracy against the fraction of a step goes beside it, as CSV",
    )
    options.add_seed(parser)


def run(arguments: argparse.Namespace) -> Answer:
    """Write the recipe and the curve."""
    import ground_probe as gp
    from ground_probe.datasets import check_names
    from ground_probe.run_record import writable_folder
    from ground_probe.study.calibrate import calibrate, curve_path, refuse_other_than_train

    out = Path(arguments.out).expanduser()
    writable_folder(out.parent)
    names = arguments.dataset.split(",")
    for name in names:
        check_names(name, arguments.split)
    loading.check_weights(arguments, dataset=names[0], split=arguments.split)
    splits = [options.split(arguments, name) for name in names]
    refuse_other_than_train(splits)
    editor = gp.load_editor(arguments.model, **loading.loading(arguments))
    found = calibrate(editor, splits, out, seed=arguments.seed)
    made = found.recipe.provenance
    low, high = made["miou_held_out_interval"]
    return Answer(
        f"{found.curve.to_string(index=False, float_format='{:.3f}'.format)}\n\n"
        f"recipe {found.recipe.digest}: held-out mIoU {made['miou_held_out']:.3f} "
        f"[{low:.3f}, {high:.3f}] on {made['n']} examples, {made['fraction_of_step']:.0%} of a "
        f"step\n\nResults: {out} {curve_path(out)}",
        {
            "recipe": str(out),
            "curve_file": str(curve_path(out)),
            "digest": found.recipe.digest,
            **made,
            "curve": json.loads(found.curve.to_json(orient="records")),
        },
    )
