"""The registry of editing pipelines: only what cannot be derived from a running one.

To add one: build a tiny random instance of its class in `tests/tiny_pipelines.py`, add a `Family`
here and its name to the builders. The tests then run it and hold the entry against it:
`test_capture_families.py` perturbs single text and image tokens and looks which rows of the
attention move (the order of the streams), compares every map with a full softmax, and checks the
roles of each guided forward; `test_geometry_families.py` draws dots and finds their tokens.
Blocks, attention modules, grids, lengths, the prompt's template and the tokens that it drops are
found at run time and have no place here.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from ground_probe.errors import UnsupportedEditorError
from ground_probe.geometry import Mode

Size = tuple[int, int]


class Fit(NamedTuple):
    """How a pipeline brings an image to its own size.

    Args:
        native: (height, width) px of the image that is encoded.
        mode: see `Geometry`.
        box: what it covers of the original; None for the mode's default.
    """

    native: Size
    mode: Mode = "stretch"
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Family:
    """Facts about a pipeline class.

    Args:
        name: how the project calls it.
        pipeline: its class in diffusers.
        weights: where open weights are.
        licence: of the weights.
        parameters_b: of the denoiser, in billions.
        memory_gb: of the weights in bfloat16, text encoder included.
        fit: how an image of a (height, width) is brought to the pipeline's size; None if unknown.
        sized: whether `height` and `width` must be passed for equal noise and reference grids.
        resize: whether the image must be brought there before the call.
        arguments: further keyword arguments of every call.
        guided: keyword arguments that turn classifier-free guidance on, beyond the defaults.
        unguided: keyword arguments that turn it off.
        streams: whose hidden states the blocks hold.
        rows: the roles of the rows of a guided batch.
        calls: the roles of a step's denoiser calls.
        text_first: text comes before image tokens in the sequence and in a block's outputs.
        token_px: the side of a token in px of the native image.
        prepare: mends what the pipeline gets wrong, once, when it is loaded.
        note: what a user should know.
    """

    name: str
    pipeline: str
    weights: str = ""
    licence: str = ""
    parameters_b: float | None = None
    memory_gb: float | None = None
    fit: Callable[[Any, Size], Fit] | None = None
    sized: bool = True
    resize: Callable[[Any], bool] = field(default=lambda pipe: False)
    arguments: Callable[[Any, Size], Mapping[str, Any]] = field(default=lambda pipe, native: {})
    guided: Mapping[str, Any] = field(default_factory=dict)
    unguided: Mapping[str, Any] = field(default_factory=dict)
    streams: tuple[str, ...] = ("noise", "reference", "text")
    rows: tuple[str, ...] = ("cond",)
    calls: tuple[str, ...] = ("cond", "uncond")
    text_first: bool = True
    token_px: Callable[[Any], int] = field(default=lambda pipe: 2 * pipe.vae_scale_factor)
    prepare: Callable[[Any], None] = field(default=lambda pipe: None)
    note: str = ""


def small_side_px(pipeline: Any) -> int | None:
    """The side of a small editor's images, None for an editor of about one megapixel."""
    side = getattr(pipeline.vae.config, "sample_size", None)
    return side if isinstance(side, int) and side < 1024 else None


def _kontext_fit(pipeline: Any, size_px: Size) -> Fit:
    from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

    side, multiple = small_side_px(pipeline), 2 * pipeline.vae_scale_factor
    if side:
        return Fit(_floored((side, side), multiple))
    # The pipeline compares the ratio of whole tokens, not that of the image.
    height, width = (max(s, multiple) for s in _floored(size_px, multiple))
    ratio = width / height
    _, width, height = min((abs(ratio - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
    return Fit(_floored((height, width), multiple))


def _kontext_arguments(pipeline: Any, native: Size) -> dict[str, Any]:
    return {
        "max_area": native[0] * native[1],
        "_auto_resize": small_side_px(pipeline) is None,
        "max_sequence_length": min(512, pipeline.tokenizer_2.model_max_length),
    }


def _qwen_fit(pipeline: Any, size_px: Size) -> Fit:
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit import calculate_dimensions

    width, height, _ = calculate_dimensions(1024 * 1024, size_px[1] / size_px[0])
    return Fit(_floored((height, width), 2 * pipeline.vae_scale_factor))


def _longcat_fit(pipeline: Any, size_px: Size) -> Fit:
    from diffusers.pipelines.longcat_image.pipeline_longcat_image_edit import calculate_dimensions

    width, height = calculate_dimensions(1024 * 1024, size_px[1] / size_px[0])
    return Fit(_floored((height, width), 2 * pipeline.vae_scale_factor))


def _flux2_fit(pipeline: Any, size_px: Size) -> Fit:
    """Shrunk to one megapixel if larger, then cropped in the middle to whole tokens."""
    height, width = size_px
    if height * width > 1024 * 1024:
        scale = math.sqrt(1024 * 1024 / (width * height))
        height, width = int(height * scale), int(width * scale)
    native = _floored((height, width), 2 * pipeline.vae_scale_factor)
    top, left = (height - native[0]) // 2, (width - native[1]) // 2
    y_px, x_px = size_px[0] / height, size_px[1] / width
    box = left * x_px, top * y_px, (left + native[1]) * x_px, (top + native[0]) * y_px
    return Fit(native, "crop", box)


def _unet_fit(pipeline: Any, size_px: Size) -> Fit:
    """Stretched to the area that the UNet was trained at, to whole tokens of its coarsest level."""
    multiple = pipeline.vae_scale_factor * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)
    side, ratio = (
        pipeline.unet.config.sample_size * pipeline.vae_scale_factor,
        size_px[1] / size_px[0],
    )
    sides = side / math.sqrt(ratio), side * math.sqrt(ratio)
    return Fit(tuple(max(1, round(s / multiple)) * multiple for s in sides))


def _mark_image_tokens(pipeline: Any) -> None:
    """Give Qwen-VL the `mm_token_type_ids` that transformers 5 needs for its 2-D positions.

    Source: https://github.com/huggingface/diffusers/issues/14194
    """
    if getattr(pipeline.text_encoder, "_marks_image_tokens", False):
        return

    def mark(encoder: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        ids = kwargs.get("input_ids")
        if not isinstance(ids, Tensor) or "mm_token_type_ids" in kwargs:
            return None
        return args, kwargs | {"mm_token_type_ids": (ids == encoder.config.image_token_id).int()}

    pipeline.text_encoder.register_forward_pre_hook(mark, with_kwargs=True)
    pipeline.text_encoder._marks_image_tokens = True


def _floored(size: Size, multiple: int) -> Size:
    return size[0] // multiple * multiple, size[1] // multiple * multiple


_QWEN = {
    "licence": "Apache-2.0",
    "parameters_b": 20.4,
    "memory_gb": 58,
    "fit": _qwen_fit,
    "guided": {"negative_prompt": " "},
    "unguided": {"true_cfg_scale": 1.0},
    "prepare": _mark_image_tokens,
}
_UNET = {
    "fit": _unet_fit,
    "resize": lambda pipe: True,
    "unguided": {"guidance_scale": 1.0},
    "streams": ("noise",),
    "rows": ("cond", "image_only", "uncond"),
    "token_px": lambda pipe: pipe.vae_scale_factor,
}
FAMILIES: tuple[Family, ...] = (
    Family(
        name="FluxKontext",
        pipeline="FluxKontextPipeline",
        weights="black-forest-labs/FLUX.1-Kontext-dev",
        licence="FLUX.1 dev non-commercial, gated",
        parameters_b=11.9,
        memory_gb=34,
        fit=_kontext_fit,
        resize=lambda pipe: small_side_px(pipe) is not None,
        arguments=_kontext_arguments,
        note="padding tokens of T5 are real keys and soak up attention",
    ),
    Family(
        name="QwenImageEdit",
        pipeline="QwenImageEditPipeline",
        weights="Qwen/Qwen-Image-Edit",
        note="its processor needs torchvision",
        **_QWEN,
    ),
    Family(
        name="QwenImageEditPlus",
        pipeline="QwenImageEditPlusPipeline",
        weights="Qwen/Qwen-Image-Edit-2509",
        note="its processor needs torchvision; one image and prompt a call",
        **_QWEN,
    ),
    Family(
        name="InstructPix2Pix",
        pipeline="StableDiffusionInstructPix2PixPipeline",
        weights="timbrooks/instruct-pix2pix",
        licence="MIT",
        parameters_b=0.86,
        memory_gb=2,
        sized=False,
        note="the reference enters by channels: the noise stream holds both",
        **_UNET,
    ),
    Family(
        name="InstructPix2PixXL",
        pipeline="StableDiffusionXLInstructPix2PixPipeline",
        weights="diffusers/sdxl-instructpix2pix-768",
        licence="see the model card",
        parameters_b=2.6,
        memory_gb=7,
        note="as InstructPix2Pix; CosXL weights need `is_cosxl_edit=True` when loaded",
        **_UNET,
    ),
    Family(
        name="Flux2Klein",
        pipeline="Flux2KleinPipeline",
        weights="black-forest-labs/FLUX.2-klein-4B",
        licence="Apache-2.0",
        parameters_b=3.9,
        memory_gb=16,
        fit=_flux2_fit,
        unguided={"guidance_scale": 1.0},
        note="padding tokens of the chat template are real keys; distilled weights take 4 steps",
    ),
    Family(
        name="Flux2",
        pipeline="Flux2Pipeline",
        weights="black-forest-labs/FLUX.2-dev",
        licence="FLUX dev non-commercial, gated",
        parameters_b=32,
        memory_gb=113,
        fit=_flux2_fit,
        note="padding tokens of the chat template are real keys",
    ),
    Family(
        name="LongCatImageEdit",
        pipeline="LongCatImageEditPipeline",
        weights="meituan-longcat/LongCat-Image-Edit",
        licence="Apache-2.0",
        parameters_b=6.3,
        memory_gb=29,
        fit=_longcat_fit,
        sized=False,
        unguided={"guidance_scale": 1.0},
        prepare=_mark_image_tokens,
        note="its processor needs torchvision; quoted text is tokenised letter by letter",
    ),
)
REFUSED = {
    "GlmImagePipeline": "its instruction is read by an autoregressive model and never enters the "
    "denoiser, so there is no attention from image tokens to it",
    "Flux2KleinKVPipeline": "its reference tokens are cached after the first step and its blocks "
    "attend in two calls; use Flux2KleinPipeline with the same weights",
}


def family_of(pipeline: Any) -> Family:
    """The facts about a pipeline; for one that is not known, what can be assumed, with a warning.

    Raises:
        UnsupportedEditorError: the pipeline cannot work.
    """
    name = type(pipeline).__name__
    if name in REFUSED:
        raise UnsupportedEditorError(f"{name} cannot be captured: {REFUSED[name]}")
    for family in FAMILIES:
        if family.pipeline == name:
            return family
    parameters = inspect.signature(type(pipeline).__call__).parameters
    if not {"image", "prompt"} <= set(parameters):
        raise UnsupportedEditorError(
            f"{name} takes no `image` and `prompt`, so it is no editor that follows an "
            f"instruction; known are {', '.join(family.pipeline for family in FAMILIES)}"
        )
    warnings.warn(
        f"{name} is not in the registry. Blocks, streams and the phrase's keys are found at run "
        "time; not known are how the image is brought to the model's size (no geometry), the "
        "arguments that turn guidance off, and the roles of guided forwards (assumed: cond first)",
        stacklevel=2,
    )
    return Family(name=name, pipeline=name, sized=False)


def models() -> list[dict[str, Any]]:
    """One row for each known family: weights, licence, size, memory and what is supported."""
    return [
        {
            "name": family.name,
            "pipeline": family.pipeline,
            "weights": family.weights,
            "licence": family.licence,
            "denoiser": f"{family.parameters_b:g} B parameters",
            "memory": f"{family.memory_gb:g} GB of bfloat16 weights, text encoder included",
            "hidden states": ", ".join(family.streams),
            "attention": "image to phrase" + ", phrase to image" * ("text" in family.streams),
            "guided forwards": ", ".join(family.rows if len(family.rows) > 1 else family.calls),
            "note": family.note,
        }
        for family in FAMILIES
    ]
