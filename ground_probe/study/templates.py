"""What the words around the expression change: the same scores for several instructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd

from ground_probe.datasets.example import Split
from ground_probe.editors import Editor, fill
from ground_probe.errors import InputError
from ground_probe.study.collect import collect
from ground_probe.study.score import score
from ground_probe.study.spec import NEUTRAL, Spec
from ground_probe.study.table import best_blocks, summarize

PROBES = ("linear", "linear_precision", "prototype", "attention", "attention_from_text")


def check_templates(templates: Sequence[str]) -> None:
    """Refuse templates that cannot be compared: none, one twice, or one without `{expression}`."""
    if not templates or len(set(templates)) < len(templates):
        raise InputError(f"templates {list(templates)}: give one or more, each once")
    for template in templates:
        fill(template, NEUTRAL)


def compare_templates(
    editor: Editor,
    splits: tuple[Split, Split],
    spec: Spec,
    folder: Path | str,
    templates: Sequence[str],
    workers: int = 0,
) -> pd.DataFrame:
    """By template, label set, probe and stream: the block best on val, on test.

    The spec's own template is replaced; all else is as for `collect`.
    """
    parts = []
    for template in templates:
        one = replace(spec, template=template)
        fit, test = (collect(editor, split, one, folder, workers=workers) for split in splits)
        table = summarize(score(fit, [test], title=template))
        parts += [
            best_blocks(table, labels, probe).assign(template=template)
            for labels, probe in product(table.labels.unique(), PROBES)
        ]
    return pd.concat(parts, ignore_index=True)
