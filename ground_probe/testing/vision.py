"""Tiny vision-language encoders, each with its processor, that read an instruction and an image."""

from __future__ import annotations

from typing import Any

import transformers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from ground_probe.testing.parts import LANGUAGE


def qwen_vl(tokenizer: Any) -> tuple[Any, Any]:
    """Qwen2.5-VL and its processor."""
    config = _config(
        transformers.Qwen2_5_VLConfig,
        tokenizer,
        text={"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}},
        vision={"fullatt_block_indexes": [0]},
    )
    images = Qwen2VLImageProcessorPil(min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 16)
    processor = _processor(transformers.Qwen2VLProcessor, images, tokenizer)
    return transformers.Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3_vl(tokenizer: Any) -> tuple[Any, Any]:
    """Qwen3-VL and its processor."""
    config = _config(
        transformers.Qwen3VLConfig,
        tokenizer,
        text={
            "head_dim": 16,
            "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3]},
        },
        vision={"num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
    )
    images = Qwen2VLImageProcessorPil(
        patch_size=16, min_pixels=32 * 32 * 4, max_pixels=32 * 32 * 16
    )
    processor = _processor(transformers.Qwen3VLProcessor, images, tokenizer)
    return transformers.Qwen3VLForConditionalGeneration(config), processor


def _config(kind: Any, tokenizer: Any, text: dict[str, Any], vision: dict[str, Any]) -> Any:
    tokens = {
        "image": "<|image_pad|>",
        "video": "<|video_pad|>",
        "vision_start": "<|vision_start|>",
        "vision_end": "<|vision_end|>",
    }
    return kind(
        text_config={**LANGUAGE, "vocab_size": len(tokenizer), "num_hidden_layers": 2, **text},
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            **vision,
        },
        **{f"{n}_token_id": tokenizer.convert_tokens_to_ids(t) for n, t in tokens.items()},
    )


def _processor(kind: Any, images: Any, tokenizer: Any) -> Any:
    """Without the torchvision that only videos need."""

    class ImagesOnly(kind):
        def check_argument_for_proper_class(self, name: str, argument: Any) -> type:
            return type(argument)

    return ImagesOnly(images, tokenizer)
