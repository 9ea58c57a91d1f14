"""Where x what: a training-free segmenter from an editor's first denoising step.

One pass, each step a module: `recipe` and `recipes`, `forward`, `prior` (where), `features`
(what), `mask`; `segment` calls them in this order.
"""

from ground_probe.segmentation.forward import gives_change
from ground_probe.segmentation.mask import to_mask
from ground_probe.segmentation.methods import compare, edit_difference
from ground_probe.segmentation.recipe import Recipe
from ground_probe.segmentation.recipes import recipe_for
from ground_probe.segmentation.segment import Segmentation, segment

__all__ = [
    "Recipe",
    "Segmentation",
    "compare",
    "edit_difference",
    "gives_change",
    "recipe_for",
    "segment",
    "to_mask",
]
