"""What training minimizes: the autoencoder's error, and that of the predicted velocity."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FluxKontextPipeline, FluxTransformer2DModel
from jaxtyping import Bool, Float, Int
from torch import Tensor

_CHANGE = 0.1
"""A token was edited where its latents differ by more than this, on average."""
_FEWEST = 3
"""In a smaller region than this many tokens, each counts as in one of this many."""
_BACKGROUND = 0.3
"""What tokens count together that no edit of a scene changes; those that some edit does: 1."""
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


def velocity_error(
    transformer: FluxTransformer2DModel,
    reference: Float[Tensor, "b tokens dim"],
    edited: Float[Tensor, "b tokens dim"],
    hidden: Float[Tensor, "b text width"],
    pooled: Float[Tensor, "b pooled"],
    pure_noise: float,
    noise_tokens: float,
    generator: torch.Generator | None,
) -> tuple[Float[Tensor, "b there"], Int[Tensor, " there"], Float[Tensor, " b"]]:
    """Squared error of the predicted velocity at the noise tokens that are there, these, and sigma.

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
    order = torch.rand(count, generator=generator, device=device)
    there = order.topk(round(noise_tokens * count)).indices.sort().values
    sigma = _SHIFT * chance[0] / (1 + (_SHIFT - 1) * chance[0])
    sigma = sigma.masked_fill(chance[1] < pure_noise, 1.0)
    noise, after = noise[:, there], edited[:, there]
    side = math.isqrt(count)
    with torch.device(device):  # so that nothing is copied to it
        noise_ids = FluxKontextPipeline._prepare_latent_image_ids(
            1, side, side, device, torch.float32
        )
    reference_ids = noise_ids.clone()
    reference_ids[:, 0] = 1
    velocity = transformer(
        hidden_states=torch.cat([torch.lerp(after, noise, sigma[:, None, None]), reference], dim=1),
        encoder_hidden_states=hidden,
        pooled_projections=pooled,
        timestep=sigma,
        img_ids=torch.cat([noise_ids[there], reference_ids]),
        txt_ids=torch.zeros(hidden.shape[1], 3, device=device),
        return_dict=False,
    )[0][:, : len(there)]
    return (velocity.float() - (noise - after)).square().mean(-1), there, sigma


def is_changed(
    reference: Float[Tensor, "scenes tokens dim"], edited: Float[Tensor, "scenes edits tokens dim"]
) -> Bool[Tensor, "scenes edits tokens"]:
    """Which tokens each edit of a scene changed; known from its latents, not from a mask."""
    return (edited - reference[:, None]).abs().mean(-1) > _CHANGE


def mean_where(error: Float[Tensor, "b tokens"], where: Bool[Tensor, "b tokens"]) -> Tensor:
    """The mean over examples of each one's mean over the tokens that count."""
    count = where.sum(1)
    means = (error * where).sum(1) / count.clamp(min=1)
    return means.sum() / (count > 0).sum().clamp(min=1)


def token_weights(
    changed: Bool[Tensor, "scenes edits tokens"],
    is_even: Bool[Tensor, "scenes edits"],
    ramp: float | Float[Tensor, ""],
) -> Float[Tensor, "scenes edits tokens"]:
    """What each token's error counts: as `even_weights` say, or as the two means that teach faster.

    These are the mean over the tokens that an edit changes, times `ramp`, and the mean over all
    others.
    """
    inside = changed / changed.sum(-1, keepdim=True).clamp(min=1)
    outside = ~changed / (~changed).sum(-1, keepdim=True).clamp(min=1)
    return torch.where(is_even[..., None], even_weights(changed), ramp * inside + outside)


def even_weights(
    changed: Bool[Tensor, "scenes edits tokens"],
) -> Float[Tensor, "scenes 1 tokens"]:
    """Weights that are the same in all examples of a scene, whichever of them changes a token.

    So a prediction goes as far as the change is likely. Of two means a changed token counts
    w = 25 times as much as another, and one that is meant with probability p is drawn as if that
    were p w / (p w + 1 - p): in doubt, every candidate changes.

    The regions of all edits count the same in sum, be it a part's or a house's.
    """
    sizes = changed.sum(-1, keepdim=True).clamp(min=_FEWEST)
    background = ~changed.any(1, keepdim=True)
    share = background / background.sum(-1, keepdim=True).clamp(min=1)
    return (changed / sizes).mean(1, keepdim=True) + _BACKGROUND * share
