"""Tiny editors whose denoiser is a UNet: InstructPix2Pix, its XL, and DreamLite."""

from __future__ import annotations

from typing import Any

import diffusers

from ground_probe.testing.parts import (
    QWEN_TOKENS,
    autoencoder,
    clip_text,
    template_tokens,
    tiny,
    word_tokenizer,
)
from ground_probe.testing.vision import qwen3_vl

_UNET = {
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}


@tiny
def instruct_pix2pix() -> Any:
    """StableDiffusionInstructPix2PixPipeline: 5 attention blocks on 8 px and 16 px tokens."""
    tokenizer = word_tokenizer(16)
    return diffusers.StableDiffusionInstructPix2PixPipeline(
        vae=autoencoder(4, sample_size=1024),
        text_encoder=clip_text(len(tokenizer)),
        tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(**_UNET),
        scheduler=diffusers.EulerAncestralDiscreteScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@tiny
def sdxl_instruct_pix2pix() -> Any:
    """StableDiffusionXLInstructPix2PixPipeline: as `instruct_pix2pix`, with two text encoders."""
    tokenizer = word_tokenizer(16)
    more = {
        "cross_attention_dim": 64,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 32,
        "use_linear_projection": True,
    }
    return diffusers.StableDiffusionXLInstructPix2PixPipeline(
        vae=autoencoder(4, sample_size=1024),
        text_encoder=clip_text(len(tokenizer)),
        text_encoder_2=clip_text(len(tokenizer), projected=True),
        tokenizer=tokenizer,
        tokenizer_2=word_tokenizer(16),
        unet=diffusers.UNet2DConditionModel(**_UNET | more),
        scheduler=diffusers.EulerDiscreteScheduler(),
        add_watermarker=False,
    )


@tiny
def dreamlite() -> Any:
    """DreamLitePipeline: a UNet over noise and reference side by side."""
    tokenizer = word_tokenizer(1024, QWEN_TOKENS)
    encoder, processor = qwen3_vl(tokenizer)
    pipeline = diffusers.DreamLitePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8,) * 4,
            decoder_block_out_channels=(8,) * 4,
            num_encoder_blocks=(1,) * 4,
            num_decoder_blocks=(1,) * 4,
            latent_channels=4,
        ),
        text_encoder=encoder,
        tokenizer=tokenizer,
        processor=processor,
        unet=diffusers.DreamLiteUNetModel(
            sample_size=8,
            down_block_types=("DreamLiteCrossAttnDownBlock2D",) * 2,
            up_block_types=("DreamLiteCrossAttnUpBlock2D",) * 2,
            block_out_channels=(16, 32),
            cross_attention_dim=32,
            attention_head_dim=8,
            layers_per_block=1,
            norm_num_groups=8,
            transformer_layers_per_block=1,
        ),
    )
    drop = template_tokens(tokenizer, pipeline.prompt_template_encode_edit)
    pipeline.prompt_template_encode_edit_start_idx = drop
    return pipeline
