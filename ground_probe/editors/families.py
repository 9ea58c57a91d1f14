"""The registry of editing pipelines: only what cannot be derived from a running one.

To add one:

1. Build a tiny random instance of its class in `ground_probe/testing`; add it to `BUILDERS`.
2. Add a `Family` here, in the same place of the same order. Leave out what you do not know.
3. Run `testing.check_family(your_instance)`, then
   `pytest tests/test_capture_families.py tests/test_geometry_families.py -k YourName`.

They run it and hold the entry against it: each map and its propagation against a full softmax,
hidden states and attention outputs against hooks of their own, the order of the streams against
which key of the attention moves when one text or image token does, the roles against each guided
forward, the output against that of a run without a capture, `fit` against where a dot drawn at a
pixel is encoded. What fails says what is wrong in the entry: `text_first`, `rows`, `calls`, `fit`,
`token_px`, `unguided`.

Blocks, attention modules, grids, lengths, the prompt's template and the tokens that it drops are
found at run time and have no place here.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from torch import Tensor, nn

from ground_probe.editors.family import Family
from ground_probe.editors.fits import (
    cover_fit,
    fibo_fit,
    flux2_fit,
    kandinsky_fit,
    kontext_arguments,
    kontext_fit,
    longcat_fit,
    qwen_fit,
    small_side_px,
    unet_fit,
)
from ground_probe.editors.refused import REFUSED
from ground_probe.errors import UnsupportedEditorError


def _mark_image_tokens(pipeline: Any) -> None:
    """Give Qwen-VL the `mm_token_type_ids` that transformers 5 needs for its 2-D positions.

    Source: https://github.com/huggingface/diffusers/issues/14194
    """
    if getattr(pipeline.text_encoder, "_marks_image_tokens", False):
        return

    def mark(encoder: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        ids = kwargs.get("input_ids")
        if not isinstance(ids, Tensor) or "mm_token_type_ids" in kwargs:
            return None
        return args, kwargs | {"mm_token_type_ids": (ids == encoder.config.image_token_id).int()}

    pipeline.text_encoder.register_forward_pre_hook(mark, with_kwargs=True)
    pipeline.text_encoder._marks_image_tokens = True


_QWEN: dict[str, Any] = {
    "licence": "Apache-2.0",
    "parameters_b": 20.4,
    "memory_gb": 58,
    "fit": qwen_fit,
    "guided": {"negative_prompt": " "},
    "unguided": {"true_cfg_scale": 1.0},
    "prepare": _mark_image_tokens,
}
_UNET: dict[str, Any] = {
    "fit": unet_fit,
    "resize": lambda pipe: True,
    "unguided": {"guidance_scale": 1.0},
    "streams": ("noise",),
    "rows": ("cond", "image_only", "uncond"),
    "token_px": lambda pipe: pipe.vae_scale_factor,
}
FAMILIES: tuple[Family, ...] = (
    Family(
        name="FluxKontext",
        pipeline="FluxKontextPipeline",
        weights="black-forest-labs/FLUX.1-Kontext-dev",
        licence="FLUX.1 dev non-commercial, gated",
        parameters_b=11.9,
        memory_gb=34,
        fit=kontext_fit,
        resize=lambda pipe: small_side_px(pipe) is not None,
        arguments=kontext_arguments,
        note="padding tokens of T5 are real keys and soak up attention",
    ),
    Family(
        name="QwenImageEdit",
        pipeline="QwenImageEditPipeline",
        weights="Qwen/Qwen-Image-Edit",
        note="its processor needs torchvision",
        **_QWEN,
    ),
    Family(
        name="QwenImageEditPlus",
        pipeline="QwenImageEditPlusPipeline",
        weights="Qwen/Qwen-Image-Edit-2509",
        note="its processor needs torchvision; one image and prompt a call",
        **_QWEN,
    ),
    Family(
        name="InstructPix2Pix",
        pipeline="StableDiffusionInstructPix2PixPipeline",
        weights="timbrooks/instruct-pix2pix",
        licence="MIT",
        parameters_b=0.86,
        memory_gb=2,
        sized=False,
        note="the reference enters by channels: the noise stream holds both",
        **_UNET,
    ),
    Family(
        name="InstructPix2PixXL",
        pipeline="StableDiffusionXLInstructPix2PixPipeline",
        weights="diffusers/sdxl-instructpix2pix-768",
        licence="see the model card",
        parameters_b=2.6,
        memory_gb=7,
        note="as InstructPix2Pix; CosXL weights need `is_cosxl_edit=True` when loaded",
        **_UNET,
    ),
    Family(
        name="Flux2Klein",
        pipeline="Flux2KleinPipeline",
        weights="black-forest-labs/FLUX.2-klein-4B",
        licence="Apache-2.0",
        parameters_b=3.9,
        memory_gb=16,
        fit=flux2_fit,
        unguided={"guidance_scale": 1.0},
        note="padding tokens of the chat template are real keys; distilled weights take 4 steps",
    ),
    Family(
        name="Flux2",
        pipeline="Flux2Pipeline",
        weights="black-forest-labs/FLUX.2-dev",
        licence="FLUX dev non-commercial, gated",
        parameters_b=32,
        memory_gb=113,
        fit=flux2_fit,
        note="padding tokens of the chat template are real keys",
    ),
    Family(
        name="LongCatImageEdit",
        pipeline="LongCatImageEditPipeline",
        weights="meituan-longcat/LongCat-Image-Edit",
        licence="Apache-2.0",
        parameters_b=6.3,
        memory_gb=29,
        fit=longcat_fit,
        sized=False,
        unguided={"guidance_scale": 1.0},
        prepare=_mark_image_tokens,
        note="its processor needs torchvision; quoted text is tokenised letter by letter",
    ),
    Family(
        name="JoyImageEdit",
        pipeline="JoyImageEditPipeline",
        weights="jdopensource/JoyAI-Image-Edit-Diffusers",
        fit=cover_fit,
        sized=False,
        unguided={"guidance_scale": 1.0},
        text_first=False,
        token_px=lambda pipe: 2 * pipe.vae_scale_factor_spatial,
        note="its processor needs torchvision; the reference's latents come from torch's global "
        "generator: seed it with `torch.manual_seed` for runs that repeat",
    ),
    Family(
        name="Kandinsky5I2I",
        pipeline="Kandinsky5I2IPipeline",
        weights="kandinskylab/Kandinsky-5.0-I2I-Lite-sft-Diffusers",
        fit=kandinsky_fit,
        sized=False,
        unguided={"guidance_scale": 1.0},
        streams=("noise",),
        token_px=lambda pipe: 2 * pipe.vae_scale_factor_spatial,
        note="its processor needs torchvision; the reference enters by channels: the noise stream "
        "holds both; its template drops the instruction's first tokens: begin with filler words",
    ),
    Family(
        name="BriaFiboEdit",
        pipeline="BriaFiboEditPipeline",
        weights="briaai/Fibo-Edit-1.5-base",
        fit=fibo_fit,
        unguided={"guidance_scale": 1.0},
        rows=("uncond", "cond"),
        calls=("cond",),
        token_px=lambda pipe: pipe.vae_scale_factor,
        words=False,
        note="the instruction is JSON with the key `edit_instruction`; the phrase is words of it",
    ),
    Family(
        name="DreamLite",
        pipeline="DreamLitePipeline",
        weights="carlofkl/DreamLite-base",
        sized=False,
        streams=("noise",),
        rows=("uncond", "image_only", "cond"),
        note="its processor needs torchvision; noise and reference lie side by side: the left "
        "columns of a grid are the noise, the right ones the reference; no geometry",
    ),
)


_registered: list[Family] = []


def family_of(pipeline: Any) -> Family:
    """The facts about a pipeline; for one that is not known, what can be assumed, with a warning.

    Raises:
        UnsupportedEditorError: the pipeline cannot work.
    """
    name = type(pipeline).__name__
    if family := known_family(type(pipeline)):
        return family
    warnings.warn(
        f"{name} is not in the registry. Blocks, streams and the phrase's keys are found at run "
        "time; not known are how the image is brought to the model's size (no geometry), the "
        "arguments that turn guidance off, and the roles of guided forwards (assumed: cond first)",
        stacklevel=2,
    )
    return Family(name=name, pipeline=name, sized=False)


def known_family(kind: type) -> Family | None:
    """The family of a class of pipelines, or of the nearest class that it extends.

    Returns:
        None for an editor that is not in the registry.

    Raises:
        UnsupportedEditorError: a class that cannot work, with the reason.
    """
    known = {family.pipeline: family for family in (*FAMILIES, *_registered)}
    for base in kind.__mro__:
        if base.__name__ in known:
            return known[base.__name__]
        if reason := REFUSED.get(base.__name__):
            raise UnsupportedEditorError(f"{kind.__name__} cannot be captured: {reason}")
    if not {"image", "prompt"} <= set(inspect.signature(kind.__call__).parameters):
        raise UnsupportedEditorError(
            f"{kind.__name__} takes no `image` and `prompt`, so it is no editor that follows an "
            f"instruction; known are {', '.join(known)}"
        )
    return None


def register_family(family: Family) -> Family:
    """Make a pipeline class of one's own known, in this process: `gp.load_editor(pipeline)`.

    Whoever hands work to other processes registers there too, in the function that loads the
    editor. What an entry says is held against a running pipeline by `testing.check_family`.

    Args:
        family: its facts. Where the class is known already, the new facts are taken.

    ```python
    gp.register_family(gp.Family("Mine", "MyEditPipeline", fit=lambda pipe, size_px: Fit((64, 64))))
    ```
    """
    _registered.append(family)
    return family


def models() -> list[dict[str, Any]]:
    """One row for each family: weights, size and what works; then what is refused, and why."""
    refused = [{"name": name, "refused": reason} for name, reason in REFUSED.items()]
    return [_row(family) for family in (*FAMILIES, *_registered)] + refused


def _row(family: Family) -> dict[str, Any]:
    segmentation = "yes" if family.words else "with a template of its JSON"
    size, memory = family.parameters_b, family.memory_gb
    return {
        "name": family.name,
        "pipeline": family.pipeline,
        "weights": family.weights,
        "licence": family.licence,
        "denoiser": f"{size:g} B parameters" if size else "",
        "memory": f"{memory:g} GB of bfloat16 weights, text encoder included" if memory else "",
        "hidden states": ", ".join(family.streams),
        "attention": "image to phrase" + ", phrase to image" * ("text" in family.streams),
        "geometry": "yes" if family.fit else "no: how it resizes an image is not known",
        "segmentation": segmentation if family.fit else "no: it needs the geometry",
        "guided forwards": ", ".join(family.rows if len(family.rows) > 1 else family.calls),
        "note": family.note,
        "sources": f"weights and licence: https://huggingface.co/{family.weights}; parameters: "
        "counted in the class of diffusers at that configuration; memory: 2 bytes a parameter; "
        "streams, attention and guided forwards: tests/test_capture_families.py",
    }
