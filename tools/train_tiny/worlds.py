"""The two generated worlds behind one interface: what training and scoring ask of a scene."""

from __future__ import annotations

import numpy as np

from ground_probe.datasets import cartoons, scenes
from ground_probe.datasets.cartoons.words import PEOPLE, UNSPOKEN, called
from ground_probe.datasets.generated import GeneratedSplit

Scene = scenes.Scene | cartoons.Scene
STYLES = (*scenes.STYLES, *cartoons.STYLES)

_PART_PX = 12


def world_of(scene_or_style: Scene | str) -> type[GeneratedSplit]:
    """The world of a scene, or of a style of expressions."""
    is_cartoon = scene_or_style in cartoons.STYLES or isinstance(scene_or_style, cartoons.Scene)
    return cartoons.CartoonsSplit if is_cartoon else scenes.ScenesSplit


def colors_of(scene: Scene) -> tuple[str, ...]:
    """The colors that an object can be given."""
    return tuple(cartoons.COLORS if isinstance(scene, cartoons.Scene) else scenes.COLORS)


def free_colors(scene: Scene, index: int) -> list[str]:
    """The colors that an object can be given and that no part of it has."""
    thing = scene.objects[index]
    has = thing.parts.values() if isinstance(thing, cartoons.SceneObject) else (thing.color,)
    return [color for color in colors_of(scene) if color not in has]


def parts_of(scene: Scene, index: int) -> dict[str, str]:
    """The parts of an object whose color can be asked for: a word for each."""
    if not isinstance(scene, cartoons.Scene):
        return {}
    thing = scene.objects[index]
    return {
        part: called(part)[0]
        for part in thing.parts
        if part not in UNSPOKEN
        and (part != thing.kind.main or thing.noun in PEOPLE)
        and scene.part_mask(index, part).sum() >= _PART_PX
    }


def one_of(rng: np.random.Generator, choices: list[str] | tuple[str, ...]) -> str:
    """One of the choices, each as likely."""
    return choices[int(rng.integers(len(choices)))]
