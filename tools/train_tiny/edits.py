"""Edits of scenes: an instruction and what the scene looks like when it has been followed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ground_probe.datasets.scenes import COLORS, SHAPES, Scene, is_held_out, refer

TEMPLATES = {
    "recolor": (
        "change the color of {expression} to {color}",
        "make {expression} {color}",
        "paint {expression} {color}",
        "turn {expression} {color}",
    ),
    "remove": ("remove {expression}", "delete {expression}", "erase {expression}"),
}
KIND_WEIGHTS = {"recolor": 0.7, "remove": 0.3}


@dataclass(frozen=True, slots=True)
class Edit:
    """One instruction for a scene, and the scene after it."""

    kind: str
    template: str
    instruction: str
    expression: str
    target: int
    edited: Scene


def edit(
    rng: np.random.Generator,
    scene: Scene,
    target: int,
    expression: str,
    kind: str | None = None,
    template: str | None = None,
) -> Edit:
    """Draw an edit of one object.

    Args:
        rng: Chooses what is not given, and the new color.
        scene: The scene before.
        target: Index of the object to edit.
        expression: Words that refer to it.
        kind: "recolor" or "remove".
        template: One of the templates of that kind.
    """
    kind = kind or str(rng.choice(list(KIND_WEIGHTS), p=list(KIND_WEIGHTS.values())))
    template = template or str(rng.choice(TEMPLATES[kind]))
    thing = scene.objects[target]
    color = str(rng.choice([name for name in COLORS if name != thing.color]))
    edited = scene.without(target) if kind == "remove" else scene.changed(target, color=color)
    instruction = template.format(expression=expression, color=color)
    return Edit(kind, template, instruction, expression, target, edited)


def sample_edits(
    rng: np.random.Generator,
    scene: Scene,
    styles: tuple[str, ...],
    count: int,
    removals: float = KIND_WEIGHTS["remove"],
) -> list[Edit]:
    """Draw edits for training: several of one scene, so that only the text tells them apart.

    Objects of held-out color and shape pairs are never named.

    Args:
        rng: Source of all randomness.
        scene: The scene before.
        styles: Expression styles to choose from.
        count: Largest number of edits; fewer where the scene does not offer them.
        removals: Probability that an edit removes its object instead of recoloring it.
    """
    allowed = [i for i, thing in enumerate(scene.objects) if not is_held_out(thing)]
    edits: list[Edit] = []
    for attempt in range(3 * count if allowed else 0):
        target = allowed[attempt % len(allowed)]
        found = refer(rng, scene, target, str(rng.choice(styles)))
        if found is None:
            continue
        expression, reference = found
        if any(is_held_out(scene.objects[i]) for i in reference.mentions(scene)):
            continue
        kind = "remove" if rng.random() < removals else "recolor"
        edits.append(edit(rng, scene, target, expression, kind))
        if len(edits) == count:
            break
    return edits


def by_legend(scene: Scene) -> tuple[str, Scene]:
    """An instruction that gives every shape its color, always the same, and the scene after it.

    It can be followed without knowing a word, by telling the shapes apart: a small editor that is
    only ever asked for "the star" finds no way to begin learning what a star looks like.
    """
    legend = dict(zip(SHAPES, COLORS, strict=False))
    instruction = "make " + " ".join(f"{shape} {color}" for shape, color in legend.items())
    for index, thing in enumerate(scene.objects):
        scene = scene.changed(index, color=legend[thing.shape])
    return instruction, scene


def vocabulary() -> list[str]:
    """Every word that an instruction can hold, sorted.

    >>> "leftmost" in vocabulary(), "red" in vocabulary()
    (False, True)
    """
    words = {"the", "object", "that", "is", "on", "at", "to", "of", "above", "below"}
    words |= {"left", "right", "top", "bottom", "small", "large", *COLORS, *SHAPES}
    for templates in TEMPLATES.values():
        for template in templates:
            words |= set(template.format(expression="", color="").split())
    return sorted(words)
