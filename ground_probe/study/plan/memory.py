"""GiB of weights, and how many must be on the device at once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ground_probe.capture.sites import blocks_of
from ground_probe.editors.weights import QUANTIZERS
from ground_probe.study.plan.gpus import Gpu
from ground_probe.study.plan.parts import Parts

GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """GiB of weights: of every module, and at most at once on the device.

    `dropped` are those in blocks after the last one needed, `text` those of the text encoders,
    which can go once the prompts are encoded.
    """

    parts: dict[str, float]
    dropped: float
    text: float
    peak: float
    room: float

    @property
    def fits(self) -> bool:
        """Whether the weights leave a tenth of the device for what is computed with them."""
        return self.peak <= 0.9 * self.room


def memory_of(
    parts: Parts,
    last: str,
    device: Gpu,
    weight: float,
    offload: str | None,
    quantize: str | None,
    drop: bool,
    encode_ahead: bool,
) -> Memory:
    """Where the weights go: `weight` bytes each, the blocks after `last` dropped if asked for."""
    quantized = QUANTIZERS[quantize][2] if quantize else weight

    def gib(name: str, module: nn.Module) -> float:
        each = weight if name == "vae" else quantized
        return sum(p.numel() for p in module.parameters()) * each / GIB

    sizes = {name: gib(name, module) for name, module in parts.modules.items()}
    total = parts.editor.family.memory_gb
    if parts.missing and total:  # the registry's, in bfloat16
        rest = total * 1e9 / GIB * quantized / 2 - sum(sizes.values())
        sizes[" + ".join(parts.missing) + " (registry)"] = max(rest, 0.0)
    blocks = blocks_of(parts.editor.denoiser)
    after = list(blocks)[list(blocks).index(last) + 1 :]
    dropped = sum(gib("denoiser", blocks[name]) for name in after)
    text = sum(size for name, size in sizes.items() if "text_encoder" in name)
    kept = dict(sizes)
    if drop:
        kept["transformer" if "transformer" in kept else "unet"] -= dropped
    rest = sum(kept.values()) - text
    if offload == "sequential":
        peak = max(gib("denoiser", each) for each in blocks.values())
    elif offload == "model":
        peak = max(kept.values())
    else:
        peak = max(text, rest) if encode_ahead else text + rest
    # A data sheet's GB, taken for 10^9 bytes, err on the safe side.
    return Memory(sizes, dropped, text, peak, room=device.memory_gb * 1e9 / GIB)
