"""What numbers show, as the sentences above figures and at the ends of notebooks.

What they do not show is "not shown".
"""

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
from ground_probe.study.claim import RIVALS, Claim
from ground_probe.study.emergence_figures import NONE, control_in_words, peak, short
from ground_probe.study.figures import METHODS_IN_WORDS
from ground_probe.study.refits import IN_WORDS, TEST_ONLY
from ground_probe.study.table import with_interval

_SIMPLER = "its halves, and other cues"
_SEEN = 0.05  # mean change of a place, of the colors' range, that a reader sees
_ALPHA = 0.05
_MORE = 2.0  # times as much as any other object: then the edit is the referent's


def cells_in_words(rows: pd.DataFrame, chosen: pd.DataFrame) -> str:
    """How the blocks chosen on val compare with the highest cell of any control.

    Both are as `heat_maps` takes them.
    """
    labels, best = rows.labels.iloc[0], chosen.loc[chosen.value.idxmax()]
    last = chosen.sort_values("step").iloc[-1]
    controls = rows[rows.control.isin(RIVALS[labels])].dropna(subset="value")
    words = f"{_sentence(labels)} is {_at(best)} and {last.value:.2f} at step {last.step}"
    if len(controls):
        top = controls.loc[controls.value.idxmax()]
        words += f"; no control is above {top.value:.2f} ({control_in_words(top.control)})"
    return words


def steps_in_words(rows: pd.DataFrame) -> str:
    """Per stream, at which steps the editor's interval lies above every control, and its best.

    `rows` are those of `beside_controls`, of one label set.
    """
    labels = rows.labels.iloc[0]
    return "\n".join(
        f"{_sentence(labels)} in the {stream} stream {_above(of, RIVALS[labels])}"
        for stream, of in rows.groupby("stream", sort=False)
    )


def _above(rows: pd.DataFrame, rivals: Sequence[str]) -> str:
    controls = rows[rows.control.isin(rivals)]
    count = controls.groupby("step").control.nunique()
    tested = count[count == len(rivals)].index
    own = rows[rows.control == NONE].set_index("step")
    highest = controls.groupby("step").high.max()
    steps = [step for step in tested if step in own.index and own.low[step] > highest[step]]
    best = own.value.idxmax()
    if not steps:
        return f"is not shown to lie above every control; it is {own.value[best]:.2f} at most"
    every = f"at step{'s' * (len(steps) > 1)} {', '.join(map(str, steps))}"
    return f"lies above every control {every}; it is highest at step {best} ({own.value[best]:.2f})"


def change_in_words(change: pd.DataFrame) -> str:
    """How much of the edit the first step's prediction holds, and what the latents show."""
    step = change.step.min()
    at = change[change.step == step].set_index(["view", "place"]).value
    shown = {view: (at[view, "referent"], at[view, "other objects"]) for view in at.index.levels[0]}
    (sees, other), (noise, others) = shown["prediction"], shown["latents"]
    return (
        f"At step {step} the one-step prediction has changed the referent by {sees:.2f}, other "
        f"objects by {other:.2f}; in the latents themselves it is {noise:.2f} and {others:.2f}"
    )


def effects_in_words(effects: pd.DataFrame) -> str:
    """What the strongest declared patch moves, in each measure."""
    rows = effects[(effects.against != NONE) & effects.declared].dropna(subset="difference")
    parts = []
    for measure, of in rows.groupby("measure", sort=False):
        row = of.loc[of.difference.abs().idxmax()]
        sure = "" if row.low > 0 or row.high < 0 else ", not shown"
        parts.append(f"{measure} by {with_interval(row, 'difference', '+z.2f')}{sure}")
    return f"Another object's expression at the input moves {' and '.join(parts)}"


def peaks_in_words(panels: Mapping[str, pd.DataFrame], column: str = "") -> str:
    """Where each panel of an AUC is highest; `column` stands before the name of one."""
    parts: list[str] = []
    for name, cells in panels.items():
        if at := peak(cells):
            which = "mean of heads" if at[1] == "mean" else f"{column}{at[1]}"
            place = f"{short(str(at[0]))}, {which}"
            verb = "at" if parts else "is highest at"
            parts.append(f"{name} {verb} {place} ({cells.loc[at]:.2f})".replace("_", " "))
    return _sentence("; ".join(parts))


def range_in_words(panels: Mapping[str, pd.DataFrame], column: str) -> str:
    """How far a column of each panel reaches, over its rows."""
    rows = len(next(iter(panels.values())))
    name = next(iter(panels.values())).index.name
    parts = [
        f"{panel} is {cells[column].min():.2f} to {cells[column].max():.2f}"
        for panel, cells in panels.items()
    ]
    return f"Over {rows} {name}s {column} {', '.join(parts)}"


def mass_in_words(mass: pd.DataFrame) -> str:
    """How much of the attention text gets where it gets most, and which words get most of that.

    `mass` has a row a block; "all text" is the sum of the other columns.
    """
    block = mass["all text"].idxmax()
    words = mass.loc[block].drop("all text")
    return (
        f"Text gets {mass['all text'][block]:.0%} of the attention at most, at {short(block)}; "
        f"{words.idxmax()} {words.max():.0%}"
    )


def methods_in_words(summary: pd.DataFrame) -> str:
    """The recipe's mIoU beside the best simpler way and the best control, of one split."""
    rows = summary[summary.metric == "miou"].dropna(subset="value").set_index("method")
    if "full" not in rows.index:
        return "full has no score"
    parts = [f"The recipe has mIoU {with_interval(rows.loc['full'])}"]
    for kind, words in ((_SIMPLER, "the best simpler way"), ("controls", "the best control")):
        of = [name for name in rows.index if METHODS_IN_WORDS.get(name, ("", ""))[1] == kind]
        if of:
            best = rows.loc[of].value.idxmax()
            parts.append(f"{words} {rows.value[best]:.2f} ({METHODS_IN_WORDS[best][0]})")
    return ", ".join(parts)


def masks_in_words(ious: pd.Series) -> str:
    """How good masks are: the median IoU, and how many miss.

    >>> masks_in_words(pd.Series([0.9, 0.8, 0.1]))
    'Half of the masks have an IoU of 0.80 or more; 1 of 3 has less than 0.5'
    """
    missed = int((ious < 0.5).sum())
    return (
        f"Half of the masks have an IoU of {ious.median():.2f} or more; {missed} of {len(ious)} "
        f"{'has' if missed == 1 else 'have'} less than 0.5"
    )


def curve_in_words(rows: pd.DataFrame, at: str) -> str:
    """How mIoU goes from one end of an ordered choice to the other; `at` is what its values are."""
    rows = rows.astype({"value": float}).sort_values("value")
    first, last, best = rows.iloc[0], rows.iloc[-1], rows.loc[rows.miou.idxmax()]
    return (
        f"mIoU is {first.miou:.2f} at {at} {first.value:.2g} and {last.miou:.2f} at {at} "
        f"{last.value:.2g}, {best.miou:.2f} at most (at {best.value:.2g})"
    )


class EditCheck(NamedTuple):
    """Where an edit took place, in a word, and the mean changes from 0 to 1.

    The word is "right", "others too" (more than half as much), "wrong object" (more than what is
    meant) or "nothing changed"; `other` is the largest change of any other object.
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
    if max(referent, other) <= _SEEN:
        return EditCheck("nothing changed", referent, other)
    if other > referent:
        return EditCheck("wrong object", referent, other)
    return EditCheck("right" if referent > _MORE * other else "others too", referent, other)


def conclude_edits(checks: Sequence[EditCheck]) -> str:
    """How many edits took place where they were meant."""
    right = sum(check.verdict == "right" for check in checks)
    failed = dict.fromkeys(check.verdict for check in checks if check.verdict != "right")
    words = f"; {', '.join(failed)} otherwise" if failed else ""
    shown = "" if right else "Not shown: "
    return f"{shown}{right} of {len(checks)} edits change the referent, and it alone{words}."


def conclude_emergence(claims: Mapping[tuple[str, str], Claim]) -> str:
    """Where and from which step on the referent is distinguishable from the other objects."""
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
    """Whether one head, chosen on val, grounds better than the mean of heads.

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

    The p of all ways are adjusted together by Holm's method; a ceiling is no way. `rows` are the
    results of every example and method, as `evaluate` returns them.
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


def _at(row: pd.Series) -> str:
    return f"{row.value:.2f} at step {row.step} ({short(row.block)}, chosen on val)"


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]
