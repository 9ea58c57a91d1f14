"""A plain list of examples as a split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ground_probe.datasets.example import RefExample, Split
from ground_probe.errors import InputError


@dataclass(frozen=True, eq=False, repr=False)
class Listed(Split):
    """Examples that somebody holds in memory; `contents` tell them from any other."""

    examples: tuple[RefExample, ...] = field(repr=False)
    dataset: str = "examples"
    split: str = "list"
    revision: str = ""

    def __len__(self) -> int:
        return len(self.examples)

    def example(self, position: int) -> RefExample:
        """As it was given."""
        return self.examples[position]

    def column(self, name: str) -> tuple[str, ...]:
        """As the examples say."""
        return tuple(getattr(example, name) for example in self.examples)

    @cached_property
    def contents(self) -> tuple[str, ...]:
        """A digest of each example's key, expression, image and masks."""
        return tuple(map(_content, self.examples))


def as_split(examples: Sequence[RefExample]) -> Split:
    """A split as it is, and a list of examples as a split.

    Raises:
        InputError: something in the list is no `RefExample`.
    """
    if all(hasattr(examples, name) for name in ("keys", "image_ids", "expressions", "revision")):
        return examples  # type: ignore[return-value]
    examples = tuple(examples)
    for at, example in enumerate(examples):
        if not isinstance(example, RefExample):
            raise InputError(
                f"item {at} of the list is a {type(example).__name__}: give what `load_split` "
                "gives, or a list of RefExample"
            )
    return Listed(examples)


def _content(example: RefExample) -> str:
    text = f"{example.key}\0{example.expression}"
    content = hashlib.sha256(text.encode(errors="surrogatepass"))
    masks = [example.mask, *example.distractors]
    if example.ignored is not None:
        masks.append(example.ignored)
    for array in (np.asarray(example.image), *masks):
        content.update(repr((array.shape, str(array.dtype))).encode())
        content.update(array.tobytes())
    return content.hexdigest()[:16]
