"""Steering: a direction of the states, found by a probe, added or removed while the editor runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ground_probe.capture import Site, Trace, trace
from ground_probe.capture.sites import STREAMS
from ground_probe.editors import Editor
from ground_probe.errors import InputError, unknown
from ground_probe.inside.running import require_prediction, same_draws
from ground_probe.metrics import as_array


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction of the states.

    ```python
    states = trace.hidden["single_transformer_blocks.0", 0, "reference"]
    direction = gp.probe_direction(states, labels)  # .unit, .middle, .spread
    ```

    Args:
        unit: of length 1.
        middle: where the states that it was found on lie along it, on average.
        spread: their standard deviation along it, the unit of a dose.
    """

    unit: Float[Tensor, " dim"]
    middle: float
    spread: float


def probe_direction(
    features: Float[np.ndarray, "n dim"],
    labels: Bool[np.ndarray, " n"],
    estimator: Any = "means",
) -> Direction:
    """The direction in which a linear probe tells labels apart, in the states' own units.

    Args:
        features: states, as rows of `trace.hidden`.
        labels: 1 for what the direction points at.
        estimator: "means" for the difference of the two means, which moves more than a probe's
            weights do (Marks and Tegmark 2023, arXiv 2310.06824); "linear" for logistic regression
            on standardized states; or any scikit-learn classifier with `coef_`.

    Raises:
        InputError: a single class, other lengths, or an estimator without `coef_`.

    >>> states = np.array([[0.0, 1], [0, -1], [4, 1], [4, -1]])
    >>> probe_direction(states, [0, 0, 1, 1])
    Direction(unit=tensor([1., 0.]), middle=2.0, spread=2.0)
    """
    x = np.asarray(as_array(features), dtype=np.float64)
    y = np.asarray(as_array(labels)).astype(bool)
    if x.ndim != 2 or y.shape != x.shape[:1] or y.all() or not y.any():
        raise InputError(
            f"features of shape {x.shape} and labels of shape {y.shape} with {y.sum()} positives: "
            "give (n, dim) and (n,) with both classes"
        )
    if isinstance(estimator, str) and estimator not in ("means", "linear"):
        raise unknown("estimator", estimator, ("means", "linear"))
    if estimator == "means":
        normal = x[y].mean(0) - x[~y].mean(0)
    else:
        if estimator == "linear":
            estimator = LogisticRegression(C=0.01, max_iter=1000)
        scaler = StandardScaler().fit(x)
        fitted = clone(estimator).fit(scaler.transform(x), y)
        if not hasattr(fitted, "coef_"):
            raise InputError(f"{type(fitted).__name__} has no `coef_`: give a linear classifier")
        normal = np.ravel(fitted.coef_) / scaler.scale_
    if not np.linalg.norm(normal) > 0:
        raise InputError("the probe finds no direction: the two classes have the same mean")
    unit = normal / np.linalg.norm(normal)
    along = x @ unit
    return Direction(
        torch.as_tensor(unit, dtype=torch.float32), float(along.mean()), float(along.std())
    )


@dataclass(frozen=True, eq=False)
class Steer:
    """An edit that moves rows of a stream along a direction, for `edit=` of `trace` and `capture`.

    Args:
        direction: from `probe_direction`.
        blocks: "all" or globs.
        stream: "noise", "reference" or "text".
        dose: how far, in standard deviations; 0 changes nothing, below 0 the other way.
        remove: first bring every row to the middle along the direction, so that nothing of it is
            left to tell the rows apart.
        rows: which tokens of the stream; None for all.
        steps, roles: denoising steps, None for all, and forwards of classifier-free guidance.

    >>> direction = Direction(torch.tensor([1.0, 0.0]), middle=0.0, spread=2.0)
    >>> at = Site("transformer_blocks.0", 0, "noise", "cond")
    >>> Steer(direction, "all", "noise", dose=1.5)(at, torch.ones(2, 2))
    tensor([[4., 1.],
            [4., 1.]])
    >>> Steer(direction, "all", "noise", remove=True)(at, torch.ones(2, 2))
    tensor([[0., 1.],
            [0., 1.]])
    """

    direction: Direction
    blocks: str | Sequence[str]
    stream: str
    dose: float = 0.0
    remove: bool = False
    rows: Sequence[int] | None = None
    steps: Sequence[int] | None = None
    roles: Sequence[str] = ("cond",)

    def __post_init__(self) -> None:
        if self.stream not in STREAMS:
            raise unknown("stream", self.stream, STREAMS)

    def __call__(self, site: Site, states: Float[Tensor, "tokens dim"]) -> Tensor | None:
        """The states moved; those given stay as they are."""
        if site.stream != self.stream or site.role not in self.roles:
            return None
        unit = self.direction.unit.to(states.device)
        if unit.shape != states.shape[-1:]:
            raise InputError(
                f"a direction of {len(unit)} dimensions for states of {states.shape[-1]} at "
                f"{site.block}: find it on states of the same editor and stream"
            )
        rows = slice(None) if self.rows is None else torch.as_tensor(list(self.rows))
        moved = states[rows].float()
        if self.remove:
            moved = moved - ((moved @ unit)[:, None] - self.direction.middle) * unit
        moved = moved + self.dose * self.direction.spread * unit
        states = states.clone()
        states[rows] = moved.to(states)
        return states


def dose_curve(
    editor: Editor,
    image: Image.Image,
    instruction: str,
    steer: Steer,
    doses: Sequence[float],
    measure: Callable[[Trace], float | Mapping[str, float]],
    *,
    step: int = 0,
    seed: int = 0,
    num_steps: int | None = None,
    pipeline_kwargs: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """What a step predicts at each dose of a direction, in numbers.

    ```python
    steer = gp.Steer(gp.probe_direction(states, labels), "single_*", "noise", rows=tokens)
    curve = gp.dose_curve(
        editor, image, instruction, steer, (-2, -1, 0, 1, 2), lambda t: t.change(0).mean()
    )
    ```

    Args:
        steer: what is added or removed; its own dose does not count.
        doses: in standard deviations. 0 is the undisturbed run, unless the steering removes.
        measure: of a trace with its prediction; a number, or several by name.
        step: whose prediction is measured.
        editor, image, instruction, seed, num_steps, pipeline_kwargs: as of `trace`.

    Returns:
        a row for each dose: dose and value, or dose and the measure's names.

    Raises:
        UnsupportedEditorError: a scheduler that is not of flow matching.
    """
    require_prediction(editor)
    rows = []
    for dose in doses:
        with same_draws(editor, seed):
            traced = trace(
                editor, image, instruction, blocks=(), steps=step, attention=False,
                prediction=True, edit=replace(steer, dose=dose), seed=seed, num_steps=num_steps,
                pipeline_kwargs=pipeline_kwargs,
            )  # fmt: skip
        value = measure(traced)
        named = dict(value) if isinstance(value, Mapping) else {"value": value}
        rows.append({"dose": float(dose)} | {name: float(v) for name, v in named.items()})
    return pd.DataFrame(rows)
