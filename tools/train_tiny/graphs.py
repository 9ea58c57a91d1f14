"""A training step as one CUDA graph: of a small editor, launching a kernel takes longer than it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")
_WARM_UP = 3


def repeatable(step: Callable[[], Result], generator: torch.Generator) -> Callable[[], Result]:
    """What repeats a step: on a GPU its kernels alone, recorded; on a CPU the step itself.

    Args:
        step: Reads what changes between two steps from tensors that are changed in place, and never
            waits for the device. It is taken a few times before it is recorded.
        generator: Of everything random in it.

    Returns:
        What takes the step and returns its results, on a GPU those of before overwritten.
    """
    if generator.device.type == "cpu":
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        result = step()

    def replay() -> Result:
        graph.replay()
        return result

    return replay
