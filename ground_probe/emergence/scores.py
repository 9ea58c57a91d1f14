"""Probes on every cell: fitted on val, scored on val in folds and on test in every condition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from ground_probe.emergence.samples import INPUTS, Cell, Samples
from ground_probe.emergence.visible import VIEWS
from ground_probe.errors import InputError
from ground_probe.metrics import as_array
from ground_probe.probes import control_labels, held_out_scores, per_image, probe_grid

LABELS = ("separability", "grounding")
"""The referent against everything else, and against the other objects of the image only."""

FITTED = {
    "linear": ("linear", "auc"),
    "fisher": ("discriminant", "fisher"),
    "prototype": ("prototype", "auc"),
}
"""Probes that are fitted: each a score of tokens and a metric of scores."""

_FOLDS = 5


@dataclass(frozen=True)
class _Stack:
    """Rows of several collections under each other, those of the fitted one first.

    Args:
        collections: what is stacked.
        frame: their rows.
        number: which collection a row is of.
        group: (collection, image) of each row.
        example: (collection, example) of each row.
        images: one row a group, by which results are named.
    """

    collections: tuple[Samples, ...]
    frame: pd.DataFrame
    number: Int[np.ndarray, " n"]
    group: Int[np.ndarray, " n"]
    example: Int[np.ndarray, " n"]
    images: pd.DataFrame

    @classmethod
    def of(cls, collections: Sequence[Samples]) -> _Stack:
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
        return self.number == 0

    def read(self, what: Callable[[Samples], np.ndarray]) -> np.ndarray:
        return np.concatenate([what(each) for each in self.collections])

    @property
    def questions(self) -> list[str]:
        """The label sets that there is anything to ask of."""
        target = self.frame["target"]
        against = dict(zip(LABELS, ("rest", "distractor"), strict=True))
        return [name for name in LABELS if target.any() and self.frame[against[name]].any()]

    def labels(self, name: str) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """Labels, and which rows the question is about."""
        target = self.frame["target"].to_numpy()
        against = self.frame["rest" if name == "separability" else "distractor"].to_numpy()
        return target, target | against

    def per_image(
        self,
        scores: Float[np.ndarray, " n"],
        truth: Bool[np.ndarray, " n"],
        labels: str,
        metric: str,
        **cell,
    ) -> pd.DataFrame:
        """One row for each collection and image."""
        _, asked = self.labels(labels)
        group = self.group[asked]
        values = per_image(
            scores[asked], truth[asked], group, metric=metric, examples=self.example[asked]
        )
        return self.images.iloc[np.unique(group)].assign(labels=labels, **cell, value=values)


def score(
    fit: Samples,
    tests: Sequence[Samples] = (),
    *,
    cells: Iterable[Cell] | None = None,
    title: str = "probes",
) -> pd.DataFrame:
    """Every probe on every cell, one row an image.

    Probes are fitted on `fit` alone. Its own images are scored in folds, which is what cells are
    chosen by; the images of `tests` are scored in every condition that has the cell's step.

    Args:
        fit: of val.
        tests: of test: the editor as it is meant, controls, other seeds.
        cells: which to score; None for all.
        title: of the progress bar.

    Returns:
        labels, control, split, seed, block, stream, step, sigma, probe, image_id, n_expressions and
        value: of an image, NaN where it lacks one of the two classes.
    """
    wanted = set(fit.cells if cells is None else cells)
    steps = [step for step in fit.steps if any(cell[2] == step for cell in wanted)]
    found: list[pd.DataFrame] = []
    for step in tqdm(steps, desc=title, unit="step", leave=False):
        stack = _Stack.of([fit, *(each for each in tests if step in each.steps)])
        for cell in fit.cells:
            if cell[2] != step or cell not in wanted:
                continue
            where = _where(fit, cell)
            features = stack.read(lambda samples, cell=cell: samples.hidden(cell))
            found += _fitted(stack, features.astype(np.float32), **where)
            for kind in fit.maps:
                maps = stack.read(lambda s, kind=kind, cell=cell: s.attention(kind, cell))
                found += _unfitted(stack, maps, probe=kind, **where)
    return pd.concat(found, ignore_index=True)


def score_inputs(fit: Samples, *tests: Samples) -> pd.DataFrame:
    """The same probes on what the editor was given: colours, latents, position."""
    stack, found = _Stack.of([fit, *tests]), []
    where = {"block": "input", "stream": "reference", "step": pd.NA, "sigma": np.nan}
    for name in INPUTS:
        if name == "position" or fit.has(name):
            features = stack.read(lambda samples, name=name: samples.inputs(name))
            parts = pd.concat(_fitted(stack, features.astype(np.float32), **where))
            found.append(parts.assign(control=name))
    return pd.concat(found, ignore_index=True)


def score_control_labels(
    fit: Samples, *tests: Samples, steps: Iterable[int] | None = None, seed: int = 0
) -> pd.DataFrame:
    """The linear probe on labels drawn by place: what its capacity alone would score.

    Args:
        fit: of val.
        tests: of test.
        steps: which to score; None for all.
        seed: of the labels.

    Source: Hewitt and Liang (2019), Designing and Interpreting Probes with Control Tasks.
    """
    stack, found = _Stack.of([fit, *tests]), []
    types = control_labels(np.arange(np.prod(fit.grid)), seed=seed)
    drawn = types[stack.frame["place"].to_numpy()]
    asked = set(fit.steps if steps is None else steps)
    for cell in tqdm(fit.cells, desc="control labels", unit="cell", leave=False):
        if cell[2] in asked:
            features = stack.read(lambda samples, cell=cell: samples.hidden(cell))
            features, where = features.astype(np.float32), _where(fit, cell)
            found += _fitted(stack, features, probes=("linear",), truth=drawn, **where)
    return pd.concat(found, ignore_index=True).assign(control="control_labels")


def score_visible(test: Samples) -> pd.DataFrame:
    """How well the visible change itself tells the referent: the same labels, no probe."""
    if not test.has("change"):
        raise InputError("the samples hold no visible change: collect with visible=True")
    stack, found = _Stack.of([test]), []
    for step in test.steps:
        where = {"block": "output", "stream": "noise", "step": step, "sigma": test.sigmas[step]}
        for view, name in enumerate(VIEWS):
            change = test.change(view, step)
            found += _unfitted(stack, change, probe=f"visible_{name}", **where)
    return pd.concat(found, ignore_index=True)


def _where(samples: Samples, cell: Cell) -> dict:
    return dict(zip(("block", "stream", "step"), cell, strict=True)) | {
        "sigma": samples.sigmas[cell[2]]
    }


def _fitted(
    stack: _Stack,
    features: Float[np.ndarray, "n width"],
    *,
    probes: Iterable[str] = FITTED,
    truth: Bool[np.ndarray, " n"] | None = None,
    **where,
) -> Iterator[pd.DataFrame]:
    for labels in stack.questions:
        target, asked = stack.labels(labels)
        told = target if truth is None else truth
        scores: dict[str, np.ndarray] = {}
        for probe in probes:
            kind, metric = FITTED[probe]
            if kind not in scores:
                scores[kind] = _both(kind, features, told, stack, asked)
            yield stack.per_image(scores[kind], told, labels, metric, probe=probe, **where)


def _both(kind, features, target, stack: _Stack, asked) -> Float[np.ndarray, " n"]:
    """Scores of all rows that are asked about: val in folds, all others from the whole of val."""
    scores = np.full(len(asked), np.nan)
    inside = asked & stack.fitted
    scores[inside] = _scores(kind, features[inside], target[inside], stack.group[inside])
    if not stack.fitted.all():
        beyond = np.unique(stack.group[~stack.fitted])
        every = _scores(
            kind, features[asked], target[asked], stack.group[asked], test_groups=beyond.tolist()
        )
        scores[asked & ~stack.fitted] = every[~stack.fitted[asked]]
    return scores


def _scores(kind, features, target, groups, **how) -> Float[np.ndarray, " n"]:
    if kind == "linear":
        return as_array(probe_grid([features], target, groups, folds=_FOLDS, **how).scores[0])
    return held_out_scores(features, target, groups, probe=kind, folds=_FOLDS, **how)


def _unfitted(stack: _Stack, scores: Float[np.ndarray, " n"], **where) -> Iterator[pd.DataFrame]:
    for labels in stack.questions:
        target, _ = stack.labels(labels)
        yield stack.per_image(scores, target, labels, "auc", **where)
