"""FLOPs of an editor's parts, counted by running the real modules on the `meta` device."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ground_probe.capture.sites import blocks_of
from ground_probe.geometry import Geometry
from ground_probe.study.plan.parts import Parts


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOPs of one sentence; None where a part's configuration is missing.

    A multiplication and an addition are two; what the segmenter does with the captured tensors is
    left out. `step` is one conditional forward of the denoiser, `fraction` the same up to the last
    block that is needed.
    """

    text: int | None
    encode: int | None
    step: int
    fraction: int
    decode: int | None


def count(parts: Parts, geometry: Geometry, text_tokens: int, last_block: str) -> Flops:
    """Count one sentence: of so many text tokens, up to the last block that is needed."""
    denoiser, modules = parts.editor.denoiser, parts.modules
    given = _arguments(parts, geometry, text_tokens)
    step, fraction = _counted(lambda: denoiser(**given), blocks_of(denoiser)[last_block])
    encode = decode = text = None
    if "vae" in modules:
        encode, decode = _autoencoder(modules["vae"], native_px(parts, geometry))
    if not any(name.startswith("text_encoder") for name in parts.missing):
        encoders = [part for name, part in modules.items() if name.startswith("text_encoder")]
        text = sum(_text(each, text_tokens) for each in encoders)
    return Flops(text, encode, step, fraction, decode)


def native_px(parts: Parts, geometry: Geometry) -> tuple[int, int]:
    """(height, width) px of the image that is encoded."""
    side = parts.editor.family.token_px(parts.editor.pipeline)
    return geometry.grid[0] * side, geometry.grid[1] * side


def image_tokens(parts: Parts, geometry: Geometry) -> int:
    """Image tokens of one forward, the reference's included."""
    rows, cols = geometry.grid
    return rows * cols * (2 if "reference" in parts.editor.family.streams else 1)


def _arguments(parts: Parts, geometry: Geometry, text_tokens: int) -> dict[str, Any]:
    """What a denoiser's forward is given for one image and one instruction, without values."""
    denoiser = parts.editor.denoiser
    config, tokens = denoiser.config, image_tokens(parts, geometry)
    axes = len(getattr(config, "axes_dims_rope", None) or (1, 1, 1))
    width = getattr(config, "joint_attention_dim", 0) or getattr(config, "cross_attention_dim", 0)
    known = {
        "hidden_states": lambda: _meta(1, tokens, config.in_channels),
        "encoder_hidden_states": lambda: _meta(1, text_tokens, width),
        "timestep": lambda: _meta(1),
        "guidance": lambda: _meta(1),
        "pooled_projections": lambda: _meta(1, config.pooled_projection_dim),
        "img_ids": lambda: _meta(tokens, axes),
        "txt_ids": lambda: _meta(text_tokens, axes),
        "img_shapes": lambda: [[(1, *geometry.grid)] * 2],
        "sample": lambda: _meta(1, config.in_channels, *geometry.grid),
        "added_cond_kwargs": lambda: {"text_embeds": _meta(1, 1280), "time_ids": _meta(1, 5)},
    }
    if getattr(config, "addition_embed_type", None) is None:
        del known["added_cond_kwargs"]
    if not getattr(config, "guidance_embeds", True):
        del known["guidance"]
    taken = inspect.signature(denoiser.forward).parameters
    return {name: make() for name, make in known.items() if name in taken}


def _counted(call: Callable[[], Any], until: nn.Module | None = None) -> tuple[int, int]:
    """FLOPs of a call, and those up to the end of one of its modules."""
    reached = []
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hook = until and until.register_forward_hook(
            lambda *_: reached.append(counter.get_total_flops())
        )
        call()
    if hook:
        hook.remove()
    total = counter.get_total_flops()
    return total, reached[-1] if reached else total


def _autoencoder(vae: nn.Module, size_px: tuple[int, int]) -> tuple[int, int]:
    frames = (1,) if hasattr(vae, "temperal_downsample") else ()  # a video's autoencoder
    channels = getattr(vae.config, "in_channels", 3)
    latents = []
    encode, _ = _counted(
        lambda: latents.append(vae.encode(_meta(1, channels, *frames, *size_px)).latent_dist.mode())
    )
    decode, _ = _counted(lambda: vae.decode(latents[0]))
    return encode, decode


def _text(encoder: nn.Module, tokens: int) -> int:
    limit = getattr(encoder.config, "max_position_embeddings", None) or tokens
    ids = torch.zeros(1, min(tokens, limit), dtype=torch.long, device="meta")
    return _counted(lambda: encoder(input_ids=ids))[0]


def _meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")
