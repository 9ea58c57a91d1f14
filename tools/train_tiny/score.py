"""What the embedded editor can do, measured on scenes it never saw.

    python -m tools.train_tiny.score --limit 500

prints one row a style: where the first step's prediction changes the image, what the finished
edit did, and whether it left the rest alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from diffusers import FluxKontextPipeline
from jaxtyping import Float, UInt8
from skimage.morphology import dilation, disk

import ground_probe
from ground_probe.datasets.scenes import COLORS, SHAPES, STYLES, ReferringScene, Scene, load
from tools.train_tiny.edits import TEMPLATES, Edit, edit
from tools.train_tiny.follow import run_edits

WEIGHTS = Path(ground_probe.__file__).parent / "editors" / "tiny" / "weights"
TEMPLATE_EXAMPLES = 100
"""Every template is tried on so many of the examples at most."""


def hits(scene: Scene, asked: Edit, change: Float[np.ndarray, "rows cols"]) -> bool:
    """Whether the token that changes most covers more of the target than of any other object."""
    token_px = scene.size_px // change.shape[0]
    row, column = np.unravel_index(change.argmax(), change.shape)
    window = np.s_[
        row * token_px : (row + 1) * token_px, column * token_px : (column + 1) * token_px
    ]
    share = [scene.mask(i)[window].mean() for i in range(len(scene.objects))]
    return bool(share[asked.target] > 0 and np.argmax(share) == asked.target)


def does_as_asked(drawn: ReferringScene, asked: Edit, image: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether the image is nearer to what was asked than to any other look of the object.

    Other looks: as it was, any other color, any other shape, absent. Measured as mean absolute
    difference over the pixels where any of them differ.
    """
    scene, target = drawn.scene, asked.target
    others = [
        scene,
        scene.without(target),
        *(scene.changed(target, color=color) for color in COLORS),
        *(scene.changed(target, shape=shape) for shape in SHAPES),
    ]
    renders = np.stack([other.render() for other in others]).astype(float)
    wanted = asked.edited.render().astype(float)
    where = (np.ptp(renders, axis=0) > 0).any(-1)
    distance = np.abs(renders - image)[:, where].mean((1, 2))
    is_wanted = np.array([np.array_equal(render, wanted) for render in renders])
    return bool(is_wanted[distance.argmin()])


def change_outside(drawn: ReferringScene, asked: Edit, image: UInt8[np.ndarray, "h w 3"]) -> float:
    """Mean absolute change (0-1) of the pixels more than 2 px away from the edited object."""
    before, wanted = drawn.scene.render().astype(float), asked.edited.render().astype(float)
    touched = dilation((before != wanted).any(-1), disk(2))
    return float(np.abs(image - before)[~touched].mean() / 255)


def score_style(
    pipeline: FluxKontextPipeline, style: str, limit: int, seed: int = 0
) -> tuple[dict[str, float], pd.DataFrame]:
    """The table's row of one style, and the hit rate of every template.

    Args:
        pipeline: The editor.
        style: One of the expression styles.
        limit: Number of test examples.
        seed: Seed of edits and noise.
    """
    split = load(style, "test", limit=limit)
    rng = np.random.default_rng(seed)
    drawn = [split.scene(i) for i in range(len(split))]
    asked = [edit(rng, d.scene, d.target, d.expression) for d in drawn]
    instructions = list(zip(drawn, (a.instruction for a in asked), strict=True))
    outcomes = run_edits(pipeline, instructions, True, seed)
    frame = pd.DataFrame(
        {
            "hit": [
                hits(d.scene, a, o.change) for d, a, o in zip(drawn, asked, outcomes, strict=True)
            ],
            "held_out": [d.held_out for d in drawn],
            "done": [
                does_as_asked(d, a, o.image) for d, a, o in zip(drawn, asked, outcomes, strict=True)
            ],
            "outside": [
                change_outside(d, a, o.image)
                for d, a, o in zip(drawn, asked, outcomes, strict=True)
            ],
            "kind": [a.kind for a in asked],
        }
    )
    row = {
        "style": style,
        "n": len(frame),
        "hit": frame.hit.mean(),
        "done": frame.done.mean(),
        "outside": frame.outside.mean(),
        "hit_held_out": frame.hit[frame.held_out].mean(),
        "n_held_out": int(frame.held_out.sum()),
        "hit_other": _hit_other(pipeline, split, drawn, rng, seed),
        "chance": float(np.mean([1 / len(d.scene.objects) for d in drawn])),
    }
    return row, _templates(pipeline, drawn[:TEMPLATE_EXAMPLES], style, rng, seed)


def _hit_other(pipeline, split, drawn, rng, seed) -> float:
    """Same image and noise, an expression for another object: does the change go there?"""
    moved = []
    for position, d in enumerate(drawn):
        rest = [i for i in range(len(d.scene.objects)) if i != d.target]
        named = [pair for pair in zip(rest, split[position].others, strict=True) if pair[1]]
        if named:
            other, expression = named[0]
            moved.append((d, edit(rng, d.scene, other, expression)))
    outcomes = run_edits(pipeline, [(d, a.instruction) for d, a in moved], False, seed)
    return float(
        np.mean([hits(d.scene, a, o.change) for (d, a), o in zip(moved, outcomes, strict=True)])
    )


def _templates(pipeline, drawn, style, rng, seed) -> pd.DataFrame:
    rows = []
    for kind, templates in TEMPLATES.items():
        for template in templates:
            edits = [edit(rng, d.scene, d.target, d.expression, kind, template) for d in drawn]
            pairs = list(zip(drawn, (e.instruction for e in edits), strict=True))
            outcomes = run_edits(pipeline, pairs, False, seed)
            scored = zip(drawn, edits, outcomes, strict=True)
            hit = np.mean([hits(d.scene, e, o.change) for d, e, o in scored])
            rows.append({"style": style, "kind": kind, "template": template, "hit": hit})
    return pd.DataFrame(rows)


def main() -> None:
    """Print the tables and, with --out, save them as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=WEIGHTS, help="pipeline folder (default: embedded)")
    parser.add_argument("--limit", type=int, default=500, help="test examples a style")
    parser.add_argument("--out", type=Path, help="folder for scores.csv and templates.csv")
    arguments = parser.parse_args()
    pipeline = FluxKontextPipeline.from_pretrained(arguments.model)
    pipeline.set_progress_bar_config(disable=True)
    scored = [score_style(pipeline, style, arguments.limit) for style in STYLES]
    scores = pd.DataFrame([row for row, _ in scored])
    templates = pd.concat([frame for _, frame in scored]).pivot_table(
        index=["kind", "template"], columns="style", values="hit"
    )
    print(scores.round(3).to_string(index=False), templates.round(3), sep="\n\n")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        scores.to_csv(arguments.out / "scores.csv", index=False)
        templates.to_csv(arguments.out / "templates.csv")


if __name__ == "__main__":
    main()
