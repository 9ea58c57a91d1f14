"""The emergence study: where and when an editor tells the referent, against every control."""

from __future__ import annotations

from ground_probe.emergence.claim import RIVALS, Claim, claim, seed_spread
from ground_probe.emergence.collect import collect
from ground_probe.emergence.conditions import CONDITIONS, Spec, splits_of
from ground_probe.emergence.effects import causal_check, effects
from ground_probe.emergence.overlays import attention_map
from ground_probe.emergence.samples import Samples
from ground_probe.emergence.scores import (
    LABELS,
    score,
    score_control_labels,
    score_inputs,
    score_visible,
)
from ground_probe.emergence.table import (
    COLUMNS,
    beside_controls,
    best_blocks,
    read_table,
    summarise,
    write_table,
)
from ground_probe.emergence.traces import probe_table
from ground_probe.emergence.visible import visible_change

__all__ = [
    "COLUMNS",
    "CONDITIONS",
    "LABELS",
    "RIVALS",
    "Claim",
    "Samples",
    "Spec",
    "attention_map",
    "beside_controls",
    "best_blocks",
    "causal_check",
    "claim",
    "collect",
    "effects",
    "probe_table",
    "read_table",
    "score",
    "score_control_labels",
    "score_inputs",
    "score_visible",
    "seed_spread",
    "splits_of",
    "summarise",
    "visible_change",
    "write_table",
]
