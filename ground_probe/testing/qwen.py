"""Tiny editors whose instruction a Qwen-VL reads together with the image."""

from __future__ import annotations

from typing import Any

import torch

from ground_probe.testing.parts import (
    QWEN_TOKENS,
    autoencoder,
    ready,
    template_tokens,
    wan_autoencoder,
    word_tokenizer,
)
from ground_probe.testing.vision import VISION, qwen3_vl, qwen_vl


def qwen_edit(plus: bool = False, seed: int = 0) -> Any:
    """QwenImageEditPipeline or QwenImageEditPlusPipeline: 3 blocks, 16 px a token."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImageEditPipeline,
        QwenImageEditPlusPipeline,
        QwenImageTransformer2DModel,
    )

    torch.manual_seed(seed)
    tokenizer = word_tokenizer(1024, QWEN_TOKENS)
    encoder, processor = qwen_vl(tokenizer)
    return ready(
        (QwenImageEditPlusPipeline if plus else QwenImageEditPipeline)(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=AutoencoderKLQwenImage(
                base_dim=4,
                z_dim=4,
                dim_mult=[1] * 4,
                num_res_blocks=1,
                temperal_downsample=[False] * 3,
                latents_mean=[0.0] * 4,
                latents_std=[1.0] * 4,
            ),
            text_encoder=encoder,
            tokenizer=tokenizer,
            processor=processor,
            transformer=QwenImageTransformer2DModel(
                in_channels=16,
                out_channels=4,
                num_layers=3,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=32,
                axes_dims_rope=(4, 6, 6),
            ),
        )
    )


def longcat(seed: int = 0) -> Any:
    """LongCatImageEditPipeline: 2 double + 2 single blocks, 16 px a token."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        LongCatImageEditPipeline,
        LongCatImageTransformer2DModel,
    )

    torch.manual_seed(seed)
    tokenizer = word_tokenizer(512, QWEN_TOKENS)
    encoder, processor = qwen_vl(tokenizer)
    return ready(
        LongCatImageEditPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=autoencoder(4, channels=16, sample_size=1024, shift_factor=0.1),
            text_encoder=encoder,
            tokenizer=tokenizer,
            text_processor=processor,
            transformer=LongCatImageTransformer2DModel(
                in_channels=64,
                num_layers=2,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=32,
                pooled_projection_dim=32,
                axes_dims_rope=(4, 6, 6),
            ),
        )
    )


def joy_edit(seed: int = 0) -> Any:
    """JoyImageEditPipeline: 3 blocks, 16 px a token, image tokens before text."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        JoyImageEditPipeline,
        JoyImageEditTransformer3DModel,
    )

    torch.manual_seed(seed)
    tokenizer = word_tokenizer(1024, QWEN_TOKENS)
    encoder, processor = qwen3_vl(tokenizer, VISION)
    pipeline = JoyImageEditPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=wan_autoencoder(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        processor=processor,
        transformer=JoyImageEditTransformer3DModel(
            in_channels=4,
            hidden_size=32,
            num_attention_heads=2,
            text_dim=32,
            num_layers=3,
            rope_dim_list=[4, 6, 6],
        ),
    )
    template = pipeline.prompt_template_encode["multiple_images"]
    drop = template_tokens(tokenizer, template)
    pipeline.prompt_template_encode_start_idx["multiple_images"] = drop
    return ready(pipeline)
