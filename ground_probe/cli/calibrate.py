"""Choose a recipe for the segmenter on training images.

A large editor's is the best of all combinations of the choices in which published sources disagree.
A small one's is searched head by head and setting by setting.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ground_probe.cli import loading, options
from ground_probe.cli.options import Answer, records

if TYPE_CHECKING:
    from ground_probe.datasets import Split
    from ground_probe.editors import Editor

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
    options.add_seed(parser)


def run(arguments: argparse.Namespace) -> Answer:
    """Write the recipe and the curve."""
    import ground_probe as gp
    from ground_probe.datasets import check_names
    from ground_probe.io import writable_folder
    from ground_probe.study.calibrate import refuse_other_than_train
    from ground_probe.study.sweep import is_swept

    out = Path(arguments.out).expanduser()
    writable_folder(out.parent)
    one = Path(arguments.dataset).expanduser().exists()  # whose path may hold commas
    names = [arguments.dataset] if one else arguments.dataset.split(",")
    for name in names:
        check_names(name, arguments.split)
    loading.check_weights(arguments, dataset=names[0], split=arguments.split)
    splits = [options.split(arguments, name) for name in names]
    refuse_other_than_train(splits)
    editor = gp.load_editor(arguments.model, **loading.loading(arguments))
    choose = _sweep if is_swept(editor) else _search
    return choose(editor, splits, out, arguments.seed)


def _sweep(editor: Editor, splits: list[Split], out: Path, seed: int) -> Answer:
    from ground_probe.study.sweep import sweep

    recipe = sweep(editor, [example for split in splits for example in split], out, seed=seed)
    made = recipe.provenance
    low, high = made["miou_held_out_interval"]
    return Answer(
        f"recipe {recipe.digest}, {made['method']}: held-out mIoU {made['miou_held_out']:.3f} "
        f"[{low:.3f}, {high:.3f}], the paper's choices {made['miou_paper']:.3f}, on {made['n']} "
        f"examples\n\nResults: {out} {out.with_suffix('.ious')}",
        {"recipe": str(out), "digest": recipe.digest, **made},
    )


def _search(editor: Editor, splits: list[Split], out: Path, seed: int) -> Answer:
    from ground_probe.study.calibrate import calibrate, curve_path

    calibration = calibrate(editor, splits, out, seed=seed)
    made = calibration.recipe.provenance
    low, high = made["miou_held_out_interval"]
    return Answer(
        f"{calibration.curve.to_string(index=False, float_format='{:.3f}'.format)}\n\n"
        f"recipe {calibration.recipe.digest}: held-out mIoU {made['miou_held_out']:.3f} "
        f"[{low:.3f}, {high:.3f}] on {made['n']} examples, {made['fraction_of_step']:.0%} of a "
        f"step; recipe change: {made['miou_change']:.3f}\n\nResults: {out} {curve_path(out)}",
        {
            "recipe": str(out),
            "curve_file": str(curve_path(out)),
            "digest": calibration.recipe.digest,
            **made,
            "curve": records(calibration.curve),
        },
    )
