"""Evaluation: sentences in, counted pixels kept, scores derived; resumable on any engine."""

from ground_probe.evaluation.baselines import BASELINES, applicable
from ground_probe.evaluation.report import Report, collect, paper_table
from ground_probe.evaluation.runner import Evaluation, InProcess, evaluate, read
from ground_probe.evaluation.store import Counts, Store
from ground_probe.evaluation.tables import breakdown, compare, published, summarise

__all__ = [
    "BASELINES",
    "Counts",
    "Evaluation",
    "InProcess",
    "Report",
    "Store",
    "applicable",
    "breakdown",
    "collect",
    "compare",
    "evaluate",
    "paper_table",
    "published",
    "read",
    "summarise",
]
