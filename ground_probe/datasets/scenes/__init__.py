"""Generated scenes: colored shapes, and expressions that need language to be resolved."""

from ground_probe.datasets.scenes.draw import COLORS, SHAPES, Scene, SceneObject, sample_scene
from ground_probe.datasets.scenes.refer import STYLES, Reference, is_held_out, refer
from ground_probe.datasets.scenes.split import (
    ReferringScene,
    ScenesSplit,
    load,
    sample_referring_scene,
)

__all__ = [
    "COLORS",
    "SHAPES",
    "STYLES",
    "Reference",
    "ReferringScene",
    "Scene",
    "SceneObject",
    "ScenesSplit",
    "is_held_out",
    "load",
    "refer",
    "sample_referring_scene",
    "sample_scene",
]
