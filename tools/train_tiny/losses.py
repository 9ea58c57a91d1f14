"""What training minimises: the autoencoder's error, and that of the predicted velocity."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FluxKontextPipeline, FluxTransformer2DModel
from jaxtyping import Float, Int
from torch import Tensor

from tools.train_tiny.build import TOKEN_PX
from tools.train_tiny.curriculum import Stage


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
    transformer: FluxTransformer2DModel,
    reference: Float[Tensor, "tokens dim"],
    edited: Float[Tensor, "b tokens dim"],
    hidden: Float[Tensor, "b text width"],
    pooled: Float[Tensor, "b pooled"],
    stage: Stage,
    pure_noise: bool,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Squared error of the predicted velocity for edits of one scene: (where changed, elsewhere).

    A stage may drop a random part of the grid, noise and reference alike (as in Li et al. 2023,
    "Scaling language-image pre-training via masking"). Where it computes a share of the noise
    tokens only, those that an edit of the scene changes come first.
    """
    batch, count, _ = edited.shape
    device = edited.device
    noise = torch.randn(edited.shape, generator=generator).to(device)
    changes = (edited - reference).abs().mean(-1) > 0.1
    chance = torch.rand(count, generator=generator).to(device)
    there = chance.topk(int(stage.grid_share * count)).indices.sort().values
    if pure_noise:
        sigma = torch.ones(batch)
        order = changes.any(0)[there] + chance[there]
        kept = there[order.topk(int(stage.noise_tokens * count)).indices.sort().values]
    else:
        shift = math.exp(0.5)  # the scheduler's own, at 256 tokens
        uniform = torch.rand(batch, generator=generator)
        sigma = shift * uniform / (1 + (shift - 1) * uniform)
        kept = there
    sigma = sigma.to(device)
    noisy = torch.lerp(edited, noise, sigma[:, None, None])[:, kept]
    noise_ids = token_ids(stage.side_px).to(device)
    reference_ids = noise_ids[there]
    reference_ids[:, 0] = 1
    velocity = transformer(
        hidden_states=torch.cat([noisy, reference[there].expand(batch, -1, -1)], dim=1),
        encoder_hidden_states=hidden,
        pooled_projections=pooled,
        timestep=sigma,
        img_ids=torch.cat([noise_ids[kept], reference_ids]),
        txt_ids=torch.zeros(hidden.shape[1], 3, device=device),
        return_dict=False,
    )[0][:, : len(kept)]
    error = (velocity - (noise - edited)[:, kept]).square().mean(-1)
    changed = changes[:, kept]
    return (
        (error * changed).sum() / changed.sum().clamp(min=1),
        (error * ~changed).sum() / (~changed).sum().clamp(min=1),
    )
