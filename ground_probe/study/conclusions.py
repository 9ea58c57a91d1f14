"""What a notebook ends with: sentences made of its numbers, "not shown" where they do not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from ground_probe.datasets.example import RefExample
from ground_probe.evaluation.paired import moved
from ground_probe.images import to_rgb
from ground_probe.permutation import holm
from ground_probe.study.claim import Claim
from ground_probe.study.refits import IN_WORDS, TEST_ONLY
from ground_probe.study.table import with_interval

_SEEN = 0.05  # mean change of a place, of the colors' range, that a reader sees
_ALPHA = 0.05
_MORE = 2.0  # times as much as any other object: then the edit is the referent's


class EditCheck(NamedTuple):
    """Where an edit took place: mean changes from 0 to 1, and a word for it.

    Args:
        verdict: "right", "wrong object" or "nothing changed".
        referent: change of what is meant.
        other: the largest change of any other object.
    """

    verdict: str
    referent: float
    other: float


def check_edit(example: RefExample, edited: Image.Image) -> EditCheck:
    """Whether an edit changed what is meant, and clearly more than any other object."""
    before, after = (np.asarray(to_rgb(each), float) for each in (example.image, edited))
    change = np.abs(after - before).mean(-1) / 255
    referent = float(change[example.mask].mean())
    other = max((float(change[mask].mean()) for mask in example.distractors), default=0.0)
    if referent > _SEEN and referent > _MORE * other:
        return EditCheck("right", referent, other)
    return EditCheck("wrong object" if other > _SEEN else "nothing changed", referent, other)


def conclude_edits(checks: Sequence[EditCheck]) -> str:
    """How many edits took place where they were meant."""
    right = sum(check.verdict == "right" for check in checks)
    failed = [check.verdict for check in checks if check.verdict != "right"]
    words = f"; {', '.join(failed)} otherwise" if failed else ""
    shown = "" if right else "Not shown: "
    return f"{shown}{right} of {len(checks)} edits change the referent, and it alone{words}."


def conclude_emergence(claims: Mapping[tuple[str, str], Claim]) -> str:
    """Where and from which step on the referent is told from the other objects."""
    of = {stream: claim for (labels, stream), claim in claims.items() if labels == "grounding"}
    shown = [f"step {claim.step} ({stream} stream)" for stream, claim in of.items() if claim.shown]
    absent = [f"the {stream} stream" for stream, claim in of.items() if not claim.shown]
    parts = []
    if shown:
        parts.append(f"Which object is meant can be decoded from {' and '.join(shown)} on.")
    if absent:
        parts.append(f"Not shown for {' and '.join(absent)}.")
    parts += [
        f"In the {stream} stream the step that is best on val is {claim.best.step}; on test it "
        f"has {with_interval(claim.best)}{IN_WORDS[TEST_ONLY]}."
        for stream, claim in of.items()
        if claim.shown and len(claim.later)
    ]
    return " ".join(parts)


def conclude_heads(
    chosen: pd.DataFrame, pointed: Mapping[str, tuple[int, int]], probe: pd.Series | None = None
) -> str:
    """Whether one head, chosen on val, tells the referent better than the mean of heads.

    Args:
        chosen: two rows, "one head" and "mean of heads", with block, head, value, low and high.
        pointed: by the same names, in how many of how many images the highest token of the whole
            grid lies on the referent.
        probe: what the linear probe on hidden states has, with value, low and high.
    """
    one, mean = chosen.loc["one head"], chosen.loc["mean of heads"]
    numbers = (
        f"head {one['head']} of {one.block} has AUC {with_interval(one)}, the best mean of heads "
        f"{with_interval(mean)}"
    )
    better = "One head grounds better than the mean" if one.low > mean.high else "Not shown"
    shares = "; ".join(f"{name}: {hits} of {n}" for name, (hits, n) in pointed.items())
    fitted = ""
    if probe is not None:
        apart = one.low > probe.high or probe.low > one.high
        difference = "" if apart else ": a difference to the head is not shown"
        fitted = f" The linear probe on hidden states has {with_interval(probe)}{difference}."
    return (
        f"{better}: {numbers}.{fitted} The highest token of the whole grid lies on the referent "
        f"in {shares} images."
    )


def conclude_methods(summary: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Whether the segmenter is above each simpler way, by paired differences of mIoU.

    The p of all ways are adjusted together by Holm's method; a ceiling is no way.

    Args:
        summary: rows of `segmentation.csv`.
        rows: the results of every example and method, as `evaluate` returns them.
    """
    scores = summary[summary.metric == "miou"].dropna(subset="value").set_index("method")
    if "full" not in scores.index:
        return "Not shown: full has no score."
    own = scores.loc["full"]
    of = dict(list(rows[rows.status == "ok"].groupby("method", sort=False)))
    ours = of.pop("full")
    others = {name: it for name, it in of.items() if not name.startswith("ceiling")}
    table = pd.DataFrame([moved(other, ours) for other in others.values()], index=list(others))
    shown = holm(table.p.to_numpy()) < _ALPHA
    parts = [f"mIoU {with_interval(own)} on {own.n_ok} sentences."]
    for words, which in (
        ("Above", shown & (table.difference > 0)),
        ("Below", shown & (table.difference < 0)),
        ("Not shown to differ from", pd.Series(~shown, table.index)),
    ):
        named = [
            f"{name} ({with_interval(row, 'difference', '+z.2f')})"
            for name, row in table[which].iterrows()
        ]
        parts += [f"{words} {', '.join(named)}."] if named else []
    return " ".join(parts)


def conclude_ablation(table: pd.DataFrame) -> str:
    """Which parts of the recipe are needed, by the paired difference without each, of `ablate`."""
    rows = table[table.part == "without"]
    worse, better = rows.difference_high < 0, rows.difference_low > 0
    parts = []
    for which, words in (
        (worse, "Needed, mIoU falls without them"),
        (better, "Better left out"),
        (~worse & ~better, "Not shown to matter"),
    ):
        named = [f"{row.value} ({row.difference:+z.3f})" for row in rows[which].itertuples()]
        parts += [f"{words}: {', '.join(named)}."] if named else []
    return " ".join(parts) or "Nothing of the recipe could be left out."
