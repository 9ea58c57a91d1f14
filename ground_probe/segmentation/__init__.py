"""Where x what: a training-free segmenter from an editor's first denoising step."""

from ground_probe.segmentation.mask import to_mask
from ground_probe.segmentation.methods import compare, edit_difference
from ground_probe.segmentation.recipe import Recipe, default_recipe
from ground_probe.segmentation.segment import Segmentation, segment, segment_each

__all__ = [
    "Recipe",
    "Segmentation",
    "compare",
    "default_recipe",
    "edit_difference",
    "segment",
    "segment_each",
    "to_mask",
]
