"""What training minimises: the autoencoder's error, and that of the predicted velocity."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FluxKontextPipeline
from jaxtyping import Float, Int
from torch import Tensor

from ground_probe.editors.tiny.build import TOKEN_PX


def autoencoder_loss(vae: AutoencoderKL, images: Float[Tensor, "b 3 h w"]) -> Tensor:
    """Reconstruction from a slightly noisy latent whose first channels are the mean color.

    The anchor keeps the latent's natural scale, so that color dominates the editor's loss: that is
    what binds words to objects. The fixed small variance makes the decoder forgive small errors.
    """
    posterior = vae.encode(images).latent_dist
    reconstruction = vae.decode(posterior.sample()).sample
    cell_px = images.shape[-1] // posterior.mean.shape[-1]
    color, rest = posterior.mean[:, :3], posterior.mean[:, 3:]
    return (
        F.l1_loss(reconstruction, images)
        + F.mse_loss(reconstruction, images)
        + F.mse_loss(color, F.avg_pool2d(images, cell_px))
        + 0.01 * rest.square().mean()
        + 0.01 * (posterior.logvar + 5).square().mean()
    )


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b tokens dim"]:
    """Images to packed latents, as the pipeline does it."""
    latents = (vae.encode(images).latent_dist.mode() - vae.config.shift_factor) * (
        vae.config.scaling_factor
    )
    return FluxKontextPipeline._pack_latents(latents, *latents.shape)


def token_ids(side_px: int) -> Int[Tensor, "tokens 3"]:
    """Positions of a square image's noise tokens, as the pipeline gives them."""
    side = side_px // TOKEN_PX
    return FluxKontextPipeline._prepare_latent_image_ids(1, side, side, "cpu", torch.float32)


def editor_loss(
    pipeline: FluxKontextPipeline,
    reference: Float[Tensor, "b tokens dim"],
    edited: Float[Tensor, "b tokens dim"],
    ids: Int[Tensor, "b text"],
    side_px: int,
    pure_noise: bool,
    noise_tokens: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Squared error of the predicted velocity: (where the edit changed something, elsewhere)."""
    batch, count, _ = edited.shape
    device = edited.device
    noise = torch.randn(edited.shape, generator=generator).to(device)
    sigma = torch.ones(batch)
    kept = torch.arange(count)
    if pure_noise:
        kept = torch.randperm(count, generator=generator)[: int(noise_tokens * count)]
    else:
        shift = math.exp(0.5)  # the scheduler's own, at 256 tokens
        uniform = torch.rand(batch, generator=generator)
        sigma = shift * uniform / (1 + (shift - 1) * uniform)
    sigma = sigma.to(device)
    noisy = torch.lerp(edited, noise, sigma[:, None, None])[:, kept]
    noise_ids = token_ids(side_px)
    reference_ids = noise_ids.clone()
    reference_ids[:, 0] = 1
    velocity = pipeline.transformer(
        hidden_states=torch.cat([noisy, reference], dim=1),
        encoder_hidden_states=pipeline.text_encoder_2(ids)[0],
        pooled_projections=pipeline.text_encoder(ids).pooler_output,
        timestep=sigma,
        img_ids=torch.cat([noise_ids[kept], reference_ids]).to(device),
        txt_ids=torch.zeros(ids.shape[1], 3, device=device),
        return_dict=False,
    )[0][:, : len(kept)]
    error = (velocity - (noise - edited)[:, kept]).square().mean(-1)
    changed = (edited - reference)[:, kept].abs().mean(-1) > 0.1
    return (
        (error * changed).sum() / changed.sum().clamp(min=1),
        (error * ~changed).sum() / (~changed).sum().clamp(min=1),
    )
