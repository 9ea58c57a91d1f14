"""Tiny InstructPix2Pix pipelines."""

from __future__ import annotations

from typing import Any

import torch

from ground_probe.testing.parts import autoencoder, clip_text, ready, word_tokenizer

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


def instruct_pix2pix(seed: int = 0) -> Any:
    """StableDiffusionInstructPix2PixPipeline: 5 attention blocks on 8 px and 16 px tokens."""
    from diffusers import (
        EulerAncestralDiscreteScheduler,
        StableDiffusionInstructPix2PixPipeline,
        UNet2DConditionModel,
    )

    torch.manual_seed(seed)
    tokenizer = word_tokenizer(16)
    return ready(
        StableDiffusionInstructPix2PixPipeline(
            vae=autoencoder(4, sample_size=1024),
            text_encoder=clip_text(len(tokenizer)),
            tokenizer=tokenizer,
            unet=UNet2DConditionModel(**_UNET),
            scheduler=EulerAncestralDiscreteScheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def sdxl_instruct_pix2pix(seed: int = 0) -> Any:
    """StableDiffusionXLInstructPix2PixPipeline: as `instruct_pix2pix`, with two text encoders."""
    from diffusers import (
        EulerDiscreteScheduler,
        StableDiffusionXLInstructPix2PixPipeline,
        UNet2DConditionModel,
    )

    torch.manual_seed(seed)
    tokenizer = word_tokenizer(16)
    return ready(
        StableDiffusionXLInstructPix2PixPipeline(
            vae=autoencoder(4, sample_size=1024),
            text_encoder=clip_text(len(tokenizer)),
            text_encoder_2=clip_text(len(tokenizer), projected=True),
            tokenizer=tokenizer,
            tokenizer_2=word_tokenizer(16),
            unet=UNet2DConditionModel(
                **_UNET
                | {
                    "cross_attention_dim": 64,
                    "addition_embed_type": "text_time",
                    "addition_time_embed_dim": 8,
                    "projection_class_embeddings_input_dim": 6 * 8 + 32,
                    "use_linear_projection": True,
                }
            ),
            scheduler=EulerDiscreteScheduler(),
            add_watermarker=False,
        )
    )
