"""Splits of generated worlds: example i of a split is a pure function of its seed and i."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
from PIL import Image

from ground_probe.datasets.example import RefExample, Split

LENGTHS = {"train": 100_000, "val": 2_000, "test": 2_000}


class ReferringScene(NamedTuple):
    """A scene, the object that is meant, the words that mean it, and what they say.

    `held_out` is whether training never referred to such an object.
    """

    scene: Any
    target: int
    expression: str
    reference: Any
    held_out: bool


@dataclass(frozen=True, repr=False)
class GeneratedSplit(Split):
    """A lazily drawn split of a world; every example has an image of its own.

    A world says how a scene is drawn, what refers to an object of it, and which objects only the
    test split may name.
    """

    dataset: str
    split: str
    seed: int
    indices: tuple[int, ...] = field(repr=False)
    revision: str = ""

    styles: ClassVar[tuple[str, ...]]

    @staticmethod
    @abstractmethod
    def sample(rng: np.random.Generator, style: str) -> Any:
        """Draw a scene for expressions of a style."""

    @staticmethod
    @abstractmethod
    def refer(
        rng: np.random.Generator, scene: Any, target: int, style: str
    ) -> tuple[str, Any] | None:
        """An expression for one object alone and what it says, if one is found."""

    @staticmethod
    @abstractmethod
    def is_held_out(thing: Any) -> bool:
        """Whether training never refers to such an object."""

    @staticmethod
    @abstractmethod
    def mentions(reference: Any, scene: Any) -> set[int]:
        """The objects that a reference names, the one that is meant and landmarks."""

    @classmethod
    def load(
        cls, dataset: str, split: str, limit: int | None = None, seed: int = 0
    ) -> GeneratedSplit:
        """Open a split.

        Args:
            dataset: One of the world's styles of expressions.
            split: "train", "val" or "test"; only "test" refers to what is held out.
            limit: Number of examples, drawn from the whole split; None for all.
            seed: Seed of the whole data set; no two splits or seeds share a scene.
        """
        indices = np.arange(LENGTHS[split])
        if limit is not None and limit < len(indices):
            indices = np.sort(np.random.default_rng(seed).permutation(indices)[:limit])
        return cls(dataset, split, seed, tuple(indices.tolist()))

    def __len__(self) -> int:
        return len(self.indices)

    def scene(self, position: int) -> ReferringScene:
        """The scene behind an example."""
        return self._draw(self._rng(position))

    def example(self, position: int) -> RefExample:
        """Draw the example at a position."""
        rng = self._rng(position)
        drawn = self._draw(rng)
        scene, target = drawn.scene, drawn.target
        rest = [i for i in range(len(scene.objects)) if i != target]
        others = [self.refer(rng, scene, i, self.dataset) for i in rest]
        key = self.keys[position]
        return RefExample(
            key=key,
            image=Image.fromarray(scene.render()),
            expression=drawn.expression,
            mask=scene.mask(target),
            image_id=key,
            distractors=tuple(scene.mask(i) for i in rest),
            others=tuple(other[0] if other else "" for other in others),
        )

    def column(self, name: str) -> tuple[str, ...]:
        """A field of every example, whose image is its own; expressions take drawing the scenes."""
        if name == "expression":
            return tuple(self.scene(position).expression for position in range(len(self)))
        return tuple(f"{self.dataset}/{self.split}/{self.seed}/{i}" for i in self.indices)

    def _rng(self, position: int) -> np.random.Generator:
        part, style = tuple(LENGTHS).index(self.split), self.styles.index(self.dataset)
        return np.random.default_rng([self.seed, part, style, self.indices[position]])

    def _draw(self, rng: np.random.Generator) -> ReferringScene:
        while True:
            scene = self.sample(rng, self.dataset)
            for target in map(int, rng.permutation(len(scene.objects))):
                referring = self.refer(rng, scene, target, self.dataset)
                if referring is None:
                    continue
                expression, reference = referring
                named = [scene.objects[i] for i in self.mentions(reference, scene)]
                if self.split == "test" or not any(map(self.is_held_out, named)):
                    held_out = self.is_held_out(scene.objects[target])
                    return ReferringScene(scene, target, expression, reference, held_out)
