"""How a scene is put together: which objects, of which colors, and where they stand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from ground_probe.datasets.cartoons.background import Background, sample_background
from ground_probe.datasets.cartoons.draw import PATTERNS, SIZE_PX, Scene, SceneObject
from ground_probe.datasets.cartoons.noun import NOUNS, TINTS, Noun

VISIBLE = 0.6
"""The least share of an object that the others leave to be seen."""
SHORTEST_PX, LONGEST_PX = 20.0, 80.0
"""Range of an object's longer side."""
FAR, NEAR = 0.7, 1.25
"""How large an object is drawn at the horizon and at the lower edge, by its own height."""

TWINS = 0.7
"""How often an object has the noun of an earlier one."""
ALIKE = 0.4
"""How often a part of such an object has the color of the other one's part."""

_ATTEMPTS = 30
_Mask = Bool[np.ndarray, "height width"]


def sample_scene(rng: np.random.Generator, size_px: int = SIZE_PX) -> Scene:
    """Draw 2 to 6 objects that overlap, but leave most of each other to be seen.

    Args:
        rng: Source of all randomness.
        size_px: Side of the image; smaller images hold fewer objects, none longer than 0.62 of it.
    """
    most = min(6, 2 + size_px**2 // 4096)
    while True:
        background = sample_background(rng)
        placed: list[tuple[SceneObject, _Mask]] = []
        for _ in range(int(rng.integers(2, most + 1))):
            described = _describe(rng, background, [thing for thing, _ in placed])
            placed = _place(rng, described, placed, background, size_px)
        objects = tuple(thing for thing, _ in placed)
        scene = Scene(objects, background, int(rng.integers(2**31)), size_px)
        if len(objects) > 1 and all(scene.visible(i) >= VISIBLE for i in range(len(objects))):
            return scene


def _describe(
    rng: np.random.Generator, background: Background, objects: list[SceneObject]
) -> SceneObject:
    model = objects[rng.integers(len(objects))] if objects and rng.random() < TWINS else None
    fitting = [
        n
        for n in NOUNS.values()
        if background.kind == "clutter" or n.place in (background.kind, "both")
    ]
    noun = model.kind if model else fitting[rng.integers(len(fitting))]
    copied = dict(model.colors) if model else {}
    return SceneObject(
        noun.name,
        _sample_colors(rng, noun, copied),
        _sample_pattern(rng, noun, model.pattern if model and rng.random() < ALIKE else None),
        tuple(rng.random(4).round(3).tolist()),
        0.0,
        0.0,
        rng.uniform(*noun.height_px),
        bool(rng.random() < 0.5),
    )


def _sample_colors(
    rng: np.random.Generator, noun: Noun, copied: dict[str, str | int]
) -> tuple[tuple[str, str | int], ...]:
    """A color for each part that the object has, no two named ones the same."""
    used: dict[str, str | int] = {}
    for part in sorted(noun.parts, key=lambda part: len(noun.parts[part])):
        colors = noun.parts[part]
        if rng.random() >= noun.sometimes.get(part, 1.0):
            continue
        if isinstance(colors, str):
            used[part] = int(rng.integers(len(TINTS[colors])))
            continue
        free = [color for color in colors if color not in used.values()]
        again = copied.get(part)
        used[part] = again if again in free and rng.random() < ALIKE else str(rng.choice(free))
    return tuple((part, used[part]) for part in noun.parts if part in used)


def _sample_pattern(rng: np.random.Generator, noun: Noun, copied: str | None) -> str:
    if not noun.patterned or rng.random() < 0.6:
        return copied if copied and noun.patterned else "plain"
    return PATTERNS[rng.integers(1, len(PATTERNS))]


def _place(
    rng: np.random.Generator,
    described: SceneObject,
    placed: list[tuple[SceneObject, _Mask]],
    background: Background,
    size_px: int,
) -> list[tuple[SceneObject, _Mask]]:
    """The objects and their silhouettes, with one more among them where it finds a place."""
    left, top, right, bottom = replace(described, height_px=1.0).box()
    longest = max(right - left, bottom - top)
    limit_px = min(LONGEST_PX, 0.62 * size_px)
    horizon_px = background.horizon * size_px
    for _ in range(_ATTEMPTS):
        base_px = rng.uniform(horizon_px + 0.06 * size_px, size_px - 2)
        near = (base_px - horizon_px) / (size_px - horizon_px)
        height_px = described.height_px * (FAR + (NEAR - FAR) * near)
        height_px = max(min(height_px, limit_px / longest), SHORTEST_PX / longest)
        reach_px = height_px * max(-left, right)
        if 2 * reach_px > size_px - 2 or base_px + top * height_px < 1:
            continue
        x_px = rng.uniform(reach_px + 1, size_px - reach_px - 1)
        thing = replace(described, x_px=x_px, base_px=base_px, height_px=height_px)
        at = sum(other.base_px < base_px for other, _ in placed)
        tried = [*placed[:at], (thing, thing.silhouette(size_px, 1)), *placed[at:]]
        if _all_visible([mask for _, mask in tried]):
            return tried
    return placed


def _all_visible(masks: list[_Mask]) -> bool:
    nearer = np.zeros_like(masks[0])
    for mask in reversed(masks):
        if (mask & nearer).sum() > (1 - VISIBLE - 0.03) * mask.sum():
            return False
        nearer = nearer | mask
    return True
