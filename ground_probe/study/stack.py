"""Rows of several collections under each other, and one value an image for each question."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from ground_probe.probes import per_image
from ground_probe.probes.table import LABELS
from ground_probe.study.samples import Samples

Scored = tuple[dict[str, Any], Int[np.ndarray, " _"], Float[np.ndarray, " _"]]
"""What was scored, the groups that it was asked of, and one value a group."""


@dataclass(frozen=True)
class Stack:
    """Rows of several collections, those of the fitted one first.

    Of each row there is the `number` of its collection, a `group` (collection, image) and an
    `example` (collection, example); `images` has a row a group, by which results are named.
    """

    collections: tuple[Samples, ...]
    frame: pd.DataFrame
    number: Int[np.ndarray, " n"]
    group: Int[np.ndarray, " n"]
    example: Int[np.ndarray, " n"]
    images: pd.DataFrame

    @classmethod
    def of(cls, collections: Sequence[Samples]) -> Stack:
        """Stack the rows of some collections."""
        rows = [each.rows.assign(number=i) for i, each in enumerate(collections)]
        frame = pd.concat(rows, ignore_index=True)
        by_image = frame.groupby(["number", "image_id"], sort=False)
        images = by_image["key"].nunique().rename("n_expressions").reset_index()
        for name in ("control", "split", "seed"):
            images[name] = [getattr(collections[i], name) for i in images["number"]]
        return cls(
            tuple(collections),
            frame,
            frame["number"].to_numpy(),
            by_image.ngroup().to_numpy(),
            frame.groupby(["number", "key"], sort=False).ngroup().to_numpy(),
            images.drop(columns="number"),
        )

    @property
    def fitted(self) -> Bool[np.ndarray, " n"]:
        """The rows of the collection that probes are fitted on."""
        return self.number == 0

    def read(self, what: Callable[[Samples], np.ndarray]) -> np.ndarray:
        """An array of every collection, under each other."""
        return np.concatenate([what(each) for each in self.collections])

    @property
    def target(self) -> Bool[np.ndarray, " n"]:
        """The rows of the referent."""
        return self.frame["target"].to_numpy()

    @cached_property
    def questions(self) -> dict[str, Bool[np.ndarray, " n"]]:
        """The rows that a label set is about, for each of which there is anything to ask."""
        against = zip(LABELS, ("rest", "distractor"), strict=True)
        others = {labels: self.frame[name].to_numpy() for labels, name in against}
        return {
            labels: self.target | rows
            for labels, rows in others.items()
            if self.target.any() and rows.any()
        }

    def aucs(self, scores: Float[np.ndarray, " n"], **about: Any) -> Iterator[Scored]:
        """What a score is worth as it is, for each label set, collection and image."""
        for labels, asked in self.questions.items():
            group, example = self.group[asked], self.example[asked]
            values = per_image(scores[asked], self.target[asked], group, examples=example)
            yield {"labels": labels, **about}, np.unique(group), values

    def table(self, scored: Iterable[Scored]) -> pd.DataFrame:
        """One row for each collection, image and thing that was scored."""
        abouts, groups, values = zip(*scored, strict=True)
        repeated = np.repeat(range(len(abouts)), [len(each) for each in groups])
        images = self.images.iloc[np.concatenate(groups)].reset_index(drop=True)
        about = pd.DataFrame(abouts).loc[repeated].reset_index(drop=True)
        return pd.concat([images, about], axis=1).assign(value=np.concatenate(values))
