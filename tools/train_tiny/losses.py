"""What training minimizes: the autoencoder's error, and that of the predicted velocity."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FluxKontextPipeline, FluxTransformer2DModel
from jaxtyping import Float
from torch import Tensor

_CHANGE = 0.1
"""A token was edited where its latents differ by more than this, on average."""
_SHIFT = math.exp(0.5)
"""Of the noise levels: the scheduler's own, at 256 tokens."""


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


def editor_loss(
    transformer: FluxTransformer2DModel,
    reference: Float[Tensor, "b tokens dim"],
    edited: Float[Tensor, "b tokens dim"],
    hidden: Float[Tensor, "b text width"],
    pooled: Float[Tensor, "b pooled"],
    pure_noise: float,
    noise_tokens: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Squared error of the predicted velocity: (where an edit changed something, elsewhere).

    Args:
        transformer: Predicts it.
        reference, edited: Latents before and after.
        hidden, pooled: The instruction's states, and its one vector.
        pure_noise: Share of examples at sigma = 1, where only language can explain the edit.
        noise_tokens: Share of the noise tokens that are there at all, the same of every example.
        generator: Of everything random, on the latents' device.
    """
    batch, count, _ = edited.shape
    device = edited.device
    noise = torch.randn(edited.shape, generator=generator, device=device)
    chance = torch.rand(2, batch, generator=generator, device=device)
    kept = torch.rand(count, generator=generator, device=device)
    kept = kept.topk(round(noise_tokens * count)).indices.sort().values
    sigma = _SHIFT * chance[0] / (1 + (_SHIFT - 1) * chance[0])
    sigma = torch.where(chance[1] < pure_noise, 1.0, sigma)
    noise, after, before = noise[:, kept], edited[:, kept], reference[:, kept]
    side = math.isqrt(count)
    noise_ids = FluxKontextPipeline._prepare_latent_image_ids(1, side, side, device, torch.float32)
    reference_ids = noise_ids.clone()
    reference_ids[:, 0] = 1
    velocity = transformer(
        hidden_states=torch.cat([torch.lerp(after, noise, sigma[:, None, None]), reference], dim=1),
        encoder_hidden_states=hidden,
        pooled_projections=pooled,
        timestep=sigma,
        img_ids=torch.cat([noise_ids[kept], reference_ids]),
        txt_ids=torch.zeros(hidden.shape[1], 3, device=device),
        return_dict=False,
    )[0][:, : len(kept)]
    error = (velocity.float() - (noise - after)).square().mean(-1)
    changed = ((after - before).abs().mean(-1) > _CHANGE).float()
    return _mean(error, changed), _mean(error, 1 - changed)


def _mean(error: Float[Tensor, "b tokens"], where: Float[Tensor, "b tokens"]) -> Tensor:
    """The mean over examples of each one's mean over the tokens that count."""
    there = where.sum(1)
    means = (error * where).sum(1) / there.clamp(min=1)
    return means.sum() / (there > 0).sum().clamp(min=1)
