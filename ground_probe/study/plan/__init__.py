"""The cost of an evaluation on paper: the real modules without weights, counted."""

from ground_probe.study.plan.flops import Flops
from ground_probe.study.plan.gpus import GPUS, Gpu
from ground_probe.study.plan.memory import Memory
from ground_probe.study.plan.plan import Plan, plan

__all__ = ["GPUS", "Flops", "Gpu", "Memory", "Plan", "plan"]
