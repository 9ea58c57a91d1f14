"""Tiny editors whose instruction a Qwen-VL reads together with the image."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from ground_probe.testing.parts import (
    HEADS,
    QWEN_TOKENS,
    autoencoder,
    clip_text,
    template_tokens,
    tiny,
    video_autoencoder,
    word_tokenizer,
)
from ground_probe.testing.vision import qwen3_vl, qwen_vl


@tiny
def qwen_edit(kind: Any = diffusers.QwenImageEditPipeline) -> Any:
    """QwenImageEditPipeline or QwenImageEditPlusPipeline: 3 blocks, 16 px a token."""
    tokenizer = word_tokenizer(1024, QWEN_TOKENS)
    encoder, processor = qwen_vl(tokenizer)
    return kind(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=video_autoencoder(4, diffusers.AutoencoderKLQwenImage),
        text_encoder=encoder,
        tokenizer=tokenizer,
        processor=processor,
        transformer=diffusers.QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=3,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
            **HEADS,
        ),
    )


@tiny
def longcat() -> Any:
    """LongCatImageEditPipeline: 2 double + 2 single blocks, 16 px a token."""
    tokenizer = word_tokenizer(512, QWEN_TOKENS)
    encoder, processor = qwen_vl(tokenizer)
    return diffusers.LongCatImageEditPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoder(4, latent_channels=16, sample_size=1024, shift_factor=0.1),
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_processor=processor,
        transformer=diffusers.LongCatImageTransformer2DModel(
            in_channels=64,
            num_layers=2,
            num_single_layers=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 6, 6),
            **HEADS,
        ),
    )


@tiny
def joy_edit() -> Any:
    """JoyImageEditPipeline: 3 blocks, 16 px a token, image tokens before text."""
    tokenizer = word_tokenizer(1024, QWEN_TOKENS)
    encoder, processor = qwen3_vl(tokenizer)
    pipeline = diffusers.JoyImageEditPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=video_autoencoder(4, diffusers.AutoencoderKLWan, scale_factor_spatial=8),
        text_encoder=encoder,
        tokenizer=tokenizer,
        processor=processor,
        transformer=diffusers.JoyImageEditTransformer3DModel(
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
    return pipeline


@tiny
def kandinsky5() -> Any:
    """Kandinsky5I2IPipeline: 3 blocks with self- and cross-attention; small sizes."""
    tokenizer, tokenizer_2 = word_tokenizer(1024, QWEN_TOKENS), word_tokenizer(77)
    encoder, processor = qwen_vl(tokenizer)
    pipeline = diffusers.Kandinsky5I2IPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder(4, sample_size=1024),
        text_encoder=encoder,
        tokenizer=processor,
        text_encoder_2=clip_text(len(tokenizer_2), max_length=77),
        tokenizer_2=tokenizer_2,
        transformer=diffusers.Kandinsky5Transformer3DModel(
            in_visual_dim=4,
            in_text_dim=32,
            in_text_dim2=32,
            time_dim=16,
            out_visual_dim=4,
            model_dim=32,
            ff_dim=32,
            num_text_blocks=1,
            num_visual_blocks=3,
            axes_dims=(4, 6, 6),
            visual_cond=True,
        ),
    )
    for parameter in pipeline.transformer.parameters():
        if not parameter.any():  # new modulations are zero: no block would do anything
            torch.nn.init.normal_(parameter, std=0.1)
    drop = template_tokens(tokenizer, pipeline.prompt_template)
    pipeline.prompt_template_encode_start_idx = drop
    pipeline.resolutions = [(width // 4, height // 4) for width, height in pipeline.resolutions]
    return pipeline
