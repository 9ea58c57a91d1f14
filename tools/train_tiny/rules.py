"""The rules by which an edit is judged: where it changed the image, and whether it did as asked."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import distance_transform_edt, uniform_filter
from skimage.morphology import dilation, disk

from ground_probe.datasets import cartoons
from ground_probe.datasets.generated import ReferringScene
from ground_probe.datasets.scenes import SHAPES
from tools.train_tiny.build import TOKEN_PX
from tools.train_tiny.edits import Edit
from tools.train_tiny.worlds import Scene, colors_of


def hits(scene: Scene, asked: Edit, change: Float[np.ndarray, "rows cols"]) -> bool:
    """Whether the token that changes most covers more of the target than of any other object."""
    token_px = scene.size_px // change.shape[0]
    row, column = np.unravel_index(change.argmax(), change.shape)
    window = np.s_[
        row * token_px : (row + 1) * token_px, column * token_px : (column + 1) * token_px
    ]
    share = [scene.mask(i)[window].mean() for i in range(len(scene.objects))]
    return bool(share[asked.target] > 0 and np.argmax(share) == asked.target)


def hits_in_pixels(scene: Scene, asked: Edit, change_px: Float[np.ndarray, "height width"]) -> bool:
    """Whether the pixel that changes most, as a 3 x 3 mean, is within half a token of the target.

    Stricter than `hits` in one way, for a token may lie on an object with one of its corners, and
    laxer in another: where objects touch, the pixel may be another one's.
    """
    at = np.unravel_index(uniform_filter(change_px, 3).argmax(), change_px.shape)
    return bool(distance_transform_edt(~scene.mask(asked.target))[at] <= TOKEN_PX / 2)


def _looks(scene: Scene, asked: Edit) -> list[Scene]:
    """What could become of the object: as it was, absent, of any other color or shape."""
    target, colors = asked.target, colors_of(scene)
    others: list[Scene] = [scene, scene.without(target)]
    if isinstance(scene, cartoons.Scene):
        parts = {scene.objects[target].kind.main, asked.part or scene.objects[target].kind.main}
        return others + [
            scene.changed(target, part=part, color=color) for part in parts for color in colors
        ]
    others += [scene.changed(target, color=color) for color in colors]
    return others + [scene.changed(target, shape=shape) for shape in SHAPES]


def does_as_asked(drawn: ReferringScene, asked: Edit, image: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether the image is nearer to what was asked than to any other look of the object.

    Other looks: as it was, absent, any other color (of the part that is meant, and of the main
    one), any other shape. Measured as mean absolute difference over the pixels where they differ.
    """
    renders = np.stack([look.render() for look in _looks(drawn.scene, asked)]).astype(float)
    wanted = asked.edited.render().astype(float)
    where = (np.ptp(renders, axis=0) > 0).any(-1)
    distance = np.abs(renders - image)[:, where].mean((1, 2))
    is_wanted = np.array([np.array_equal(render, wanted) for render in renders])
    return bool(is_wanted[distance.argmin()])


def change_outside(drawn: ReferringScene, asked: Edit, image: UInt8[np.ndarray, "h w 3"]) -> float:
    """Mean absolute change (0-1) of the pixels more than 2 px away from the edited object."""
    before, wanted = drawn.scene.render().astype(float), asked.edited.render().astype(float)
    touched = dilation((before != wanted).any(-1), disk(2))
    return float(np.abs(image - before)[~touched].mean() / 255)
