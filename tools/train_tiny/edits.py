"""Edits of scenes: an instruction and what the scene looks like when it has been followed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ground_probe.datasets import cartoons
from ground_probe.datasets.scenes import COLORS, SHAPES
from tools.train_tiny.worlds import Scene, colors_of, free_colors, one_of, parts_of, world_of

TEMPLATES = {
    "recolor": (
        "change the color of {expression} to {color}",
        "make {expression} {color}",
        "paint {expression} {color}",
        "turn {expression} {color}",
    ),
    "remove": ("remove {expression}", "delete {expression}", "erase {expression}"),
    "part": (
        "change the color of the {part} of {expression} to {color}",
        "make the {part} of {expression} {color}",
        "paint the {part} of {expression} {color}",
    ),
}
"""Ways to ask, by kind of edit; "part" where objects have parts."""
KIND_WEIGHTS = {"recolor": 0.7, "remove": 0.3}
PARTS = 0.35
"""Share of recolorings that mean a part, where the object has one."""
PARTS_TRAINED = 0.5
"""The same while training: a part is found last."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One instruction for a scene, and the scene after it."""

    kind: str
    instruction: str
    target: int
    edited: Scene
    part: str | None = None


def edit(
    rng: np.random.Generator,
    scene: Scene,
    target: int,
    expression: str,
    kind: str | None = None,
    parts_share: float = PARTS,
) -> Edit:
    """Draw an edit of one object.

    Args:
        rng: Chooses what is not given, and the new color.
        scene: The scene before.
        target: Index of the object to edit.
        expression: Words that refer to it.
        kind: "recolor", "remove" or "part"; the first instead of the last for an object that has no
            part that can be seen and has a word.
        parts_share: Share of recolorings that mean a part.
    """
    parts: dict[str, str] = {}
    if kind is None:
        kind = str(rng.choice(list(KIND_WEIGHTS), p=list(KIND_WEIGHTS.values())))
        kind = "part" if kind == "recolor" and rng.random() < parts_share else kind
    if kind == "part":
        parts = parts_of(scene, target)
        kind = "part" if parts else "recolor"
    template = one_of(rng, TEMPLATES[kind])
    color = one_of(rng, free_colors(scene, target))
    part = one_of(rng, tuple(parts)) if parts else None
    if kind == "remove":
        edited: Scene = scene.without(target)
    else:
        edited = scene.changed(target, color=color, **({"part": part} if part else {}))
    word = parts[part] if part else ""
    instruction = template.format(expression=expression, color=color, part=word)
    return Edit(kind, instruction, target, edited, part)


def sample_edits(rng: np.random.Generator, scene: Scene, count: int) -> list[Edit]:
    """Draw edits for training: up to `count` of one scene, so that only the text tells them apart.

    Held-out objects are never named.
    """
    world = world_of(scene)
    allowed = [i for i, thing in enumerate(scene.objects) if not world.is_held_out(thing)]
    edits: list[Edit] = []
    for attempt in range(3 * count if allowed else 0):
        target = allowed[attempt % len(allowed)]
        found = world.refer(rng, scene, target, one_of(rng, world.styles))
        if found is None:
            continue
        expression, reference = found
        named = world.mentions(reference, scene)
        if not any(world.is_held_out(scene.objects[i]) for i in named):
            edits.append(edit(rng, scene, target, expression, parts_share=PARTS_TRAINED))
        if len(edits) == count:
            break
    return edits


def by_legend(scene: Scene) -> tuple[str, Scene]:
    """An instruction that gives every kind of object its color, always the same, and the outcome.

    It can be followed without knowing a word, by telling the kinds apart: a small editor that is
    only ever asked for "the star" is slow to begin learning what a star looks like.
    """
    is_cartoon = isinstance(scene, cartoons.Scene)
    colors = colors_of(scene)
    legend = {
        kind: colors[number % len(colors)]
        for number, kind in enumerate(cartoons.NOUNS if is_cartoon else SHAPES)
    }
    kinds = [thing.noun if is_cartoon else thing.shape for thing in scene.objects]
    for index, kind in enumerate(kinds):
        scene = scene.changed(index, color=legend[kind])
    words = (f"{kind} {color}" for kind, color in legend.items() if kind in kinds)
    return "make " + " ".join(words), scene


def vocabulary() -> list[str]:
    """Every word that an instruction can hold: those of scenes first, then those of cartoons.

    Words of the first weights keep their places, so that these go on knowing them.

    >>> vocabulary()[:4], vocabulary().index("umbrella") > vocabulary().index("yellow")
    (['above', 'at', 'below', 'blue'], True)
    """
    words = {"the", "object", "that", "is", "on", "at", "to", "of", "above", "below"}
    words |= {"left", "right", "top", "bottom", "small", "large", *COLORS, *SHAPES}
    for templates in TEMPLATES.values():
        for template in templates:
            words |= set(template.format(expression="", color="", part="").split())
    return [*sorted(words), *sorted(cartoons.vocabulary() - words)]
