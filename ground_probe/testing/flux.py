"""Tiny FLUX editors: Kontext, FLUX.2 and its klein."""

from __future__ import annotations

from typing import Any

import torch

from ground_probe.testing.parts import (
    CHAT,
    QWEN_TOKENS,
    autoencoder,
    clip_text,
    ready,
    word_tokenizer,
)


def kontext(seed: int = 0, levels: int = 3, sample_size: int = 64, **transformer: Any) -> Any:
    """FluxKontextPipeline: 2 double + 2 single blocks, 8 px a token, 64x64 -> 8x8 tokens."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        FluxKontextPipeline,
        FluxTransformer2DModel,
    )
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(seed)
    tokenizer, tokenizer_2 = word_tokenizer(16), word_tokenizer(24)
    t5 = T5Config(
        vocab_size=len(tokenizer_2),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    config = {
        "in_channels": 16,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "guidance_embeds": True,
        "axes_dims_rope": (4, 6, 6),
    }
    return ready(
        FluxKontextPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=autoencoder(levels, sample_size=sample_size, shift_factor=0.1, scaling_factor=0.4),
            text_encoder=clip_text(len(tokenizer)),
            tokenizer=tokenizer,
            text_encoder_2=T5EncoderModel(t5),
            tokenizer_2=tokenizer_2,
            transformer=FluxTransformer2DModel(**config | transformer),
        )
    )


def flux2(klein: bool = True, distilled: bool = True, seed: int = 0) -> Any:
    """Flux2KleinPipeline or Flux2Pipeline: 2 double + 2 single blocks, 16 px a token."""
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Pipeline,
        Flux2Transformer2DModel,
    )

    torch.manual_seed(seed)
    tokenizer = word_tokenizer(64, QWEN_TOKENS)
    tokenizer.chat_template = CHAT
    shared = {
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        "vae": AutoencoderKLFlux2(
            block_out_channels=(8,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=4,
            layers_per_block=1,
            sample_size=1024,
        ),
        "transformer": Flux2Transformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=96,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=not klein,
        ),
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    }
    if klein:
        from transformers import Qwen3Config, Qwen3ForCausalLM

        encoder = Qwen3ForCausalLM(Qwen3Config(**text))
        return ready(
            Flux2KleinPipeline(
                text_encoder=encoder, tokenizer=tokenizer, is_distilled=distilled, **shared
            )
        )
    from transformers import (
        Mistral3Config,
        Mistral3ForConditionalGeneration,
        MistralConfig,
        PixtralVisionConfig,
    )

    vision = PixtralVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    config = Mistral3Config(
        text_config=MistralConfig(**text), vision_config=vision, image_token_index=3
    )
    encoder = Mistral3ForConditionalGeneration(config)
    return ready(Flux2Pipeline(text_encoder=encoder, tokenizer=tokenizer, **shared))
