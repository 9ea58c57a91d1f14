"""A few GPUs: what they can compute at most, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass

from ground_probe.errors import unknown


@dataclass(frozen=True, slots=True)
class Gpu:
    """Peak dense bfloat16 TFLOP/s without sparsity, and 10^9 bytes, by the maker's own source."""

    name: str
    tflops: float
    memory_gb: float
    source: str


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

    >>> gpu("h200").tflops
    989.5
    """
    known = GPUS.get(name.upper().replace(" ", ""))
    if known is None:
        raise unknown("GPU", name, GPUS)
    return known
