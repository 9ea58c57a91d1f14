"""Evaluation: sentences in, counted pixels kept, scores derived; resumable on any engine."""

from ground_probe.evaluation.baselines import BASELINES, applicable
from ground_probe.evaluation.compared import (
    moved_most,
    moved_page,
    side_by_side,
    write_comparison,
)
from ground_probe.evaluation.loop import Evaluation, InProcess, evaluate
from ground_probe.evaluation.paired import compare_runs
from ground_probe.evaluation.processes import Processes
from ground_probe.evaluation.rows import mask_of
from ground_probe.evaluation.store import Counts, Store
from ground_probe.evaluation.tables import (
    beside_published,
    breakdown,
    by_metric,
    published,
    summarize,
)

__all__ = [
    "BASELINES",
    "Counts",
    "Evaluation",
    "InProcess",
    "Processes",
    "Store",
    "applicable",
    "beside_published",
    "breakdown",
    "by_metric",
    "compare_runs",
    "evaluate",
    "mask_of",
    "moved_most",
    "moved_page",
    "published",
    "side_by_side",
    "summarize",
    "write_comparison",
]
