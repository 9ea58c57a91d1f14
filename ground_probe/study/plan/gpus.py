"""A few GPUs: what they can compute at most, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass

from ground_probe.errors import unknown


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by its maker.

    Args:
        name: how `plan` calls it.
        tflops: peak dense bfloat16 TFLOP/s, without sparsity.
        memory_gb: in 10^9 bytes.
        source: address of the page or paper that states both numbers.
    """

    name: str
    tflops: float
    memory_gb: float
    source: str

    @property
    def memory_gib(self) -> float:
        """In 2^30 bytes; taking the data sheet's GB for 10^9 bytes errs on the safe side."""
        return self.memory_gb * 1e9 / 2**30


_NVIDIA = "https://www.nvidia.com"
# The numbers were read in copies of these sources. Some state bfloat16 with sparsity, which is the
# double: 1,979 for H200 and H100. L40S is 362.05, 733 with sparsity; RTX4090 is with FP32
# accumulate, appendix A of its source.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("H200", 989.5, 141, f"{_NVIDIA}/en-us/data-center/h200/"),
        Gpu("H100", 989.5, 80, f"{_NVIDIA}/en-us/data-center/h100/"),
        Gpu("A100", 312, 80, f"{_NVIDIA}/en-us/data-center/a100/"),
        Gpu("L40S", 362, 48, f"{_NVIDIA}/en-us/data-center/l40s/"),
        Gpu(
            "RTX4090",
            165.2,
            24,
            "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf",
        ),
    )
}


def gpu(name: str) -> Gpu:
    """A GPU of the table.

    Raises:
        UnknownNameError: it is not in the table.

    >>> gpu("h200").tflops
    989.5
    """
    known = GPUS.get(name.upper().replace(" ", ""))
    if known is None:
        raise unknown("GPU", name, GPUS)
    return known
