"""One referring example: an image, an expression, and the mask of what it refers to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, overload

import numpy as np
from jaxtyping import Bool
from PIL import Image

from ground_probe.errors import InputError

Mask = Bool[np.ndarray, "height width"]


@dataclass(frozen=True, slots=True, eq=False)
class RefExample:
    """One sentence of one referent: the unit that every score counts.

    ```python
    gp.RefExample(key="a", image=photo, expression="left man", mask=mask, image_id="photo.jpg")
    ```

    Args:
        key: unique within the dataset, stable between versions of this package.
        image: RGB.
        expression: what refers.
        mask: all that it refers to, at the image's size; empty where it refers to nothing.
        image_id: examples of one image share it; intervals resample images.
        distractors: masks of the other objects of the image.
        others: for each distractor, an expression that refers to it (or empty).
        ignored: pixels that an evaluation does not count, for the annotation leaves them open.

    Raises:
        InputError: the image is not RGB, or a mask is not boolean or not of the image's size.
    """

    key: str
    image: Image.Image
    expression: str
    mask: Mask
    image_id: str
    distractors: tuple[Mask, ...] = ()
    others: tuple[str, ...] = ()
    ignored: Mask | None = None

    def __post_init__(self) -> None:
        if self.image.mode != "RGB":
            raise InputError(f"{self.key}: the image is {self.image.mode}, expected RGB")
        size = (self.image.height, self.image.width)
        masks = [("mask", self.mask), *(("distractor", mask) for mask in self.distractors)]
        for name, mask in masks + ([] if self.ignored is None else [("ignored", self.ignored)]):
            if mask.dtype != bool or mask.shape != size:
                raise InputError(
                    f"{self.key}: the {name} is {mask.dtype} of {mask.shape} (height, width), "
                    f"expected bool of the image's {size}"
                )


class Split(Sequence[RefExample]):
    """A split of a data set: examples are decoded when they are asked for, one by one.

    ```python
    for example in gp.load_split("cartoons", "test")[:3]:
        example.image, example.expression, example.mask
    ```

    `split[0]` is an example, `split[:3]` a split of three.

    Attributes:
        dataset: its name.
        split: which one.
        revision: of what is judged; results of different revisions do not compare.
    """

    dataset: str
    split: str
    revision: str

    @overload
    def __getitem__(self, index: int) -> RefExample: ...

    @overload
    def __getitem__(self, index: slice) -> Split: ...

    def __getitem__(self, index: int | slice) -> RefExample | Split:
        positions = range(len(self))
        if isinstance(index, slice):
            return Part(self, tuple(positions[index]))
        return self.example(positions[index])

    def example(self, position: int) -> RefExample:
        """Decode the example at a position, from 0; what a subclass says."""
        raise NotImplementedError

    def __repr__(self) -> str:
        images = len(set(self.image_ids))
        return (
            f"{self.dataset} {self.split}: {len(self):,} expressions of {images:,} images\n"
            f"revision {self.revision}, keys {', '.join(self.keys[:2])}{', ...' * (len(self) > 2)}"
        )

    @abstractmethod
    def column(self, name: Literal["key", "image_id", "expression"]) -> tuple[str, ...]:
        """A field of every example, without decoding anything; what a subclass says."""

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The examples' keys, without decoding anything."""
        return self.column("key")

    @cached_property
    def image_ids(self) -> tuple[str, ...]:
        """The image of each example."""
        return self.column("image_id")

    @cached_property
    def expressions(self) -> tuple[str, ...]:
        """The expression of each example."""
        return self.column("expression")


class Part(Split):
    """Some examples of a split, of the split's name and revision."""

    def __init__(self, whole: Split, positions: Sequence[int]) -> None:
        self.whole, self.positions = whole, positions
        self.dataset, self.split, self.revision = whole.dataset, whole.split, whole.revision

    def __len__(self) -> int:
        return len(self.positions)

    def example(self, position: int) -> RefExample:
        """The example of the whole split."""
        return self.whole[self.positions[position]]

    def column(self, name: Literal["key", "image_id", "expression"]) -> tuple[str, ...]:
        """Of these examples."""
        column = self.whole.column(name)
        return tuple(column[position] for position in self.positions)
