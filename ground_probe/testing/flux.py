"""Tiny editors of FLUX blocks: Kontext, FLUX.2, its klein, and Fibo."""

from __future__ import annotations

from typing import Any

import diffusers
import transformers
from diffusers.models.transformers.transformer_bria_fibo import BriaFiboTransformer2DModel

from ground_probe.testing.parts import (
    CHAT,
    HEADS,
    LANGUAGE,
    QWEN_TOKENS,
    autoencoder,
    clip_text,
    tiny,
    video_autoencoder,
    word_tokenizer,
)


@tiny
def kontext(levels: int = 3, sample_size: int = 64, **transformer: Any) -> Any:
    """FluxKontextPipeline: 2 double + 2 single blocks, 8 px a token, 64x64 -> 8x8 tokens."""
    tokenizer, tokenizer_2 = word_tokenizer(16), word_tokenizer(24)
    t5 = transformers.T5Config(
        vocab_size=len(tokenizer_2),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    config: dict[str, Any] = HEADS | {
        "in_channels": 16,
        "num_layers": 2,
        "num_single_layers": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "guidance_embeds": True,
        "axes_dims_rope": (4, 6, 6),
    }
    return diffusers.FluxKontextPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=autoencoder(levels, sample_size=sample_size, shift_factor=0.1, scaling_factor=0.4),
        text_encoder=clip_text(len(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=transformers.T5EncoderModel(t5),
        tokenizer_2=tokenizer_2,
        transformer=diffusers.FluxTransformer2DModel(**config | transformer),
    )


@tiny
def flux2(distilled: bool = True) -> Any:
    """Flux2KleinPipeline: 2 double + 2 single blocks, 16 px a token."""
    parts, text = _flux2(guidance_embeds=False)
    encoder = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**text))
    return diffusers.Flux2KleinPipeline(text_encoder=encoder, is_distilled=distilled, **parts)


@tiny
def flux2_dev() -> Any:
    """Flux2Pipeline: as `flux2`, with guidance embedded and another text encoder."""
    parts, text = _flux2(guidance_embeds=True)
    vision = transformers.PixtralVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    config = transformers.Mistral3Config(
        text_config=transformers.MistralConfig(**text), vision_config=vision, image_token_index=3
    )
    encoder = transformers.Mistral3ForConditionalGeneration(config)
    return diffusers.Flux2Pipeline(text_encoder=encoder, **parts)


def _flux2(guidance_embeds: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """All but the text encoder, and what that is like."""
    tokenizer = word_tokenizer(64, QWEN_TOKENS)
    tokenizer.chat_template = CHAT
    parts = {
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        "vae": autoencoder(4, diffusers.AutoencoderKLFlux2, sample_size=1024),
        "tokenizer": tokenizer,
        "transformer": diffusers.Flux2Transformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            joint_attention_dim=96,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=guidance_embeds,
            **HEADS,
        ),
    }
    text = LANGUAGE | {"vocab_size": len(tokenizer), "num_hidden_layers": 3, "head_dim": 16}
    return parts, text


@tiny
def fibo_edit() -> Any:
    """BriaFiboEditPipeline: 2 double + 2 single blocks, 16 px a token."""
    tokenizer = word_tokenizer(1024)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    config = transformers.SmolLM3Config(
        vocab_size=len(tokenizer), num_hidden_layers=3, **LANGUAGE, **special
    )
    return diffusers.BriaFiboEditPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=video_autoencoder(5, diffusers.AutoencoderKLWan, scale_factor_spatial=16),
        text_encoder=transformers.SmolLM3ForCausalLM(config),
        tokenizer=tokenizer,
        transformer=BriaFiboTransformer2DModel(
            in_channels=4,
            num_layers=2,
            num_single_layers=2,
            joint_attention_dim=64,
            text_encoder_dim=32,
            axes_dims_rope=[4, 6, 6],
            **HEADS,
        ),
    )
