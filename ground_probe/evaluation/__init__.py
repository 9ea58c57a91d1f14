"""Evaluation: sentences in, counted pixels kept, scores derived; resumable on any engine."""

from ground_probe.evaluation.baselines import BASELINES, applicable
from ground_probe.evaluation.runner import Evaluation, InProcess, evaluate, read
from ground_probe.evaluation.store import Counts, Store
from ground_probe.evaluation.tables import breakdown, compare, published, summarise

__all__ = [
    "BASELINES",
    "Counts",
    "Evaluation",
    "InProcess",
    "Store",
    "applicable",
    "breakdown",
    "compare",
    "evaluate",
    "published",
    "read",
    "summarise",
]
