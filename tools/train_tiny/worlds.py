"""The two generated worlds behind one interface: what training and scoring ask of a scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ground_probe.datasets import cartoons, scenes
from ground_probe.datasets.cartoons.checker import reader
from ground_probe.datasets.cartoons.words import PEOPLE, UNSPOKEN, called
from ground_probe.datasets.generated import ReferringScene

Scene = scenes.Scene | cartoons.Scene
Drawn = ReferringScene

_PART_PX = 12


@dataclass(frozen=True)
class World:
    """One world.

    Args:
        styles: Of its expressions.
        colors: That an object can be given.
        load: Opens a split.
        refer: Finds an expression for an object.
        is_held_out: Whether training never names an object.
        mentions: The objects that a reference names, in a scene.
        parts: The parts of an object whose color can be asked for: a word for each.
    """

    styles: tuple[str, ...]
    colors: tuple[str, ...]
    load: Callable[..., Any]
    refer: Callable[..., Any]
    is_held_out: Callable[[Any], bool]
    mentions: Callable[[Any, Any], set[int]]
    parts: Callable[[Any, int], dict[str, str]]


def _parts(scene: cartoons.Scene, index: int) -> dict[str, str]:
    thing = scene.objects[index]
    return {
        part: called(part)[0]
        for part in thing.parts
        if part not in UNSPOKEN
        and (part != thing.kind.main or thing.noun in PEOPLE)
        and scene.part_mask(index, part).sum() >= _PART_PX
    }


SCENES = World(
    scenes.STYLES,
    tuple(scenes.COLORS),
    scenes.load,
    scenes.refer,
    scenes.is_held_out,
    lambda reference, scene: reference.mentions(scene),
    lambda scene, index: {},
)
CARTOONS = World(
    cartoons.STYLES,
    tuple(cartoons.COLORS),
    cartoons.load,
    cartoons.refer,
    cartoons.is_held_out,
    lambda reference, scene: reader(scene).mentions(reference),
    _parts,
)
STYLES = (*SCENES.styles, *CARTOONS.styles)


def world_of(scene_or_style: Scene | str) -> World:
    """The world of a scene, or of a style of expressions."""
    if isinstance(scene_or_style, str):
        return CARTOONS if scene_or_style in CARTOONS.styles else SCENES
    return CARTOONS if isinstance(scene_or_style, cartoons.Scene) else SCENES


def free_colors(scene: Scene, index: int) -> list[str]:
    """The colors that an object of a scene can be given: those that no part of it has."""
    thing = scene.objects[index]
    has = thing.parts.values() if isinstance(thing, cartoons.SceneObject) else (thing.color,)
    return [color for color in world_of(scene).colors if color not in has]


def one_of(rng: np.random.Generator, choices: list[str] | tuple[str, ...]) -> str:
    """One of the choices, each as likely."""
    return choices[int(rng.integers(len(choices)))]
