"""Tokenizers and encoders that tiny pipelines share."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = """
    make the red circle blue a an change color of to left right man woman in on with small big
    green square turn remove replace by picture image and dog cat car hat shirt person side top
""".split()  # noqa: SIM905


QWEN_TOKENS = tuple(
    f"<|{name}|>"
    for name in ("im_start", "im_end", "vision_start", "image_pad", "vision_end", "video_pad")
)


CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} "
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endif %}"
    "<|im_end|>{% endfor %}"
)


def word_tokenizer(max_length: int = 16, extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that pads, ends with </s> and truncates, as CLIP's and T5's do."""
    specials = ["<pad>", "</s>", "<unk>", *extra]
    vocab = {word: i for i, word in enumerate(dict.fromkeys([*specials, *WORDS]))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocab["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(extra),
    )


def clip_text(vocab: int, dim: int = 32, max_length: int = 16, projected: bool = False) -> Any:
    """A CLIP text encoder of two layers."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=vocab,
        hidden_size=dim,
        intermediate_size=2 * dim,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=max_length,
        projection_dim=dim,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def autoencoder(levels: int = 2, channels: int = 4, sample_size: int = 64, **config: Any) -> Any:
    """A variational autoencoder that halves an image once less than it has levels."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=sample_size,
        **config,
    )


def wan_autoencoder(levels: int = 4, channels: int = 4) -> Any:
    """As `autoencoder`, of the video models."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=4,
        z_dim=channels,
        dim_mult=[1] * levels,
        num_res_blocks=1,
        temperal_downsample=[False] * (levels - 1),
        latents_mean=[0.0] * channels,
        latents_std=[1.0] * channels,
        scale_factor_spatial=2 ** (levels - 1),
    )


def template_tokens(tokenizer: Any, template: str) -> int:
    """How many tokens a template has before its slot: pipelines know it for their own tokenizer."""
    return len(tokenizer(template.partition("{}")[0], add_special_tokens=False).input_ids)


def ready(pipeline: Any) -> Any:
    """The pipeline for inference, without a progress bar."""
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
