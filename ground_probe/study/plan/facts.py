"""Structures of open weights whose configuration cannot be read without a licence or a network.

Only what differs from the defaults of the class in diffusers or transformers. A test holds each
entry against the published configuration files.
"""

from __future__ import annotations

from typing import Any

_CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
_AUTOENCODER = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}

# Source: FLUX.1 [dev] and Stable Diffusion 1.5 as published; Kontext has the parts of the former,
# InstructPix2Pix those of the latter with 8 input channels.
FACTS: dict[str, dict[str, dict[str, Any]]] = {
    "FluxKontext": {
        "transformer": {"guidance_embeds": True},
        "text_encoder": _CLIP_L,
        "text_encoder_2": {
            "d_model": 4096,
            "d_kv": 64,
            "d_ff": 10240,
            "num_layers": 24,
            "num_heads": 64,
            "feed_forward_proj": "gated-gelu",
        },
        "vae": {
            **_AUTOENCODER,
            "latent_channels": 16,
            "sample_size": 1024,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
    },
    "InstructPix2Pix": {
        "unet": {"sample_size": 64, "cross_attention_dim": 768, "in_channels": 8},
        "text_encoder": _CLIP_L,
        "vae": {**_AUTOENCODER, "latent_channels": 4, "sample_size": 512},
    },
}
