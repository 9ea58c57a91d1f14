"""What the embedded editor is shown: scenes of both worlds, each with a few of its edits."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from ground_probe.datasets import cartoons, scenes
from tools.train_tiny.build import TEXT_TOKENS, build_tokenizer
from tools.train_tiny.edits import by_legend, sample_edits
from tools.train_tiny.worlds import Scene

SCENES_A_CHUNK = 4
EDITS_A_SCENE = 4
"""So that only the text tells the examples of one scene apart."""
CARTOONS = 0.8
"""Share of the second world's scenes."""
ALIKE = 0.3
"""Share of the first world's scenes whose objects have one shape, one color or both."""
LEGEND = 0.2
"""Share of scenes of which one edit colors every object by its kind."""

_SHARED = (("color",), ("color",), ("color",), ("shape",), ("shape", "color"))


class ImageChunks(Dataset):
    """Chunk `number` for the autoencoder: a few scenes of middling size."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __getitem__(self, number: int) -> UInt8[Tensor, "scenes 3 height width"]:
        """The images."""
        rng = np.random.default_rng([self.seed, number])
        drawn = [_sample_world(rng).sample_scene(rng, 96) for _ in range(SCENES_A_CHUNK)]
        return _stack([scene.render() for scene in drawn])


class EditChunks(Dataset):
    """Chunk `number` for the editor: a pure function of the seed and the number."""

    def __init__(self, seed: int) -> None:
        self.seed, self.tokenizer = seed, build_tokenizer()

    def __getitem__(
        self, number: int
    ) -> tuple[
        UInt8[Tensor, "scenes 3 height width"],
        UInt8[Tensor, "scenes edits 3 height width"],
        Int[Tensor, "scenes edits text"],
    ]:
        """Images before, images after each of a scene's edits, and what these ask for."""
        rng = np.random.default_rng([self.seed, number])
        before, after, texts = [], [], []
        while len(before) < SCENES_A_CHUNK:
            scene = _sample_scene(rng)
            edits = [
                (asked.instruction, asked.edited)
                for asked in sample_edits(rng, scene, EDITS_A_SCENE)
            ]
            if edits and rng.random() < LEGEND:
                edits[-1] = by_legend(scene)
            if edits:
                edits = (EDITS_A_SCENE * edits)[:EDITS_A_SCENE]
                before.append(scene.render())
                after.append(_stack([edited.render() for _, edited in edits]))
                texts += [instruction for instruction, _ in edits]
        ids = self.tokenizer(texts, padding="max_length", max_length=TEXT_TOKENS).input_ids
        shape = SCENES_A_CHUNK, EDITS_A_SCENE, TEXT_TOKENS
        return _stack(before), torch.stack(after), torch.tensor(ids).reshape(shape)


def _sample_world(rng: np.random.Generator) -> ModuleType:
    return cartoons if rng.random() < CARTOONS else scenes


def _sample_scene(rng: np.random.Generator) -> Scene:
    """A scene of either world; one of the first may be crowded, or its objects alike."""
    if _sample_world(rng) is cartoons:
        return cartoons.sample_scene(rng)
    scene = scenes.sample_scene(rng, fewest=int(rng.integers(2, 5)))
    if rng.random() < ALIKE:
        shared = _SHARED[rng.integers(len(_SHARED))]
        common = {name: getattr(scene.objects[0], name) for name in shared}
        for index in range(1, len(scene.objects)):
            scene = scene.changed(index, **common)
    return scene


def _stack(images: list[np.ndarray]) -> UInt8[Tensor, "images 3 height width"]:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
