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


def _qwen3_vl(tokenizer, vision_tokens):
    """As `_qwen_vl`, with Qwen3-VL: (encoder, processor)."""
    from transformers import (
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
    )
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    ids = {f"{n}_token_id": tokenizer.convert_tokens_to_ids(t) for n, t in vision_tokens.items()}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        **ids,
    )
    images = Qwen2VLImageProcessorPil(
        patch_size=16, min_pixels=32 * 32 * 4, max_pixels=32 * 32 * 16
    )

    class ImagesOnly(Qwen3VLProcessor):
        def check_argument_for_proper_class(self, name, argument):
            return type(argument)

    return Qwen3VLForConditionalGeneration(config), ImagesOnly(images, tokenizer)


VISION = {
    "image": "<|image_pad|>",
    "video": "<|video_pad|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
}


def _wan_autoencoder(levels: int = 4, channels: int = 4):
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


def _template_tokens(tokenizer, template: str) -> int:
    """How many tokens a template has before its slot: pipelines know it for their own tokenizer."""
    return len(tokenizer(template.partition("{}")[0], add_special_tokens=False).input_ids)


def joy_edit(seed: int = 0):
    """JoyImageEditPipeline: 3 blocks, 16 px a token, image tokens before text."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        JoyImageEditPipeline,
        JoyImageEditTransformer3DModel,
    )

    torch.manual_seed(seed)
    tokenizer = word_tokenizer(1024, QWEN_TOKENS)
    encoder, processor = _qwen3_vl(tokenizer, VISION)
    pipeline = JoyImageEditPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_wan_autoencoder(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        processor=processor,
        transformer=JoyImageEditTransformer3DModel(
            in_channels=4,
            hidden_size=32,
            num_attention_heads=2,
            text_dim=32,
            num_layers=3,
            rope_dim_list=[4, 6, 6],
        ),
    )
    template = pipeline.prompt_template_encode["multiple_images"]
    drop = _template_tokens(tokenizer, template)
    pipeline.prompt_template_encode_start_idx["multiple_images"] = drop
    return _ready(pipeline)


def kandinsky5(seed: int = 0):
    """Kandinsky5I2IPipeline: 3 blocks with self- and cross-attention; small sizes."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        Kandinsky5I2IPipeline,
        Kandinsky5Transformer3DModel,
    )

    torch.manual_seed(seed)
    tokenizer, tokenizer_2 = word_tokenizer(1024, QWEN_TOKENS), word_tokenizer(77)
    encoder, processor = _qwen_vl(tokenizer)
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
    drop = _template_tokens(tokenizer, pipeline.prompt_template)
    pipeline.prompt_template_encode_start_idx = drop
    pipeline.resolutions = [(width // 4, height // 4) for width, height in pipeline.resolutions]
    return _ready(pipeline)


def fibo_edit(seed: int = 0):
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
    return _ready(
        BriaFiboEditPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=_wan_autoencoder(5),
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


def dreamlite(seed: int = 0):
    """DreamLitePipeline: a UNet over noise and reference side by side."""
    from diffusers import (
        AutoencoderTiny,
        DreamLitePipeline,
        DreamLiteUNetModel,
        FlowMatchEulerDiscreteScheduler,
    )

    torch.manual_seed(seed)
    tokenizer = word_tokenizer(1024, QWEN_TOKENS)
    encoder, processor = _qwen3_vl(tokenizer, VISION)
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
    drop = _template_tokens(tokenizer, pipeline.prompt_template_encode_edit)
    pipeline.prompt_template_encode_edit_start_idx = drop
    return _ready(pipeline)


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
    "JoyImageEdit": joy_edit,
    "Kandinsky5I2I": kandinsky5,
    "BriaFiboEdit": fibo_edit,
    "DreamLite": dreamlite,
}
# What the tiny text encoders need beyond an editor's own arguments: they have three layers.
ARGUMENTS = {
    name: {"text_encoder_out_layers": (0, 1, 2), "max_sequence_length": 64}
    for name in ("Flux2", "Flux2Klein")
}
INSTRUCTION = "make the red circle blue"
# What a family must be told in a form of its own.
INSTRUCTIONS = {"BriaFiboEdit": f'{{"edit_instruction": "{INSTRUCTION}"}}'}


def smaller_images(monkeypatch):
    """Have the pipelines that bring images to 1024 * 1024 px bring them to 256 * 256."""
    from diffusers.pipelines.joyimage import image_processor as joy
    from diffusers.pipelines.longcat_image import pipeline_longcat_image_edit as longcat
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as edit
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

    for module in (longcat, edit, plus):
        whole = module.calculate_dimensions
        monkeypatch.setattr(
            module, "calculate_dimensions", lambda area, ratio, whole=whole: whole(area / 16, ratio)
        )
    bucket = joy.find_best_bucket
    monkeypatch.setattr(
        joy, "find_best_bucket", lambda *given: tuple(side // 4 for side in bucket(*given))
    )


def _ready(pipeline):
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
