"""Cartoons: objects of parts that overlap on clutter, and short expressions as people type them."""

from ground_probe.datasets.cartoons.draw import PATTERNS, Scene, SceneObject
from ground_probe.datasets.cartoons.grammar import Reference
from ground_probe.datasets.cartoons.layout import VISIBLE, sample_scene
from ground_probe.datasets.cartoons.noun import COLORS, NOUNS
from ground_probe.datasets.cartoons.refer import STYLES, held_out, is_held_out, refer
from ground_probe.datasets.cartoons.split import (
    CartoonsSplit,
    ReferringScene,
    load,
    sample_referring_scene,
)
from ground_probe.datasets.cartoons.words import vocabulary

__all__ = [
    "COLORS",
    "NOUNS",
    "PATTERNS",
    "STYLES",
    "VISIBLE",
    "CartoonsSplit",
    "Reference",
    "ReferringScene",
    "Scene",
    "SceneObject",
    "held_out",
    "is_held_out",
    "load",
    "refer",
    "sample_referring_scene",
    "sample_scene",
    "vocabulary",
]
