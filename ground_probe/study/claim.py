"""The claim: from which step on the referent is decodable, above every control, or not shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ground_probe.errors import IncompleteError
from ground_probe.stats import estimate, widened
from ground_probe.study.paired import exceeded, later_steps, of_images, over
from ground_probe.study.refits import IN_WORDS, fit_variance
from ground_probe.study.samples import INPUTS
from ground_probe.study.table import beside_controls, with_interval

RIVALS = {
    "separability": ("random_weights", *INPUTS, "control_labels"),
    "grounding": (
        "other_expression",
        "no_expression",
        "shuffled",
        "random_weights",
        *INPUTS,
        "control_labels",
    ),
}
"""Controls that a claim must exceed. Objects stand out whatever is said, so that only grounding
has to exceed the controls of language; the expression's own words in another order are no control,
they ground too."""

_MEANING = {
    "separability": "tells the referent from everything else",
    "grounding": "tells the referent from the other objects",
}
_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Claim:
    """What was claimed and what the test images say.

    Args:
        delta: how far below the best step the claimed one may lie, in AUC.
        steps: a row a step, of the block that is best on val: its test value with interval,
            whether every control was run there, the highest control, the largest adjusted p of
            exceeding a control, whether it exceeds all; how much it lies above the best step,
            paired by image, with the lower end of that, and whether this is within delta.
        rivals: a row a step and control: its value and interval, and how much it is exceeded by.
        later: a row a step: how much the first step lies below it, paired by image.
        over: what every p and the intervals of differences are over, of `refits.IN_WORDS`.
            Intervals of one cell are always given the fit.
    """

    labels: str
    stream: str
    delta: float
    steps: pd.DataFrame = field(repr=False)
    rivals: pd.DataFrame = field(repr=False)
    later: pd.DataFrame = field(repr=False)
    over: str

    @property
    def step(self) -> int | None:
        """The earliest step that holds; None where the claim is not shown."""
        holds = self.steps[self.steps.exceeds & self.steps.within_delta]
        return int(holds.step.min()) if len(holds) else None

    @property
    def shown(self) -> bool:
        """Whether any step holds."""
        return self.step is not None

    @property
    def best(self) -> pd.Series:
        """The step that is best on val."""
        return self.steps.loc[self.steps.val.idxmax()]

    def sentence(self) -> str:
        """The verdict, with its numbers."""
        tested = self.steps[self.steps.tested]
        if not len(tested):
            absent = sorted(set(RIVALS[self.labels]) - set(self.rivals.control))
            return f"Not shown: no step has every control, {', '.join(absent)} are missing."
        nearest = tested.loc[(tested.low - tested.rival_high).idxmax()]
        row = tested[tested.step == self.step].iloc[0] if self.shown else nearest
        best = f"the step that is best on val, {self.best.step}, has {self.best.value:.2f}"
        if row.step != self.best.step:
            best += (
                f", step {row.step} less it is {row.above:+z.3f} (down to {row.above_low:+z.3f})"
            )
        value = f"linear {with_interval(row)} on {row.n_images} images"
        rival = f"{row.rival} with {row.rival_value:.2f} (up to {row.rival_high:.2f})"
        p = f"adjusted p {row.p:.2g}{IN_WORDS[self.over]}"
        if self.shown:
            return (
                f"Shown: at step {row.step} (sigma {row.sigma:.2f}) the {self.stream} stream of "
                f"{row.block} {_MEANING[self.labels]}, {value}; the highest of "
                f"{len(RIVALS[self.labels])} controls is {rival}, {p}; {best}."
            )
        return (
            f"Not shown: at none of the steps {', '.join(map(str, tested.step))} the {self.stream} "
            f"stream {_MEANING[self.labels]} above every control and within {self.delta} of its "
            f"best; nearest is step {row.step}, {value}, beside {rival}, {p}; {best}."
        )


def claim(
    scores: pd.DataFrame,
    table: pd.DataFrame,
    *,
    labels: str = "grounding",
    stream: str = "reference",
    delta: float = 0.05,
    refits: pd.DataFrame | None = None,
) -> Claim:
    """The earliest step that exceeds every control and is within `delta` of the best step.

    It is within delta when the interval of its paired difference to the step that is best on val
    lies above -delta: a mean that happens to be near is not enough. A step exceeds a control when
    its interval lies above the control's, and the paired difference is above 0 with a sign-flip p
    that is adjusted for all steps and controls (max-T). The block of each step is the best on val;
    random weights are given their own best one. The choice of blocks is not redone.

    Args:
        scores: one row an image.
        table: their summary.
        labels: "separability" or "grounding".
        stream: of image tokens.
        delta: in AUC of the linear probe.
        refits: from `refit`: every p, and every interval of a difference, then sees other images to
            fit on as well. None for what is given the fit.

    Raises:
        IncompleteError: the table does not have such cells on val and test.
    """
    rows = beside_controls(table, labels)
    rows = rows[rows.stream == stream].sort_values("step")
    cells = rows[rows.control == "none"].reset_index(drop=True)
    if cells.empty:
        raise IncompleteError(
            f"no linear of the {stream} stream on both val and test: collect and score them first"
        )
    val = table[(table.split == "val") & (table.control == "none") & (table.labels == labels)]
    val = val[val.probe == "linear"].set_index(["block", "stream", "step"])["value"]
    cells = cells.assign(val=[val[c.block, c.stream, c.step] for c in cells.itertuples()])
    images = scores[(scores.labels == labels) & (scores.split == "test")]
    own = pd.concat([of_images(images, cell) for cell in cells.itertuples()], axis=1)
    own.columns = cells.step
    by_step = {cell.step: cell for cell in cells.itertuples()}
    first, best = cells.step.iloc[0], cells.loc[cells.val.idxmax(), "step"]

    def moves(step: int, others: Iterable[Any]) -> list[float]:
        return [fit_variance(refits, labels, by_step[step], other) for other in others]

    controls = rows[rows.control.isin(RIVALS[labels])]
    variances = [moves(row.step, [row])[0] for row in controls.itertuples()]
    rivals = exceeded(controls, images, own, variances)
    steps = _judged(cells, rivals, own, moves(best, by_step.values()), labels, delta)
    basis = over(refits, "linear")
    later = later_steps(own, moves(first, by_step.values())[1:], basis)
    return Claim(labels, stream, delta, steps, rivals, later, basis)


def _judged(
    cells: pd.DataFrame,
    rivals: pd.DataFrame,
    own: pd.DataFrame,
    from_best: Iterable[Any],
    labels: str,
    delta: float,
) -> pd.DataFrame:
    best = own[cells.loc[cells.val.idxmax(), "step"]]
    rows = []
    for cell, variance in zip(cells.itertuples(), from_best, strict=True):
        of = rivals[rivals.step == cell.step]
        tested = set(of.control) == set(RIVALS[labels])
        above = estimate((own[cell.step] - best).to_numpy())
        above_low, _ = widened(above, variance)
        absent = {"control": "", "value": np.nan, "high": np.nan}
        top = of.loc[of.high.idxmax()] if len(of) else absent
        rows.append(
            {
                "tested": tested,
                "rival": top["control"],
                "rival_value": top["value"],
                "rival_high": top["high"],
                "p": of.p.max(),
                "exceeds": bool(tested and cell.low > of.high.max() and of.p.max() < _SIGNIFICANT),
                "above": above.value,
                "above_low": above_low,
                "within_delta": bool(above_low >= -delta),
            }
        )
    kept = ["step", "sigma", "block", "val", "value", "low", "high", "n_images"]
    return pd.concat([cells[kept], pd.DataFrame(rows)], axis=1)


def seed_spread(table: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation, lowest and highest test value over noise seeds, by cell."""
    rows = table[(table.split == "test") & (table.control == "none")]
    by = ["labels", "probe", "stream", "block", "step"]
    spread = rows.groupby(by)["value"].agg(["mean", "std", "min", "max", "count"]).reset_index()
    return spread[spread["count"] > 1].rename(columns={"count": "n_seeds"})
