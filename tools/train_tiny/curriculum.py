"""What the embedded editor is shown, and when: batches of generated scenes and their edits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from ground_probe.datasets import cartoons, scenes
from tools.train_tiny.build import TEXT_TOKENS, build_tokenizer
from tools.train_tiny.edits import by_legend, sample_edits
from tools.train_tiny.worlds import Scene


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum.

    Args:
        name: What the curve calls it.
        until: Share of the whole time at which it ends.
        side_px: Side of the training scenes; objects keep their size, larger scenes hold more.
        styles: Expression styles, drawn with equal probability.
        twins: Probability that an object is told apart by its place alone.
        alike: Probability that all objects of a scene have one shape, one color or both, so that
            what is left tells them apart.
        legend: Probability that a scene is colored by the legend of shapes.
        pure_noise: Share of batches at sigma = 1, where only language can explain the edit.
        noise_tokens: Share of the noise tokens that are computed in those batches; at sigma = 1
            they are all alike.
        fewest: Smallest number of objects in a scene that has room for them.
        removals: Probability that an edit removes its object instead of recoloring it.
        cartoons: Share of scenes from the second world, with expressions of the same styles.
        most: Largest number of objects in a cartoon.
        grid_share: Share of the grid's positions that are there at all, noise and reference alike.
    """

    name: str
    until: float
    side_px: int
    styles: tuple[str, ...]
    twins: float
    alike: float
    legend: float
    pure_noise: float
    noise_tokens: float
    fewest: int = 2
    removals: float = 0.3
    cartoons: float = 0.0
    most: int = 6
    grid_share: float = 1.0

    @property
    def cartoon_styles(self) -> tuple[str, ...]:
        """The second world's styles: the first world's, renamed."""
        return tuple(style.replace("scenes", "cartoons") for style in self.styles)


AUTOENCODER_UNTIL = 0.0244
_SHARED = (("color",), ("color",), ("color",), ("shape",), ("shape", "color"))
_ALL = ("scenes", "scenes+", "scenes+", "scenesg")
_PLACES = ("scenes", "scenes", "scenes", "scenes+", "scenesg")
_EVEN = ("scenes", "scenes", "scenes+", "scenes+", "scenesg")
_LATE = (*("scenes",) * 4, *("scenes+",) * 3, *("scenesg",) * 3)
_LAST = (*("scenes",) * 5, *("scenes+",) * 2, *("scenesg",) * 3)
STAGES = (
    Stage("words", 0.0976, 64, ("scenes+",), 0.1, 0.4, 0.5, 0.9, 0.4),
    Stage("places", 0.1904, 64, _ALL, 0.35, 0.5, 0.4, 0.95, 0.4),
    Stage("shapes", 0.2636, 64, _ALL, 0.2, 0.7, 0.2, 0.95, 0.4),
    Stage("together", 0.2782, 64, _ALL, 0.3, 0.4, 0.1, 0.95, 0.4),
    Stage("more objects", 0.2928, 96, _ALL, 0.3, 0.4, 0.1, 0.9, 0.3),
    Stage("full size", 0.488, 128, _ALL, 0.3, 0.35, 0.0, 0.9, 0.2),
    Stage("crowded", 0.5429, 128, _ALL, 0.3, 0.3, 0.0, 0.8, 0.2, fewest=4),
    Stage("crowded places", 0.5808, 128, _PLACES, 0.45, 0.3, 0.0, 0.85, 0.2, fewest=4),
    Stage("noise levels", 0.6048, 128, _PLACES, 0.35, 0.3, 0.0, 0.6, 0.25, fewest=3),
    Stage("crowded looks", 0.6181, 128, _EVEN, 0.35, 0.3, 0.0, 0.8, 0.2, fewest=4),
    Stage("drawing small", 0.6255, 64, _EVEN, 0.3, 0.3, 0.0, 0.1, 0.4),
    Stage("drawing", 0.6366, 96, _EVEN, 0.3, 0.3, 0.0, 0.1, 0.3, fewest=3),
    Stage("crowded again", 0.6856, 128, _EVEN, 0.35, 0.3, 0.0, 0.8, 0.2, fewest=4),
    Stage("all noise levels", 0.7337, 128, _EVEN, 0.3, 0.3, 0.0, 0.5, 0.25, fewest=3),
    Stage("crowds", 0.8368, 128, _LATE, 0.35, 0.3, 0.0, 0.85, 0.2, fewest=4),
    Stage("crowds, settling", 0.8711, 128, _LATE, 0.35, 0.3, 0.0, 0.7, 0.2, fewest=3),
    Stage("removals", 0.9656, 128, _LAST, 0.35, 0.3, 0.0, 0.85, 0.2, fewest=4, removals=0.5),
    Stage("finish", 1.0, 128, _LAST, 0.35, 0.3, 0.0, 0.7, 0.2, fewest=3, removals=0.4),
)
"""How the first weights came to be: scenes alone, from nothing."""
WORLDS_AUTOENCODER_UNTIL = 0.02
WORLDS = (
    Stage("few", 0.3, 128, _EVEN, 0.35, 0.3, 0.0, 0.95, 0.2, 2, 0.4, 0.7, 4, grid_share=0.6),
    Stage("more", 0.8, 128, _EVEN, 0.35, 0.3, 0.0, 0.9, 0.2, 3, 0.4, 0.7, grid_share=0.6),
    Stage("both", 1.0, 128, _LATE, 0.35, 0.3, 0.0, 0.7, 0.25, 3, 0.4, 0.6),
)
"""How weights that know scenes go on with both worlds."""
AUTOENCODER_BATCH = 4
EDITS_A_BATCH = 32
EDITS_A_SCENE = 4


class ImageBatches(Dataset):
    """Batch `step` for the autoencoder: a few scenes of middling size, a share of them cartoons."""

    def __init__(self, seed: int, share: float = 0.0) -> None:
        self.seed, self.share = seed, share

    def __getitem__(self, step: int) -> tuple[Tensor]:
        """The images."""
        rng = np.random.default_rng([self.seed, step])
        worlds = [cartoons if rng.random() < self.share else scenes] * AUTOENCODER_BATCH
        return (_pixels([world.sample_scene(rng, 96).render() for world in worlds]),)


class EditBatches(Dataset):
    """Batch `step` of a stage: a pure function of the seed and the step."""

    def __init__(self, stage: Stage, seed: int, edits: int = EDITS_A_BATCH) -> None:
        self.stage, self.seed, self.edits = stage, seed, edits
        self.tokenizer = build_tokenizer()

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images before (one a scene), images after, token ids, and each edit's scene."""
        rng = np.random.default_rng([self.seed, step])
        before, after, texts, owner = [], [], [], []
        while len(texts) < self.edits:
            scene, styles = self._scene(rng)
            if isinstance(scene, scenes.Scene) and rng.random() < self.stage.legend:
                edits = [by_legend(scene)]
            else:
                count = min(EDITS_A_SCENE, self.edits - len(texts))
                sampled = sample_edits(rng, scene, styles, count, self.stage.removals)
                edits = [(asked.instruction, asked.edited) for asked in sampled]
            if edits:
                owner += [len(before)] * len(edits)
                before.append(scene.render())
                after += [edited.render() for _, edited in edits]
                texts += [instruction for instruction, _ in edits]
        ids = self.tokenizer(texts, padding="max_length", max_length=TEXT_TOKENS).input_ids
        return _pixels(before), _pixels(after), torch.tensor(ids), torch.tensor(owner)

    def _scene(self, rng: np.random.Generator) -> tuple[Scene, tuple[str, ...]]:
        """A scene of one of the worlds, and the styles of its expressions."""
        stage = self.stage
        if rng.random() < stage.cartoons:
            drawn = cartoons.sample_scene(rng, stage.side_px, fewest=stage.fewest, most=stage.most)
            return drawn, stage.cartoon_styles
        scene = scenes.sample_scene(rng, stage.side_px, stage.twins, fewest=stage.fewest)
        return (_alike(rng, scene) if rng.random() < stage.alike else scene), stage.styles


def _alike(rng: np.random.Generator, scene: scenes.Scene) -> scenes.Scene:
    """The scene with all objects of one shape, one color, or both, so that the rest matters."""
    shared = _SHARED[rng.integers(len(_SHARED))]
    common = {name: getattr(scene.objects[0], name) for name in shared}
    for index in range(1, len(scene.objects)):
        scene = scene.changed(index, **common)
    return scene


def _pixels(images: list[np.ndarray]) -> Float[Tensor, "batch 3 height width"]:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
