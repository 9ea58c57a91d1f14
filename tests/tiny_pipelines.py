"""Tiny random instances of the real pipeline classes, for contract tests."""

from __future__ import annotations

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


def clip_text(vocab: int, dim: int = 32, max_length: int = 16, projected: bool = False):
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


def autoencoder(levels: int = 2, channels: int = 4, sample_size: int = 64, **config):
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


def kontext(seed: int = 0, levels: int = 3, sample_size: int = 64, **transformer):
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
    return _ready(
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


def flux2(klein: bool = True, distilled: bool = True, seed: int = 0):
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
        return _ready(
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
    return _ready(Flux2Pipeline(text_encoder=encoder, tokenizer=tokenizer, **shared))


def _qwen_vl(tokenizer):
    """A tiny Qwen2.5-VL and its processor, without the torchvision that only videos need."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLProcessor,
    )
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    }
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [0],
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )
    images = Qwen2VLImageProcessorPil(min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 16)

    class ImagesOnly(Qwen2VLProcessor):
        def check_argument_for_proper_class(self, name, argument):
            return type(argument)

    processor = ImagesOnly(images, tokenizer)
    return Qwen2_5_VLForConditionalGeneration(config), processor


def qwen_edit(plus: bool = False, seed: int = 0):
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
    encoder, processor = _qwen_vl(tokenizer)
    return _ready(
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


def longcat(seed: int = 0):
    """LongCatImageEditPipeline: 2 double + 2 single blocks, 16 px a token."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        LongCatImageEditPipeline,
        LongCatImageTransformer2DModel,
    )

    torch.manual_seed(seed)
    tokenizer = word_tokenizer(512, QWEN_TOKENS)
    encoder, processor = _qwen_vl(tokenizer)
    return _ready(
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


def instruct_pix2pix(seed: int = 0):
    """StableDiffusionInstructPix2PixPipeline: 5 attention blocks on 8 px and 16 px tokens."""
    from diffusers import (
        EulerAncestralDiscreteScheduler,
        StableDiffusionInstructPix2PixPipeline,
        UNet2DConditionModel,
    )

    torch.manual_seed(seed)
    tokenizer = word_tokenizer(16)
    return _ready(
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


def sdxl_instruct_pix2pix(seed: int = 0):
    """StableDiffusionXLInstructPix2PixPipeline: as `instruct_pix2pix`, with two text encoders."""
    from diffusers import (
        EulerDiscreteScheduler,
        StableDiffusionXLInstructPix2PixPipeline,
        UNet2DConditionModel,
    )

    torch.manual_seed(seed)
    tokenizer = word_tokenizer(16)
    return _ready(
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

BUILDERS = {
    "FluxKontext": kontext,
    "QwenImageEdit": qwen_edit,
    "QwenImageEditPlus": lambda seed=0: qwen_edit(plus=True, seed=seed),
    "InstructPix2Pix": instruct_pix2pix,
    "InstructPix2PixXL": sdxl_instruct_pix2pix,
    "Flux2Klein": flux2,
    "Flux2": lambda seed=0: flux2(klein=False, seed=seed),
    "LongCatImageEdit": longcat,
}
# What the tiny text encoders need beyond an editor's own arguments: they have three layers.
ARGUMENTS = {
    name: {"text_encoder_out_layers": (0, 1, 2), "max_sequence_length": 64}
    for name in ("Flux2", "Flux2Klein")
}


def smaller_images(monkeypatch):
    """Have the pipelines that stretch images to 1024 * 1024 px stretch them to 256 * 256."""
    from diffusers.pipelines.longcat_image import pipeline_longcat_image_edit as longcat
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as edit
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

    for module in (longcat, edit, plus):
        whole = module.calculate_dimensions
        monkeypatch.setattr(
            module, "calculate_dimensions", lambda area, ratio, whole=whole: whole(area / 16, ratio)
        )


def _ready(pipeline):
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
