"""Follow instructions on scenes: what the first step predicts, and what the edit ends in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import FluxKontextPipeline
from jaxtyping import Float, UInt8
from PIL import Image
from tqdm import tqdm

from ground_probe.datasets.generated import ReferringScene
from tools.train_tiny.build import TEXT_TOKENS

STEPS = 28
_BATCH = 25


@dataclass(frozen=True, slots=True)
class Outcome:
    """One edit.

    Args:
        change: Mean absolute change of the latent that the first step predicts, on tokens.
        change_px: Mean absolute change (0-1) of the decoded prediction against the decoded
            reference, so that what the autoencoder loses does not count as change.
        predicted: That prediction as an image.
        image: The finished image, where the edit was finished.
    """

    change: Float[np.ndarray, "rows cols"]
    change_px: Float[np.ndarray, "height width"]
    predicted: UInt8[np.ndarray, "height width 3"]
    image: UInt8[np.ndarray, "height width 3"] | None


def run_edits(
    pipeline: FluxKontextPipeline, edits: list[tuple[ReferringScene, str]], finish: bool, seed: int
) -> list[Outcome]:
    """Follow instructions on scenes of one size, to the end or for one step."""
    outcomes: list[Outcome] = []
    for start in tqdm(range(0, len(edits), _BATCH), unit="batch", leave=False):
        batch = edits[start : start + _BATCH]
        outcomes += _run_batch(pipeline, batch, finish, seed + start)
    return outcomes


@torch.no_grad()
def _run_batch(
    pipeline: FluxKontextPipeline, batch: list[tuple[ReferringScene, str]], finish: bool, seed: int
) -> list[Outcome]:
    side_px = batch[0][0].scene.size_px
    side = side_px // (2 * pipeline.vae_scale_factor)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(
        len(batch), side * side, pipeline.transformer.config.in_channels, generator=generator
    ).to(pipeline.device)
    first: list[torch.Tensor] = []

    def on_step(pipe, step, timestep, tensors):
        if step == 0:
            sigmas = pipe.scheduler.sigmas
            velocity = (tensors["latents"] - noise) / (sigmas[1] - sigmas[0])
            first.append(noise - sigmas[0] * velocity)
            pipe._interrupt = not finish
        return {}

    images = [Image.fromarray(drawn.scene.render()) for drawn, _ in batch]
    finished = pipeline(
        image=images,
        prompt=[instruction for _, instruction in batch],
        latents=noise,
        height=side_px,
        width=side_px,
        max_area=side_px**2,
        _auto_resize=False,
        max_sequence_length=TEXT_TOKENS,
        num_inference_steps=STEPS,
        callback_on_step_end=on_step,
        output_type="np" if finish else "latent",
    ).images
    pixels = pipeline.image_processor.preprocess(images).to(pipeline.device)
    latents = pipeline._encode_vae_image(pixels, generator)
    reference = pipeline._pack_latents(latents, *latents.shape)
    change = (first[0] - reference).abs().mean(-1).reshape(-1, side, side).cpu().numpy()
    predicted, copied = (_decode(pipeline, tokens, side_px) for tokens in (first[0], reference))
    change_px = np.abs(predicted - copied).mean(-1)
    shown = (255 * predicted).round().astype(np.uint8)
    ended = (255 * finished).round().astype(np.uint8) if finish else [None] * len(batch)
    return [Outcome(*one) for one in zip(change, change_px, shown, ended, strict=True)]


def _decode(
    pipeline: FluxKontextPipeline, tokens: Float[torch.Tensor, "b tokens dim"], side_px: int
) -> Float[np.ndarray, "b height width 3"]:
    """Packed latents to pixels (0-1), as the pipeline does it at its end."""
    latents = pipeline._unpack_latents(tokens, side_px, side_px, pipeline.vae_scale_factor)
    config = pipeline.vae.config
    decoded = pipeline.vae.decode(latents / config.scaling_factor + config.shift_factor).sample
    return pipeline.image_processor.postprocess(decoded, output_type="np")
