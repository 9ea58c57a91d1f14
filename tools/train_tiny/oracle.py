"""Can *what* add to *where* in a world? An upper bound from the truth, before any editor is asked.

    python -m tools.train_tiny.oracle --limit 200

*Where* is the true mask, averaged over tokens, blurred by so many tokens and, if asked, leaking to
the other objects. *What* is a feature of every pixel or token, from the truth: its noun, part and
color, one-hot, the same for two objects that look alike. The prototype is the share of each look
that lies under the prior, and the score the prior times a power of the feature's product with it;
power and threshold are chosen on train.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.ndimage import gaussian_filter, zoom
from scipy.stats import bootstrap

from ground_probe.datasets import cartoons
from ground_probe.datasets.cartoons.draw import SUPER, label
from ground_probe.metrics import iou
from tools.train_tiny.build import TOKEN_PX
from tools.train_tiny.worlds import Drawn, Scene, world_of

BLURS = (0.0, 0.75, 1.5)
LEAKS = (0.0, 0.6)
THRESHOLDS = np.arange(0.05, 0.96, 0.05)
EXPONENTS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Of the similarity; 0 is the prior alone."""
_Map = Float[np.ndarray, "rows cols"]


def kinds(scene: Scene) -> Int[np.ndarray, "height width"]:
    """A number for each pixel: 0 the background, one for each look of a part or shape."""
    looks: dict[tuple, int] = {}
    if isinstance(scene, cartoons.Scene):
        labels = scene.labels[SUPER // 2 :: SUPER, SUPER // 2 :: SUPER]
        table = np.zeros(labels.max() + 1, int)
        for index, thing in enumerate(scene.objects):
            for part, color in thing.colors:
                number = label(thing, index, part)
                if number < len(table):
                    table[number] = looks.setdefault((thing.noun, part, color), len(looks) + 1)
        return table[labels]
    found = np.zeros((scene.size_px, scene.size_px), int)
    for index, thing in enumerate(scene.objects):
        look = looks.setdefault((thing.shape, thing.color), len(looks) + 1)
        found[scene.mask(index)] = look
    return found


def where(drawn: Drawn, blur: float, leak: float) -> _Map:
    """The prior on tokens: 0 to 1."""
    scene = drawn.scene
    others = [scene.mask(i) for i in range(len(scene.objects)) if i != drawn.target]
    shown = scene.mask(drawn.target) + leak * np.any(others, axis=0)
    prior = gaussian_filter(_on_tokens(shown.astype(float)), blur)
    return prior / prior.max()


def what(
    found: Int[np.ndarray, "height width"], prior: _Map, pixels: bool
) -> Float[np.ndarray, "height width"]:
    """How much of each look lies under the prior, read off at each pixel, or at each token."""
    features, weights = np.eye(found.max() + 1)[found], _on_pixels(prior)
    if not pixels:
        planes = np.moveaxis(features, -1, 0)
        features, weights = np.stack([_on_tokens(plane) for plane in planes], axis=-1), prior
    prototype = (features * weights[..., None]).sum((0, 1)) / features.sum((0, 1)).clip(1e-6)
    similarity = features @ prototype / prototype.max()
    return similarity if pixels else _on_pixels(similarity)


def _on_tokens(plane: Float[np.ndarray, "height width"]) -> _Map:
    side = len(plane) // TOKEN_PX
    return plane.reshape(side, TOKEN_PX, side, TOKEN_PX).mean((1, 3))


def _on_pixels(plane: _Map) -> Float[np.ndarray, "height width"]:
    return zoom(plane, TOKEN_PX, order=1, grid_mode=True, mode="nearest").clip(0, 1)


def _scores(drawn: Drawn, blur: float, leak: float) -> dict[tuple[str, float], np.ndarray]:
    """IoU at every threshold, for each kind of feature and exponent."""
    prior, truth = where(drawn, blur, leak), drawn.scene.mask(drawn.target)
    place, found = _on_pixels(prior), kinds(drawn.scene)
    rows = {}
    for feature, exponent in itertools.product(("tokens", "pixels"), EXPONENTS):
        score = place * what(found, prior, feature == "pixels") ** exponent
        rows[feature, exponent] = _ious(score / score.max(), truth)
    return rows


def _ious(score: Float[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]) -> np.ndarray:
    masks = score > THRESHOLDS[:, None, None]
    return iou((masks & truth).sum((1, 2)), (masks | truth).sum((1, 2)))


def study(style: str, limit: int, seed: int = 0) -> pd.DataFrame:
    """mIoU of where alone and of where with what, and their paired difference with its interval.

    Args:
        style: One of the expression styles of either world.
        limit: Number of examples: as many of train choose, as many of test are scored.
        seed: Seed of the bootstrap.
    """
    splits = [world_of(style).load(style, part, limit=limit) for part in ("train", "test")]
    drawn = [[split.scene(i) for i in range(len(split))] for split in splits]
    rows = []
    for blur, leak in itertools.product(BLURS, LEAKS):
        train, test = ([_scores(d, blur, leak) for d in part] for part in drawn)
        stacked = [{k: np.stack([s[k] for s in part]) for k in part[0]} for part in (train, test)]

        def best(feature: str, exponents: tuple[float, ...], tables: list = stacked) -> np.ndarray:
            choices = [(k, t) for k in exponents for t in range(len(THRESHOLDS))]
            chosen, at = max(choices, key=lambda c: tables[0][feature, c[0]][:, c[1]].mean())
            return tables[1][feature, chosen][:, at]

        alone = best("pixels", (0.0,))
        row = {"style": style, "blur": blur, "leak": leak, "where": alone.mean()}
        for feature in ("tokens", "pixels"):
            gain = best(feature, EXPONENTS) - alone
            low, high = _interval(gain, seed)
            row |= {feature: gain.mean(), f"{feature}_low": low, f"{feature}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def _interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    drawn = bootstrap((values,), np.mean, n_resamples=2000, rng=np.random.default_rng(seed))
    return tuple(drawn.confidence_interval)


def main() -> None:
    """Print a row for every style, blur and leak: mIoU of where, and what is gained by what."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=200, help="examples a style and split")
    parser.add_argument("--styles", default="scenes+,cartoons+", help="default: scenes+,cartoons+")
    arguments = parser.parse_args()
    tables = [study(style, arguments.limit) for style in arguments.styles.split(",")]
    print(pd.concat(tables).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
