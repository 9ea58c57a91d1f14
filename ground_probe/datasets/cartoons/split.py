"""Splits of cartoons: example i of a split is a pure function of its seed and i."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from PIL import Image

from ground_probe.datasets.cartoons.checker import reader
from ground_probe.datasets.cartoons.draw import Scene
from ground_probe.datasets.cartoons.layout import sample_scene
from ground_probe.datasets.cartoons.refer import STYLES, Reference, is_held_out, refer
from ground_probe.datasets.example import RefExample, Split
from ground_probe.errors import unknown

LENGTHS = {"train": 100_000, "val": 2_000, "test": 2_000}
REVISION = "cartoons-1"


@dataclass(frozen=True, slots=True)
class ReferringScene:
    """A scene, the object that is meant and the words that mean it."""

    scene: Scene
    target: int
    expression: str
    reference: Reference

    @property
    def held_out(self) -> bool:
        """Whether training never referred to such an object."""
        return is_held_out(self.scene.objects[self.target])


def sample_referring_scene(
    rng: np.random.Generator, style: str, held_out: bool = False
) -> ReferringScene:
    """Draw a scene and an expression of one style.

    Args:
        rng: Source of all randomness.
        style: One of `STYLES`.
        held_out: Whether the words may name objects of the held-out colors and builds.
    """
    while True:
        scene = sample_scene(rng)
        for target in rng.permutation(len(scene.objects)):
            found = refer(rng, scene, int(target), style)
            if found is None:
                continue
            expression, reference = found
            if held_out or not any(
                is_held_out(scene.objects[i]) for i in reader(scene).mentions(reference)
            ):
                return ReferringScene(scene, int(target), expression, reference)


@dataclass(frozen=True, repr=False)
class CartoonsSplit(Split):
    """A lazily drawn split; every example has an image of its own."""

    dataset: str
    split: str
    seed: int
    indices: tuple[int, ...] = field(repr=False)
    revision: str = REVISION

    def __len__(self) -> int:
        return len(self.indices)

    def _rng(self, position: int) -> np.random.Generator:
        part, style = tuple(LENGTHS).index(self.split), STYLES.index(self.dataset)
        return np.random.default_rng([self.seed, part, style, self.indices[position]])

    def scene(self, position: int) -> ReferringScene:
        """The scene behind an example."""
        return sample_referring_scene(self._rng(position), self.dataset, self.split == "test")

    def example(self, position: int) -> RefExample:
        """Draw the example at a position."""
        rng = self._rng(position)
        drawn = sample_referring_scene(rng, self.dataset, self.split == "test")
        scene, target = drawn.scene, drawn.target
        rest = [i for i in range(len(scene.objects)) if i != target]
        found = [refer(rng, scene, i, self.dataset) for i in rest]
        key = self.keys[position]
        return RefExample(
            key=key,
            image=Image.fromarray(scene.render()),
            expression=drawn.expression,
            mask=scene.mask(target),
            image_id=key,
            distractors=tuple(scene.mask(i) for i in rest),
            others=tuple(other[0] if other else "" for other in found),
        )

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The examples' keys, without drawing anything."""
        return tuple(f"{self.dataset}/{self.split}/{self.seed}/{i}" for i in self.indices)

    @property
    def image_ids(self) -> tuple[str, ...]:
        """The image of each example: its own."""
        return self.keys

    @cached_property
    def expressions(self) -> tuple[str, ...]:
        """The expressions; the scenes are drawn once for them."""
        return tuple(self.scene(i).expression for i in range(len(self)))


def load(dataset: str, split: str, limit: int | None = None, seed: int = 0) -> CartoonsSplit:
    """Open a split of cartoons.

    Args:
        dataset: "cartoons", "cartoons+" or "cartoonsg".
        split: "train", "val" or "test"; only "test" refers to held-out pairs.
        limit: Number of examples, drawn from the whole split; None for all.
        seed: Seed of the whole data set; no two splits or seeds share a scene.

    Raises:
        UnknownNameError: no such data set or split.
    """
    if dataset not in STYLES:
        raise unknown("dataset", dataset, STYLES)
    if split not in LENGTHS:
        raise unknown("split", split, LENGTHS)
    indices = np.arange(LENGTHS[split])
    if limit is not None and limit < len(indices):
        indices = np.sort(np.random.default_rng(seed).permutation(indices)[:limit])
    return CartoonsSplit(dataset, split, seed, tuple(indices.tolist()))
