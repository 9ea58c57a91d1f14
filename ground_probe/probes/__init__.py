"""Probes: arrays in, numbers out; they know nothing of models.

Each probe gives one score to each token, `per_image` turns scores into one value an image, and
`ground_probe.stats` turns those into intervals and tests. Groups (image ids) are required
throughout.
"""

from __future__ import annotations

from ground_probe.probes.controls import (
    control_labels,
    permuted_labels,
    position_features,
    selectivity,
)
from ground_probe.probes.fisher import fisher_ratio
from ground_probe.probes.labels import hard_labels
from ground_probe.probes.mdl import mdl_compression
from ground_probe.probes.per_image import per_image, score_estimate
from ground_probe.probes.refits import refit_scores
from ground_probe.probes.scoring import ESTIMATORS, held_out_scores, linear_probe_auc, probe_auc
from ground_probe.probes.untrained import attention_auc, pointing_game, pointing_hit, silhouette

__all__ = [
    "ESTIMATORS",
    "attention_auc",
    "control_labels",
    "fisher_ratio",
    "hard_labels",
    "held_out_scores",
    "linear_probe_auc",
    "mdl_compression",
    "per_image",
    "permuted_labels",
    "pointing_game",
    "pointing_hit",
    "position_features",
    "probe_auc",
    "refit_scores",
    "score_estimate",
    "selectivity",
    "silhouette",
]
