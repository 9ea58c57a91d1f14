"""Cartoons: objects of parts that overlap on clutter, and short expressions as people type them."""

from __future__ import annotations

from dataclasses import dataclass

from ground_probe.datasets.cartoons.checker import reader
from ground_probe.datasets.cartoons.draw import Scene, SceneObject
from ground_probe.datasets.cartoons.layout import VISIBLE, sample_scene
from ground_probe.datasets.cartoons.noun import COLORS, NOUNS
from ground_probe.datasets.cartoons.refer import STYLES, held_out, is_held_out, refer
from ground_probe.datasets.cartoons.words import vocabulary
from ground_probe.datasets.generated import GeneratedSplit

__all__ = [
    "COLORS",
    "NOUNS",
    "STYLES",
    "VISIBLE",
    "CartoonsSplit",
    "Scene",
    "SceneObject",
    "held_out",
    "is_held_out",
    "load",
    "sample_scene",
    "vocabulary",
]


@dataclass(frozen=True, repr=False)
class CartoonsSplit(GeneratedSplit):
    """A split of cartoons: "cartoons", "cartoons+" or "cartoonsg"."""

    revision: str = "cartoons-1"

    styles = STYLES
    sample = staticmethod(lambda rng, style: sample_scene(rng))
    refer = staticmethod(refer)
    is_held_out = staticmethod(is_held_out)
    mentions = staticmethod(lambda reference, scene: reader(scene).mentions(reference))


load = CartoonsSplit.load
