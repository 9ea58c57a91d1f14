"""A few GPUs: what they can compute at most, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass

from ground_probe.errors import unknown


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by its data sheet.

    Args:
        name: how `plan` calls it.
        tflops: peak dense bfloat16 TFLOP/s, without sparsity.
        memory_gb: in 10^9 bytes.
        source: of both numbers.
    """

    name: str
    tflops: float
    memory_gb: float
    source: str

    @property
    def memory_gib(self) -> float:
        """In 2^30 bytes; taking the data sheet's GB for 10^9 bytes errs on the safe side."""
        return self.memory_gb * 1e9 / 2**30


# Data sheets give the double with sparsity: these are the dense halves.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("H200", 989.5, 141, "NVIDIA H200 data sheet, SXM: BF16 1,979 with sparsity"),
        Gpu("H100", 989.5, 80, "NVIDIA H100 data sheet, SXM: BF16 1,979 with sparsity"),
        Gpu("A100", 312, 80, "NVIDIA A100 data sheet, 80 GB: BF16 312, 624 with sparsity"),
        Gpu("L40S", 362, 48, "NVIDIA L40S data sheet: BF16 362, 733 with sparsity"),
        Gpu("RTX4090", 165.2, 24, "NVIDIA Ada white paper: BF16, FP32 accumulate 165.2"),
    )
}


def gpu(name: str) -> Gpu:
    """A GPU of the table.

    Raises:
        UnknownNameError: it is not in the table.

    >>> gpu("h200").tflops
    989.5
    """
    found = GPUS.get(name.upper().replace(" ", ""))
    if found is None:
        raise unknown("GPU", name, GPUS)
    return found
