"""The emergence study: where and when an editor tells the referent, against every control."""

from __future__ import annotations

from ground_probe.emergence.attended import BEYOND, attended_words, sinks, summarise_words
from ground_probe.emergence.claim import RIVALS, Claim, claim, seed_spread
from ground_probe.emergence.collect import collect, collect_each
from ground_probe.emergence.conditions import CONDITIONS, Spec, splits_of
from ground_probe.emergence.effects import causal_check, causal_sentences, effects
from ground_probe.emergence.heads import chosen_heads, head_table
from ground_probe.emergence.overlays import attention_map
from ground_probe.emergence.paired import paired_probes, selectivity
from ground_probe.emergence.samples import Samples
from ground_probe.emergence.scores import (
    score,
    score_control_labels,
    score_inputs,
    score_visible,
)
from ground_probe.emergence.stack import LABELS
from ground_probe.emergence.table import (
    COLUMNS,
    beside_controls,
    best_blocks,
    read_table,
    summarise,
    write_table,
)
from ground_probe.emergence.templates import compare_templates
from ground_probe.emergence.traces import probe_table
from ground_probe.emergence.visible import visible_change

__all__ = [
    "BEYOND",
    "COLUMNS",
    "CONDITIONS",
    "LABELS",
    "RIVALS",
    "Claim",
    "Samples",
    "Spec",
    "attended_words",
    "attention_map",
    "beside_controls",
    "best_blocks",
    "causal_check",
    "causal_sentences",
    "chosen_heads",
    "claim",
    "collect",
    "collect_each",
    "compare_templates",
    "effects",
    "head_table",
    "paired_probes",
    "probe_table",
    "read_table",
    "score",
    "score_control_labels",
    "score_inputs",
    "score_visible",
    "seed_spread",
    "selectivity",
    "sinks",
    "splits_of",
    "summarise",
    "summarise_words",
    "visible_change",
    "write_table",
]
