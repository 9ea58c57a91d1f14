"""Tokenizers and encoders that tiny pipelines share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

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
HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
LANGUAGE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
"""What the language models among the text encoders have alike."""


def word_tokenizer(max_length: int = 16, extra: tuple[str, ...] = ()) -> Any:
    """A word-level tokenizer that pads, ends with </s> and truncates, as CLIP's and T5's do."""
    specials = ["<pad>", "</s>", "<unk>", *extra]
    vocab = {word: i for i, word in enumerate(dict.fromkeys([*specials, *WORDS]))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocab["</s>"])]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(extra),
    )


def clip_text(vocab: int, max_length: int = 16, projected: bool = False) -> Any:
    """A CLIP text encoder of two layers."""
    config = transformers.CLIPTextConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=max_length,
        projection_dim=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return kind(config)


def autoencoder(levels: int = 2, kind: Any = diffusers.AutoencoderKL, **config: Any) -> Any:
    """A variational autoencoder that halves an image once less than it has levels."""
    shape = {
        "block_out_channels": (8,) * levels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": 64,
    }
    return kind(**shape | config)


def video_autoencoder(levels: int, kind: Any, **config: Any) -> Any:
    """As `autoencoder`, of the video models."""
    return kind(
        base_dim=4,
        z_dim=4,
        dim_mult=[1] * levels,
        num_res_blocks=1,
        temperal_downsample=[False] * (levels - 1),
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
        **config,
    )


def template_tokens(tokenizer: Any, template: str) -> int:
    """How many tokens a template has before its slot: pipelines know it for their own tokenizer."""
    return len(tokenizer(template.partition("{}")[0], add_special_tokens=False).input_ids)


def tiny(build: Callable[..., Any]) -> Callable[..., Any]:
    """A builder of seeded weights, ready for inference, without a progress bar."""

    @wraps(build)
    def built(*args: Any, seed: int = 0, **kwargs: Any) -> Any:
        torch.manual_seed(seed)
        pipeline = build(*args, **kwargs)
        for component in pipeline.components.values():
            if isinstance(component, torch.nn.Module):
                component.eval().requires_grad_(False)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return built
