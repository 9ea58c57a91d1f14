"""Probes: arrays in, numbers out; they know nothing of models.

Each probe gives one score to each token, `per_image` turns scores into one value an image, and
`estimate`, `compare` and `max_t` turn those into intervals and tests. Groups (image ids) are
required throughout.
"""

from __future__ import annotations

from ground_probe.probes.controls import (
    control_labels,
    permuted_labels,
    position_features,
    selectivity,
)
from ground_probe.probes.fisher import fisher_ratio
from ground_probe.probes.grid import ProbeGrid, linear_probe_auc, probe_grid
from ground_probe.probes.held_out import (
    held_out_scores,
    neighbours_auc,
    prototype_auc,
)
from ground_probe.probes.intervals import Difference, Estimate, compare, estimate, holm, max_t
from ground_probe.probes.mdl import mdl_compression
from ground_probe.probes.per_image import per_image, score_estimate
from ground_probe.probes.rows import hard_labels
from ground_probe.probes.untrained import attention_auc, pointing_game, silhouette

__all__ = [
    "Difference",
    "Estimate",
    "ProbeGrid",
    "attention_auc",
    "compare",
    "control_labels",
    "estimate",
    "fisher_ratio",
    "hard_labels",
    "held_out_scores",
    "holm",
    "linear_probe_auc",
    "max_t",
    "mdl_compression",
    "neighbours_auc",
    "per_image",
    "permuted_labels",
    "pointing_game",
    "position_features",
    "probe_grid",
    "prototype_auc",
    "score_estimate",
    "selectivity",
    "silhouette",
]
