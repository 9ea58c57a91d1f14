"""The embedded editor's parts: a real `FluxKontextPipeline`, only tiny."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
)
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from ground_probe.datasets.scenes.draw import SIZE_PX
from tools.train_tiny.edits import vocabulary

TEXT_TOKENS = 24
"""Longest instruction, padding included: 14 words that refer, 9 around them and the end."""

WIDTH = 128
POOLED_WIDTH = 64
LATENT_CHANNELS = 8
TOKEN_PX = 8
QUERY_KEY_SCALE = 2.0
"""Where the weights of the query and key norms start: attention is sharp from the beginning."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer that knows the words of both worlds; it plays both CLIP's and T5's."""
    special = ["<pad>", "</s>", "<unk>"]  # CLIPTextModel misreads an end token with id 2
    words = {word: i for i, word in enumerate([*special, *vocabulary()])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", words["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        model_max_length=TEXT_TOKENS,
    )


def build_vae() -> AutoencoderKL:
    """An untrained autoencoder: 4 pixels a latent cell, 8 a token after packing.

    One norm group keeps the colors' relations, and residual branches that start at zero let it
    begin as a plain downsampler: both make it learn many times faster.
    """
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 32),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=1,
        sample_size=SIZE_PX,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        force_upcast=False,
    )
    for name, weight in vae.named_parameters():
        if "conv2" in name:
            torch.nn.init.zeros_(weight)
    return vae


def build_pipeline() -> FluxKontextPipeline:
    """The whole editor with random weights, drawn from torch's global generator."""
    tokenizer = build_tokenizer()
    ends = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=POOLED_WIDTH,
            intermediate_size=2 * POOLED_WIDTH,
            projection_dim=POOLED_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=TEXT_TOKENS,
            **ends,
        )
    )
    text_encoder_2 = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=WIDTH,
            d_kv=32,
            d_ff=2 * WIDTH,
            num_layers=3,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            decoder_start_token_id=tokenizer.pad_token_id,
            **ends,
        )
    )
    transformer = FluxTransformer2DModel(
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=6,
        attention_head_dim=64,
        num_attention_heads=WIDTH // 64,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 28, 28),
    )
    for name, weight in transformer.named_parameters():
        if "norm_q" in name or "norm_k" in name or "norm_added" in name:
            torch.nn.init.constant_(weight, QUERY_KEY_SCALE)
    return FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0
        ),
        vae=build_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer,
        transformer=transformer,
    )
