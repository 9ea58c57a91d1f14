"""Probes: arrays in, numbers out; they know nothing of models.

Each probe gives one score to each token, `per_image` turns scores into one value an image, and
`ground_probe.stats` turns those into intervals and tests. Groups (image ids) are required
throughout.
"""

from __future__ import annotations

from ground_probe.probes.controls import control_labels, position_features
from ground_probe.probes.labels import hard_labels
from ground_probe.probes.linear import refit_scores
from ground_probe.probes.per_image import per_image, pointing_hit, score_estimate
from ground_probe.probes.scoring import (
    ESTIMATORS,
    fisher_ratio,
    held_out_scores,
    linear_probe_auc,
    probe_auc,
)

__all__ = [
    "ESTIMATORS",
    "control_labels",
    "fisher_ratio",
    "hard_labels",
    "held_out_scores",
    "linear_probe_auc",
    "per_image",
    "pointing_hit",
    "position_features",
    "probe_auc",
    "refit_scores",
    "score_estimate",
]
