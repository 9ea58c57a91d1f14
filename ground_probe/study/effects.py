"""What an intervention does to grounding and to the edit, image by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ground_probe.datasets.example import Split
from ground_probe.editors import Editor
from ground_probe.permutation import holm
from ground_probe.stats import compare
from ground_probe.study.causal import INPUT, RANDOM, WAYS_IN_WORDS, causal_specs, has_pooled
from ground_probe.study.collect import collect_each
from ground_probe.study.refits import BOTH_KINDS, IN_WORDS, refit_cell
from ground_probe.study.samples import Samples
from ground_probe.study.score import score
from ground_probe.study.spec import Spec
from ground_probe.study.table import with_interval
from ground_probe.study.visible import PLACES, VIEWS

NONE = "none"
_SIGNIFICANT = 0.05


def causal_check(
    editor: Editor,
    split: Split,
    spec: Spec,
    folder: Path | str,
    blocks: Sequence[str],
    workers: int = 0,
) -> list[Samples]:
    """Collect step 0 of a few examples undisturbed and under every intervention.

    Interventions are at the input and at `blocks`; what these hand on reaches only the blocks after
    them. All else is as for `collect`; with `visible=True` in the spec the edit is measured too.
    """
    specs = {
        NONE if each.intervention == NONE else f"{each.intervention} at {each.at}": each
        for each in causal_specs(spec, blocks, has_pooled(editor))
    }
    return collect_each(editor, split, specs, folder, workers)


def effects(fit: Samples, changed: Sequence[Samples], *, seed: int = 0) -> pd.DataFrame:
    """What each intervention moves, paired by image: less none, and patches less their controls.

    What is declared before anybody looks: at the input, the text's rows, the pooled vector and both
    of another object's expression, each less its own norm-matched random control, in both measures.
    Their p are adjusted together (Holm); all else is exploratory, with the p of each row alone.

    The probe is refitted on resampled images of val, so that interval and p of grounding see other
    images to fit on as well as to test on; the edit is not fitted. `over` says so.

    Args:
        fit: of val, undisturbed; the probe is fitted on it.
        changed: from `causal_check`, the undisturbed collection first; without `visible=True`
            there is no measure of the edit.
        seed: of the resamples.

    Returns:
        a row for each measure, intervention and what it is held against. "grounding" is the linear
        probe's AUC at the last block, reference stream; "edit" is the change that the first step
        predicts of the referent less that of the other objects. p is a sign-flip p, p_holm is NaN
        where a row is exploratory.
    """
    cell = (fit.blocks[-1], fit.carrier, 0)
    scores = score(fit, changed, cells=[cell], title="causal check")
    refits = pd.concat(refit_cell(fit, changed, cell, {("grounding", "linear")}, seed=seed))
    draws = refits.pivot(index="draw", columns="control", values="value")
    grounding = scores[(scores.probe == "linear") & (scores.labels == "grounding")]
    grounding = grounding[grounding.split == "test"]
    measures = {
        "grounding": {
            name: of.set_index("image_id").value for name, of in grounding.groupby("control")
        },
    }
    if changed[0].has("change_means"):
        measures["edit"] = {each.control: _edit(each) for each in changed}
    rows = []
    for measure, values in measures.items():
        for name, against in _pairs([each.control for each in changed]):
            pair = pd.concat([values[name], values[against]], axis=1, keys=["with", "less"])
            pair, fitted = pair.dropna(), measure == "grounding"
            moves = float((draws[name] - draws[against]).var()) if fitted else 0.0
            moved = compare(*pair.to_numpy().T, fit_variance=moves)
            rows.append(
                {
                    "measure": measure,
                    "intervention": name,
                    "against": against,
                    "value": pair["with"].mean(),
                    "less": pair["less"].mean(),
                    "difference": moved.value,
                    "low": moved.low,
                    "high": moved.high,
                    "n_images": moved.n,
                    "p": moved.p,
                    "over": BOTH_KINDS if fitted else "test images",
                    "declared": against != NONE and name.endswith(f" at {INPUT}"),
                }
            )
    table = pd.DataFrame(rows).assign(p_holm=np.nan)
    declared = table["declared"].to_numpy()
    table.loc[declared, "p_holm"] = holm(table.p[declared])
    return table


def causal_sentences(effects: pd.DataFrame, measure: str = "grounding") -> str:
    """By which way language comes in, or that it is not shown: for "grounding" or "edit"."""
    rows = effects[(effects.measure == measure) & effects.declared].set_index("intervention")
    bare = effects[(effects.measure == measure) & (effects.against == NONE)]
    sentences = []
    for way, name in WAYS_IN_WORDS.items():
        if f"{way} at {INPUT}" not in rows.index:
            continue
        row = rows.loc[f"{way} at {INPUT}"]
        undisturbed = bare[bare.intervention == row.name].less.item()
        moved = row.p_holm < _SIGNIFICANT and row.high < 0
        sentences.append(
            f"{name}: {undisturbed:.2f} undisturbed, {row.value:.2f} with another object's "
            f"expression, {row.less:.2f} moved as far at random; "
            f"{with_interval(row, 'difference', '+z.2f')} on {row.n_images} images, "
            f"Holm p {row.p_holm:.2g}{IN_WORDS.get(row.over, '')}, "
            + ("used." if moved else "use not shown.")
        )
    if len(sentences) == 1:
        sentences.append("This editor has no pooled vector of the text.")
    return f"{measure}, patched at the input. " + " ".join(sentences)


def _pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every intervention and none; every patch and its random control."""
    for name in names[1:]:
        yield name, NONE
    for name in names[1:]:
        kind, _, at = name.partition(" at ")
        if kind in WAYS_IN_WORDS:
            yield name, f"{kind}{RANDOM} at {at}"


def _edit(samples: Samples) -> pd.Series:
    """By image, the predicted change of the referent less that of the other objects."""
    means = samples.change_means()[:, VIEWS.index("prediction"), 0]
    contrast = means[:, PLACES.index("referent")] - means[:, PLACES.index("other objects")]
    images = samples.rows.drop_duplicates("key")["image_id"].to_numpy()
    return pd.Series(contrast).groupby(images).mean()
