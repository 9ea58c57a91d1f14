"""Tiny editors of the second tier: Kandinsky 5, Fibo and DreamLite."""

from __future__ import annotations

from typing import Any

import torch

from ground_probe.testing.parts import (
    QWEN_TOKENS,
    autoencoder,
    clip_text,
    ready,
    template_tokens,
    wan_autoencoder,
    word_tokenizer,
)
from ground_probe.testing.vision import VISION, qwen3_vl, qwen_vl


def kandinsky5(seed: int = 0) -> Any:
    """Kandinsky5I2IPipeline: 3 blocks with self- and cross-attention; small sizes."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        Kandinsky5I2IPipeline,
        Kandinsky5Transformer3DModel,
    )

    torch.manual_seed(seed)
    tokenizer, tokenizer_2 = word_tokenizer(1024, QWEN_TOKENS), word_tokenizer(77)
    encoder, processor = qwen_vl(tokenizer)
    pipeline = Kandinsky5I2IPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder(4, sample_size=1024),
        text_encoder=encoder,
        tokenizer=processor,
        text_encoder_2=clip_text(len(tokenizer_2), max_length=77),
        tokenizer_2=tokenizer_2,
        transformer=Kandinsky5Transformer3DModel(
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
    return ready(pipeline)


def fibo_edit(seed: int = 0) -> Any:
    """BriaFiboEditPipeline: 2 double + 2 single blocks, 16 px a token."""
    from diffusers import BriaFiboEditPipeline, FlowMatchEulerDiscreteScheduler
    from diffusers.models.transformers.transformer_bria_fibo import BriaFiboTransformer2DModel
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    torch.manual_seed(seed)
    tokenizer = word_tokenizer(1024)
    config = SmolLM3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    return ready(
        BriaFiboEditPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=wan_autoencoder(5),
            text_encoder=SmolLM3ForCausalLM(config),
            tokenizer=tokenizer,
            transformer=BriaFiboTransformer2DModel(
                in_channels=4,
                num_layers=2,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=64,
                text_encoder_dim=32,
                axes_dims_rope=[4, 6, 6],
            ),
        )
    )


def dreamlite(seed: int = 0) -> Any:
    """DreamLitePipeline: a UNet over noise and reference side by side."""
    from diffusers import (
        AutoencoderTiny,
        DreamLitePipeline,
        DreamLiteUNetModel,
        FlowMatchEulerDiscreteScheduler,
    )

    torch.manual_seed(seed)
    tokenizer = word_tokenizer(1024, QWEN_TOKENS)
    encoder, processor = qwen3_vl(tokenizer, VISION)
    pipeline = DreamLitePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=AutoencoderTiny(
            encoder_block_out_channels=(8,) * 4,
            decoder_block_out_channels=(8,) * 4,
            num_encoder_blocks=(1,) * 4,
            num_decoder_blocks=(1,) * 4,
            latent_channels=4,
        ),
        text_encoder=encoder,
        tokenizer=tokenizer,
        processor=processor,
        unet=DreamLiteUNetModel(
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
    return ready(pipeline)
