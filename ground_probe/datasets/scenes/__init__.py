"""Generated scenes: colored shapes, and expressions that need language to be resolved."""

from __future__ import annotations

from dataclasses import dataclass

from ground_probe.datasets.generated import GeneratedSplit
from ground_probe.datasets.scenes.draw import COLORS, SHAPES, Scene, SceneObject, sample_scene
from ground_probe.datasets.scenes.refer import STYLES, is_held_out, refer

__all__ = [
    "COLORS",
    "SHAPES",
    "STYLES",
    "Scene",
    "SceneObject",
    "ScenesSplit",
    "is_held_out",
    "load",
    "sample_scene",
]

_TWINS = {"scenes": 0.5, "scenes+": 0.1, "scenesg": 0.5}  # that only their place tells apart


@dataclass(frozen=True, repr=False)
class ScenesSplit(GeneratedSplit):
    """A split of scenes: "scenes", "scenes+" or "scenesg"."""

    revision: str = "scenes-2"

    styles = STYLES
    sample = staticmethod(lambda rng, style: sample_scene(rng, twins=_TWINS[style]))
    refer = staticmethod(refer)
    is_held_out = staticmethod(is_held_out)
    mentions = staticmethod(lambda reference, scene: reference.mentions(scene))


load = ScenesSplit.load
