"""What an evaluation costs before anything is downloaded: FLOPs, hours, memory."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from ground_probe.capture.sites import blocks_of
from ground_probe.datasets import GENERATED, check_names, load_split, refcoco
from ground_probe.datasets.scenes.draw import SIZE_PX
from ground_probe.editors.weights import QUANTIZERS
from ground_probe.errors import InputError, unknown
from ground_probe.segmentation.forward import blocks_read
from ground_probe.segmentation.recipes import recipe_for
from ground_probe.study.plan.flops import Flops, count, image_tokens, native_px
from ground_probe.study.plan.gpus import Gpu, gpu
from ground_probe.study.plan.memory import GIB, Memory, memory_of
from ground_probe.study.plan.parts import Parts, build
from ground_probe.study.sweep import CHOICES

COCO_PX = (480, 640)  # (height, width) of the most frequent photo
FULL_STEPS = 28
BYTES = {"bfloat16": 2.0, "float16": 2.0, "float32": 4.0}
# Text tokens that the denoiser is given. Source: the pipelines' own padding; Qwen's do not pad:
# its vision tokens (1 Mpx, and 384^2 px in Plus, of 28 px) and some words.
TEXT_TOKENS = {
    "InstructPix2Pix": 77,
    "InstructPix2PixXL": 77,
    "QwenImageEdit": 1400,
    "QwenImageEditPlus": 250,
    "LongCatImageEdit": 900,
}


@dataclass(frozen=True)
class Plan:
    """The cost of one evaluation on one GPU.

    Args:
        source: of the configurations.
        missing: modules that could not be counted.
        native_px: (height, width) of a photo for the model.
        tokens: image tokens and text tokens of one forward.
        blocks: of the denoiser: how many are needed, of how many.
        width: channels of a token in the denoiser; of a UNet's widest block.
        steps_before: complete denoising steps before the one that the recipe reads.
        flops: of one sentence.
    """

    model: str
    source: str
    missing: tuple[str, ...]
    dataset: str
    split: str
    sentences: int
    native_px: tuple[int, int]
    tokens: tuple[int, int]
    blocks: tuple[int, int]
    width: int
    steps_before: int
    recipe: str
    flops: Flops
    device: Gpu = field(repr=False)
    utilisation: float
    memory: Memory

    def per_sentence(self) -> dict[str, float]:
        """FLOPs of a sentence by what is run: text and image are encoded each time."""
        encoded = (self.flops.text or 0) + (self.flops.encode or 0)
        one = encoded + self.steps_before * self.flops.step + self.flops.fraction
        full = FULL_STEPS * self.flops.step + (self.flops.decode or 0)
        return {
            "recipe": float(one),
            "one step": float(encoded + self.flops.step),
            f"{FULL_STEPS} steps": float(encoded + full),
        }

    def hours_of(self, flops: float) -> float:
        """Of the device, at the assumed utilisation."""
        return flops / (self.device.tflops * 1e12 * self.utilisation) / 3600

    def hours(self) -> dict[str, float]:
        """Of the whole split, as `per_sentence`."""
        each = self.per_sentence().items()
        return {name: self.hours_of(self.sentences * flops) for name, flops in each}

    def data(self) -> dict[str, Any]:
        """Everything as JSON values."""
        derived = {"flops_per_sentence": self.per_sentence(), "hours": self.hours()}
        return json.loads(json.dumps({**asdict(self), **derived, "fits": self.memory.fits}))

    def __str__(self) -> str:
        need, of = self.blocks
        device, memory, flops = self.device, self.memory, self.flops
        lines = [
            f"{self.model}, structure from {self.source}",
            f"{self.dataset} {self.split}: {self.sentences:,} sentences; a photo is "
            f"{self.native_px[0]} x {self.native_px[1]} px to the model, {self.tokens[0]:,} image "
            f"and {self.tokens[1]:,} text tokens",
            f"recipe {self.recipe}: {self.steps_before} steps and {need} of {of} blocks",
            "",
            "TFLOP of one sentence",
            _row("text encoders", flops.text),
            _row("image to latents", flops.encode),
            _row("one step", flops.step),
            _row(f"{need} of {of} blocks", flops.fraction),
            _row("latents to image", flops.decode),
            "",
            f"{'with encoding, for the split':<28}{'TFLOP':>10}{'hours':>10}",
        ]
        for name, one in self.per_sentence().items():
            lines.append(f"{_row(name, one)}{_short(self.hours()[name]):>10}")
        lines += [
            f"  on one {device.name}, {device.tflops:g} TFLOP/s dense bf16 at "
            f"{self.utilisation:.0%}: {device.source}",
            "",
            "GiB of weights",
            *(_row(name, gib, 1) for name, gib in memory.parts.items()),
            _row("of it droppable blocks", memory.dropped, 1),
            _row("of it text encoders", memory.text, 1),
            f"{_row('most at once', memory.peak, 1)}   {self._verdict()}",
        ]
        if self.missing:
            lines.append(f"not counted, no configuration here: {', '.join(self.missing)}")
        return "\n".join(lines)

    def _verdict(self) -> str:
        room = f"{self.memory.room:.0f} GiB of one {self.device.name}"
        return f"fits {room}" if self.memory.fits else f"DOES NOT FIT {room}: {self.advice()}"

    def advice(self) -> str:
        """What makes a model smaller on its device."""
        return (
            "try --offload model or --quantize bnb4; `evaluate` also takes --drop, --encode-ahead"
        )


def plan(
    model: str,
    dataset: str = "refcoco_unc",
    split: str = "val",
    *,
    config: str | Path | None = None,
    device: str = "H200",
    utilisation: float = 0.4,
    recipe: Any = None,
    dtype: str | None = None,
    offload: str | None = None,
    quantize: str | None = None,
    drop: bool = False,
    encode_ahead: bool = False,
) -> Plan:
    """Plan an evaluation: nothing is downloaded and no weight is needed.

    Args:
        model: "tiny", a folder, a hub id, or the last part of one that the registry knows.
        dataset: see `load_split`.
        split: of the data set.
        config: a folder of component configurations, where the model's own are not here.
        device: a GPU of `GPUS`.
        utilisation: share of the GPU's peak that is assumed, in (0, 1].
        recipe: None for the default of the model's family.
        dtype: of the weights, by default bfloat16; it, offload and quantize as for `load_editor`.
        drop: whether the blocks after the last one needed are dropped.
        encode_ahead: whether all prompts are encoded first and the text encoders then freed.

    Raises:
        InputError: unknown names, or no configuration of the model is here.
    """
    check_names(dataset, split)
    if not 0 < utilisation <= 1:
        raise InputError(f"utilisation {utilisation} is no share of a peak: give it in (0, 1]")
    if quantize and quantize not in QUANTIZERS:
        raise unknown("quantizer", quantize, QUANTIZERS)
    chosen = gpu(device)
    parts = build(model, config)
    recipe = recipe_for(parts.editor, recipe)
    height, width = (SIZE_PX, SIZE_PX) if dataset in GENERATED else COCO_PX
    geometry = parts.editor.geometry(Image.new("1", (width, height)))
    names = tuple(blocks_of(parts.editor.denoiser))
    last = blocks_read(names, recipe)[-1]
    text_tokens = _text_tokens(parts)
    weight = BYTES[dtype or "bfloat16"]
    return Plan(
        model=parts.editor.name,
        source=str(parts.folder or "the package's facts about this family"),
        missing=parts.missing,
        dataset=dataset,
        split=split,
        sentences=_sentences(dataset, split),
        native_px=native_px(parts, geometry),
        tokens=(image_tokens(parts, geometry), text_tokens),
        blocks=(names.index(last) + 1, len(names)),
        width=_width(parts.editor.denoiser),
        steps_before=recipe.step,
        recipe=recipe.digest,
        flops=count(parts, geometry, text_tokens, last),
        device=chosen,
        utilisation=utilisation,
        memory=memory_of(parts, last, chosen, weight, offload, quantize, drop, encode_ahead),
    )


def sweep_cost(planned: Plan, examples: int) -> dict[str, float]:
    """What `sweep` on some examples costs: hours of forward passes, GiB of one pass's states.

    Scoring the candidates, which is arithmetic on what was kept, is not counted.
    """
    flops, steps = planned.flops, max(CHOICES["step"])
    one = (flops.text or 0) + (flops.encode or 0) + (steps + 1) * flops.step
    kinds, kept = len(CHOICES["states"]), len(CHOICES["step"])
    tokens = planned.tokens[0] * planned.blocks[1] * kinds * kept
    return {
        "hours": planned.hours_of(examples * len(CHOICES["template"]) * one),
        "states_gib": tokens * planned.width * BYTES["float16"] / GIB,
    }


def _width(denoiser: nn.Module) -> int:
    config = denoiser.config
    if blocks := getattr(config, "block_out_channels", None):
        return max(blocks)
    return config.num_attention_heads * config.attention_head_dim


def _sentences(dataset: str, split: str) -> int:
    if dataset not in refcoco.COLLECTIONS:
        return len(load_split(dataset, split))
    expected = refcoco.COLLECTIONS[dataset].splits[split]
    return expected.sentences or expected.images or 0


def _text_tokens(parts: Parts) -> int:
    """512, where no other number is known; a tokenizer of the folder may allow fewer."""
    tokens = TEXT_TOKENS.get(parts.editor.family.name, 512)
    if parts.folder is None:
        return tokens
    for name in ("tokenizer_2", "tokenizer"):
        file = parts.folder / name / "tokenizer_config.json"
        if file.is_file():
            limit = json.loads(file.read_text()).get("model_max_length") or tokens
            return min(tokens, int(limit))
    return tokens


def _row(name: str, value: float | None, unit: float = 1e12) -> str:
    shown = "not shown" if value is None else _short(value / unit)
    return f"  {name:<26}{shown:>10}"


def _short(number: float) -> str:
    """Three digits or more, never an exponent for large numbers."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
