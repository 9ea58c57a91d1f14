"""What the embedded editor can do, measured on scenes it never saw.

    python -m tools.train_tiny.score --limit 500

prints one row a style: where the first step's prediction changes the image, what the finished edit
did, and whether it left the rest alone; then where it fails: by noun, by what the words say, by how
much is hidden, by the number of objects.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from diffusers import FluxKontextPipeline

import ground_probe
from ground_probe.datasets import cartoons
from ground_probe.datasets.generated import ReferringScene
from tools.train_tiny.edits import Edit, edit
from tools.train_tiny.follow import Outcome, run_edits
from tools.train_tiny.rules import change_outside, does_as_asked, hits, hits_in_pixels
from tools.train_tiny.worlds import STYLES, world_of

WEIGHTS = Path(ground_probe.__file__).parent / "editors" / "tiny" / "weights"
BREAKDOWNS = ("noun", "says", "edit", "hidden", "objects", "held_out")


def score_style(
    pipeline: FluxKontextPipeline, style: str, limit: int, finish: bool
) -> tuple[dict[str, object], pd.DataFrame]:
    """The table's row of one style, and a row for every example.

    Args:
        pipeline: The editor.
        style: One of the expression styles of either world.
        limit: Number of test examples.
        finish: Whether to finish the edits, too; the first step alone is 20 times as fast.
    """
    split = world_of(style).load(style, "test", limit=limit)
    rng = np.random.default_rng(0)
    drawn = [split.scene(i) for i in range(len(split))]
    asked = [edit(rng, d.scene, d.target, d.expression) for d in drawn]
    instructions = [(d, a.instruction) for d, a in zip(drawn, asked, strict=True)]
    outcomes = run_edits(pipeline, instructions, finish, seed=0)
    with ProcessPoolExecutor(mp_context=get_context("fork")) as processes:
        examples = pd.DataFrame(processes.map(_example, drawn, asked, outcomes, chunksize=10))
    others = pd.DataFrame(_others(pipeline, split, drawn, rng))
    held_out = examples.held_out != ""
    row = {
        "style": style,
        "n": len(examples),
        "hit": examples.hit.mean(),
        "hit_px": examples.hit_px.mean(),
        **({name: examples[name].mean() for name in ("done", "outside")} if finish else {}),
        "hit_held_out": examples.hit[held_out].mean(),
        "hit_px_held_out": examples.hit_px[held_out].mean(),
        "n_held_out": int(held_out.sum()),
        "hit_other": others.hit.mean(),
        "hit_px_other": others.hit_px.mean(),
        "chance": (1 / examples.objects).mean(),
    }
    return row, examples.assign(style=style)


def _example(drawn: ReferringScene, asked: Edit, outcome: Outcome) -> dict[str, object]:
    """Everything that is known of one example."""
    row = {
        **_hit(drawn, asked, outcome),
        **_description(drawn),
        "edit": asked.kind,
        "objects": len(drawn.scene.objects),
    }
    if outcome.image is not None:
        row["done"] = does_as_asked(drawn, asked, outcome.image)
        row["outside"] = change_outside(drawn, asked, outcome.image)
    return row


def _hit(drawn: ReferringScene, asked: Edit, outcome: Outcome) -> dict[str, bool]:
    return {
        "hit": hits(drawn.scene, asked, outcome.change),
        "hit_px": hits_in_pixels(drawn.scene, asked, outcome.change_px),
    }


def _description(drawn: ReferringScene) -> dict[str, str]:
    """The object's noun, what the words say of it, how much is hidden, whether it is held out."""
    thing = drawn.scene.objects[drawn.target]
    if isinstance(drawn.scene, cartoons.Scene):
        hidden = 1 - drawn.scene.visible(drawn.target)
        share = "none" if hidden < 0.01 else "below .2" if hidden < 0.2 else ".2 to .4"
        held_out = " and ".join(sorted(cartoons.held_out(thing)))
        return {
            "noun": thing.noun,
            "says": drawn.reference.kind,
            "hidden": share,
            "held_out": held_out,
        }
    phrase = drawn.reference.phrase
    said = {"size": phrase.size, "color": phrase.color, "shape": phrase.shape}
    says = "relation" if drawn.reference.relation else "place" if drawn.reference.side else None
    return {
        "noun": thing.shape,
        "says": says or " and ".join(name for name, value in said.items() if value),
        "hidden": "none",
        "held_out": "color" if drawn.held_out else "",
    }


def _others(pipeline, split, drawn, rng) -> list[dict[str, bool]]:
    """Same image and noise, an expression for another object: does the change go there?"""
    moved = []
    for position, d in enumerate(drawn):
        rest = [i for i in range(len(d.scene.objects)) if i != d.target]
        named = [pair for pair in zip(rest, split[position].others, strict=True) if pair[1]]
        if named:
            other, expression = named[0]
            moved.append((d, edit(rng, d.scene, other, expression)))
    outcomes = run_edits(pipeline, [(d, a.instruction) for d, a in moved], False, seed=0)
    return [_hit(d, a, o) for (d, a), o in zip(moved, outcomes, strict=True)]


def breakdown(examples: pd.DataFrame) -> pd.DataFrame:
    """Hit rates of each group of examples, one row a group and style."""
    rates = [name for name in ("hit", "hit_px", "done") if name in examples]
    tables = []
    for by in BREAKDOWNS:
        grouped = examples.groupby(["style", by], sort=True)[rates]
        table = grouped.mean().assign(n=grouped.size()).reset_index()
        table = table.rename(columns={by: "group"}).astype({"group": str})
        tables.append(table.assign(by=by))
    return pd.concat(tables, ignore_index=True)[["by", "group", "style", "n", *rates]]


def main() -> None:
    """Print the tables and, with --out, save them as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=WEIGHTS, help="pipeline folder (default: embedded)")
    parser.add_argument("--limit", type=int, default=500, help="test examples a style")
    parser.add_argument("--styles", default=",".join(STYLES), help="default: of both worlds")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    parser.add_argument("--first-step", action="store_true", help="leave out the finished edits")
    parser.add_argument("--out", type=Path, help="folder for scores and breakdown as CSV")
    arguments = parser.parse_args()
    pipeline = FluxKontextPipeline.from_pretrained(arguments.model).to(arguments.device)
    pipeline.set_progress_bar_config(disable=True)
    styles = arguments.styles.split(",")
    finish = not arguments.first_step
    scored = [score_style(pipeline, s, arguments.limit, finish) for s in styles]
    scores = pd.DataFrame([row for row, _ in scored])
    groups = breakdown(pd.concat([examples for _, examples in scored]))
    print(
        scores.round(3).to_string(index=False), groups.round(3).to_string(index=False), sep="\n\n"
    )
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        scores.to_csv(arguments.out / "scores.csv", index=False)
        groups.to_csv(arguments.out / "breakdown.csv", index=False)


if __name__ == "__main__":
    main()
