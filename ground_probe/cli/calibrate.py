"""Choose a recipe for the segmenter on training images.

A large editor's is the best of all combinations of the choices in which published sources disagree.
A small one's is searched head by head and setting by setting.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ground_probe.cli import loading, options
from ground_probe.cli.options import Answer, records

EXAMPLE = "--dataset scenes,cartoons --limit 100 --out recipe.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    options.add_model(parser)
    options.add_data(parser, split="train", limit=100)  # of what is generated there is no end
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="the recipe, JSON; beside it goes what was scored, or accuracy against the fraction "
        "of a step as CSV",
    )


def run(arguments: argparse.Namespace) -> Answer:
    """Write the recipe and what it was chosen by."""
    import ground_probe as gp
    from ground_probe.datasets import check_names
    from ground_probe.io import writable_folder
    from ground_probe.study.calibrate import calibrate, curve_path, refuse_other_than_train
    from ground_probe.study.sweep import is_swept, sweep

    out, seed = Path(arguments.out).expanduser(), arguments.seed
    writable_folder(out.parent)
    one = Path(arguments.dataset).expanduser().exists()  # whose path may hold commas
    names = [arguments.dataset] if one else arguments.dataset.split(",")
    for name in names:
        check_names(name, arguments.split)
    loading.check_weights(arguments, dataset=names[0], split=arguments.split)
    splits = [options.split(arguments, name) for name in names]
    refuse_other_than_train(splits)
    editor = gp.load_editor(arguments.model, **loading.loading(arguments))
    if is_swept(editor):
        recipe = sweep(editor, [example for split in splits for example in split], out, seed=seed)
        shown, beside, more = "", out.with_suffix(".ious"), {}
        made = recipe.provenance
        end = f"{made['method']}; the paper's choices {made['miou_paper']:.3f}"
    else:
        calibration = calibrate(editor, splits, out, seed=seed)
        recipe, curve = calibration.recipe, calibration.curve
        shown = f"{curve.to_string(index=False, float_format='{:.3f}'.format)}\n\n"
        beside = curve_path(out)
        more = {"curve_file": str(beside), "curve": records(curve)}
        made = recipe.provenance
        change = f"recipe change: {made['miou_change']:.3f}"
        end = f"{made['fraction_of_step']:.0%} of a step; {change}"
    low, high = made["miou_held_out_interval"]
    return Answer(
        f"{shown}recipe {recipe.digest}: held-out mIoU {made['miou_held_out']:.3f} "
        f"[{low:.3f}, {high:.3f}] on {made['n']} examples, {end}\n\nResults: {out} {beside}",
        {"recipe": str(out), "digest": recipe.digest, **made, **more},
    )
