"""How each family of pipelines brings an image to its own size."""

from __future__ import annotations

import math
from typing import Any

from ground_probe.editors.family import Fit, Size
from ground_probe.errors import InputError

# The Qwen2-VL encoder refuses 200:1 of what is left after rounding to patches.
_QWEN_RATIO = 150


def small_side_px(pipeline: Any) -> int | None:
    """The side of a small editor's images, None for an editor of about one megapixel."""
    side = getattr(pipeline.vae.config, "sample_size", None)
    return side if isinstance(side, int) and side < 1024 else None


def kontext_fit(pipeline: Any, size_px: Size) -> Fit:
    """Stretched to the nearest of the 17 preferred sizes; a small editor's side is its own."""
    from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

    side, multiple = small_side_px(pipeline), 2 * pipeline.vae_scale_factor
    if side:
        return Fit(_floored((side, side), multiple))
    _check(pipeline, size_px, side_px=multiple)
    # The pipeline compares the ratio of whole tokens, not that of the image.
    height, width = (max(s, multiple) for s in _floored(size_px, multiple))
    ratio = width / height
    _, width, height = min((abs(ratio - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
    return Fit(_floored((height, width), multiple))


def kontext_arguments(pipeline: Any, native: Size) -> dict[str, Any]:
    """What keeps noise and reference grids equal, and the tokenizer within its limit."""
    return {
        "max_area": native[0] * native[1],
        "_auto_resize": small_side_px(pipeline) is None,
        "max_sequence_length": min(512, pipeline.tokenizer_2.model_max_length),
    }


def qwen_fit(pipeline: Any, size_px: Size) -> Fit:
    """Stretched to an area of one megapixel, its ratio kept, to whole tokens."""
    _check(pipeline, size_px, ratio=_QWEN_RATIO)
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit import calculate_dimensions

    width, height, _ = calculate_dimensions(1024 * 1024, size_px[1] / size_px[0])
    return Fit(_floored((height, width), 2 * pipeline.vae_scale_factor))


def longcat_fit(pipeline: Any, size_px: Size) -> Fit:
    """As `qwen_fit`, with a rounding of its own."""
    _check(pipeline, size_px, ratio=_QWEN_RATIO)
    from diffusers.pipelines.longcat_image.pipeline_longcat_image_edit import calculate_dimensions

    width, height = calculate_dimensions(1024 * 1024, size_px[1] / size_px[0])
    return Fit(_floored((height, width), 2 * pipeline.vae_scale_factor))


def flux2_fit(pipeline: Any, size_px: Size) -> Fit:
    """Shrunk to one megapixel if larger, then cropped in the middle to whole tokens."""
    height, width = size_px
    _check(pipeline, size_px, side_px=64, ratio=8)
    if height * width > 1024 * 1024:
        scale = math.sqrt(1024 * 1024 / (width * height))
        height, width = int(height * scale), int(width * scale)
    native = _floored((height, width), 2 * pipeline.vae_scale_factor)
    return _cropped(size_px, (height, width), native)


def cover_fit(pipeline: Any, size_px: Size) -> Fit:
    """Scaled to cover the nearest of the pipeline's sizes, then cropped in the middle."""
    native = pipeline.vae_image_processor.get_default_height_width(None, *size_px)
    scale = max(n / side for n, side in zip(native, size_px, strict=True))
    return _cropped(size_px, tuple(math.ceil(side * scale) for side in size_px), native)


def kandinsky_fit(pipeline: Any, size_px: Size) -> Fit:
    """Stretched to the pipeline's size of the nearest ratio, unless it has one of its sizes."""
    _check(pipeline, size_px, side_px=16, ratio=_QWEN_RATIO)
    ratio = size_px[1] / size_px[0]
    width, height = min(pipeline.resolutions, key=lambda size: abs(size[0] / size[1] - ratio))
    return Fit((height, width))


def fibo_fit(pipeline: Any, size_px: Size) -> Fit:
    """Shrunk to one megapixel if larger, and stretched to whole tokens."""
    from diffusers.pipelines.bria_fibo.pipeline_bria_fibo_edit import _vae_safe_dims

    width, height = _vae_safe_dims(size_px[1], size_px[0])
    return Fit((height, width))


def unet_fit(pipeline: Any, size_px: Size) -> Fit:
    """Stretched to the area that the UNet was trained at, to whole tokens of its coarsest level."""
    multiple = pipeline.vae_scale_factor * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    ratio = size_px[1] / size_px[0]
    sides = side / math.sqrt(ratio), side * math.sqrt(ratio)
    return Fit(tuple(max(1, round(s / multiple)) * multiple for s in sides))


def _check(pipeline: Any, size_px: Size, side_px: int = 1, ratio: int = 0) -> None:
    """Refuse an image that the pipeline would refuse, or stumble over, inside its call."""
    if min(size_px) < side_px or (ratio and max(size_px) > ratio * min(size_px)):
        most = f" and at most {ratio}:1" if ratio else ""
        raise InputError(
            f"{type(pipeline).__name__} takes images of at least {side_px} px a side{most}, this "
            f"one is {size_px[1]} x {size_px[0]} px: enlarge, crop or pad it"
        )


def _floored(size: Size, multiple: int) -> Size:
    return size[0] // multiple * multiple, size[1] // multiple * multiple


def _cropped(size_px: Size, resized_px: Size, native: Size) -> Fit:
    """The middle of an image's resized copy, as the rectangle of the image that it shows."""
    y_px, x_px = size_px[0] / resized_px[0], size_px[1] / resized_px[1]
    height, width = native
    top, left = (resized_px[0] - height) // 2, (resized_px[1] - width) // 2
    box = left * x_px, top * y_px, (left + width) * x_px, (top + height) * y_px
    return Fit(native, "crop", box)
