"""What an intervention does to grounding and to the edit, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ground_probe.datasets.example import RefExample
from ground_probe.editors import Editor
from ground_probe.emergence.causal import causal_specs
from ground_probe.emergence.collect import collect
from ground_probe.emergence.conditions import Spec
from ground_probe.emergence.samples import Samples
from ground_probe.emergence.scores import score
from ground_probe.emergence.visible import PLACES, VIEWS
from ground_probe.probes import compare


def causal_check(
    editor: Editor,
    split: Sequence[RefExample],
    spec: Spec,
    folder: Path | str,
    blocks: Sequence[str],
) -> list[Samples]:
    """Collect step 0 undisturbed and under every intervention.

    Args:
        editor: from `load_editor`; its text must be a stream of its blocks.
        split: a few examples of test.
        spec: of the study.
        folder: where samples lie.
        blocks: where to intervene; what they hand on reaches only the blocks after them.
    """
    return [
        collect(editor, split, each, folder, control=_name(each))
        for each in causal_specs(spec, blocks)
    ]


def effects(fit: Samples, changed: Sequence[Samples]) -> pd.DataFrame:
    """Each intervention less none, paired by image.

    Args:
        fit: of val, undisturbed; the probe is fitted on it.
        changed: from `causal_check`, the undisturbed collection first.

    Returns:
        a row for each measure and intervention. "grounding" is the linear probe's AUC at the last
        block, reference stream; "edit" is the change that the first step predicts of the referent
        less that of the other objects. p is a sign-flip p times the number of interventions
        (Bonferroni).
    """
    stream = "reference" if "reference" in fit.streams else "noise"
    scores = score(fit, changed, cells=[(fit.blocks[-1], stream, 0)], title="causal check")
    grounding = scores[(scores.probe == "linear") & (scores.labels == "grounding")]
    grounding = grounding[grounding.split == "test"]
    measures = {
        "grounding": {
            name: of.set_index("image_id").value for name, of in grounding.groupby("control")
        },
        "edit": {each.control: _edit(each) for each in changed},
    }
    rows = []
    for measure, values in measures.items():
        none = values[changed[0].control]
        for each in changed[1:]:
            pair = pd.concat([values[each.control], none], axis=1, keys=["with", "none"]).dropna()
            found = compare(pair["with"].to_numpy(), pair["none"].to_numpy())
            rows.append(
                {
                    "measure": measure,
                    "intervention": each.control,
                    "none": pair["none"].mean(),
                    "value": pair["with"].mean(),
                    "difference": found.value,
                    "low": found.low,
                    "high": found.high,
                    "n_images": found.n,
                    "p": min(1.0, found.p * (len(changed) - 1)),
                }
            )
    return pd.DataFrame(rows)


def _edit(samples: Samples) -> pd.Series:
    """By image, the predicted change of the referent less that of the other objects."""
    means = samples.change_means()[:, VIEWS.index("prediction"), 0]
    contrast = means[:, PLACES.index("referent")] - means[:, PLACES.index("other objects")]
    images = samples.rows.drop_duplicates("key")["image_id"].to_numpy()
    return pd.Series(contrast).groupby(images).mean()


def _name(spec: Spec) -> str:
    return "none" if spec.intervention == "none" else f"{spec.intervention} at {spec.at}"
