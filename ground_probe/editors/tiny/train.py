"""Train the embedded editor from scratch, on edits of generated scenes only (never on a mask).

Two parts: an autoencoder, then everything that understands the instruction. Both live in one
checkpoint that is replaced once a minute, so that a killed run continues where it was.
"""

from __future__ import annotations

import csv
import itertools
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FluxKontextPipeline
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ground_probe.datasets.scenes import sample_scene
from ground_probe.editors.tiny.build import TEXT_TOKENS, TOKEN_PX, build_pipeline, build_tokenizer
from ground_probe.editors.tiny.edits import sample_edits
from ground_probe.errors import InputError

CHECKPOINT = "training.pt"
CURVE = "curve.csv"


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum.

    Args:
        name: What the curve calls it.
        until: Share of the whole time at which it ends.
        side_px: Side of the training scenes; objects keep their size, larger scenes hold more.
        styles: Expression styles, drawn with equal probability.
        twins: Probability that an object is told apart by its place alone.
        pure_noise: Share of batches at sigma = 1, where only language can explain the edit.
        noise_tokens: Share of the noise tokens that are computed in those batches; at sigma = 1
            they are all alike.
    """

    name: str
    until: float
    side_px: int
    styles: tuple[str, ...]
    twins: float
    pure_noise: float
    noise_tokens: float


AUTOENCODER_UNTIL = 0.07
_MOSTLY_PLACES = ("scenes", "scenes", "scenes+", "scenesg")
STAGES = (
    Stage("words", 0.32, 64, ("scenes+",), 0.1, 0.9, 0.5),
    Stage("places", 0.60, 80, ("scenes", "scenes+"), 0.3, 0.9, 0.4),
    Stage("relations", 0.84, 96, _MOSTLY_PLACES, 0.4, 0.9, 0.3),
    Stage("full size", 0.93, 128, _MOSTLY_PLACES, 0.4, 0.8, 0.25),
    Stage("all noise levels", 1.00, 128, _MOSTLY_PLACES, 0.4, 0.4, 0.25),
)
AUTOENCODER_BATCH = 4
AUTOENCODER_RATE = 4e-3
SCENES_A_BATCH = 12
EDITS_A_SCENE = 4
CHECKPOINT_SECONDS = 55
_LOG_EVERY = 10


class ImageBatches(Dataset):
    """Batch `step` for the autoencoder: a few scenes of middling size."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __getitem__(self, step: int) -> tuple[Tensor]:
        """The images."""
        rng = np.random.default_rng([self.seed, step])
        return (_pixels([sample_scene(rng, 96).render() for _ in range(AUTOENCODER_BATCH)]),)


class EditBatches(Dataset):
    """Batch `step` of a stage: a pure function of the seed and the step."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage, self.seed, self.tokenizer = stage, seed, build_tokenizer()

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images before (one a scene), images after, token ids, and each edit's scene."""
        rng = np.random.default_rng([self.seed, step])
        before, after, texts, owner = [], [], [], []
        for index in range(SCENES_A_BATCH):
            scene = sample_scene(rng, self.stage.side_px, self.stage.twins)
            edits = sample_edits(rng, scene, self.stage.styles, EDITS_A_SCENE)
            before.append(scene.render())
            after += [edit.edited.render() for edit in edits]
            texts += [edit.instruction for edit in edits]
            owner += [index] * len(edits)
        ids = self.tokenizer(texts, padding="max_length", max_length=TEXT_TOKENS).input_ids
        return _pixels(before), _pixels(after), torch.tensor(ids), torch.tensor(owner)


def _pixels(images: list[np.ndarray]) -> Float[Tensor, "batch 3 height width"]:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


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


def optimizers(pipeline: FluxKontextPipeline) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for everything else that understands the instruction."""
    matrices, rest = [], []
    for module in (pipeline.transformer, pipeline.text_encoder_2, pipeline.text_encoder):
        for name, parameter in module.named_parameters():
            in_block = "block" in name and "relative_attention" not in name
            (matrices if in_block and parameter.ndim == 2 else rest).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=0.01, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=2e-3, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


class Run:
    """One training run: its parts, its clock and its checkpoint."""

    def __init__(self, minutes: float, device: str, out: Path, resume: bool, seed: int) -> None:
        self.seconds, self.device, self.out, self.seed = 60 * minutes, device, out, seed
        out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        self.pipeline = build_pipeline().to(device)
        self.vae_optimizer = torch.optim.AdamW(
            self.pipeline.vae.parameters(), lr=AUTOENCODER_RATE, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.optimizers = optimizers(self.pipeline)
        self.rates = [o.param_groups[0]["lr"] for o in self.optimizers]
        self.step, self.elapsed = 0, 0.0
        self.editor_from: int | None = None  # the step at which the autoencoder was done
        self.curve: list[dict[str, float | str]] = []
        if resume:
            self._restore()
        elif (out / CHECKPOINT).exists():
            raise InputError(f"{out} holds a training run: continue it with --resume, or remove it")
        self._tick = self._saved = time.monotonic()
        self.bar = tqdm(total=round(self.seconds), initial=round(self.elapsed), unit="s")

    @property
    def progress(self) -> float:
        """Share of the time that is spent."""
        return self.elapsed / max(self.seconds, 1e-9)

    def _state(self) -> dict:
        modules = ("vae", "transformer", "text_encoder", "text_encoder_2")
        return {
            "modules": {name: getattr(self.pipeline, name).state_dict() for name in modules},
            "optimizers": [o.state_dict() for o in (self.vae_optimizer, *self.optimizers)],
            "scaling": dict(self.pipeline.vae.config),
            "step": self.step,
            "elapsed": self.elapsed,
            "editor_from": self.editor_from,
            "curve": self.curve,
        }

    def _restore(self) -> None:
        path = self.out / CHECKPOINT
        if not path.exists():
            raise InputError(f"{path} does not exist: there is no training run to resume")
        state = torch.load(path, map_location=self.device, weights_only=True)
        for name, weights in state["modules"].items():
            getattr(self.pipeline, name).load_state_dict(weights)
        restored = zip((self.vae_optimizer, *self.optimizers), state["optimizers"], strict=True)
        for optimizer, values in restored:
            optimizer.load_state_dict(values)
        self._scale(state["scaling"]["shift_factor"], state["scaling"]["scaling_factor"])
        for name in ("step", "elapsed", "editor_from", "curve"):
            setattr(self, name, state[name])

    def _scale(self, shift: float, scale: float) -> None:
        self.pipeline.vae.register_to_config(shift_factor=shift, scaling_factor=scale)

    def save(self) -> None:
        """Replace the checkpoint; a kill leaves the old one or the new one, never half of one."""
        part = self.out / f"{CHECKPOINT}.part"
        with part.open("wb") as file:
            torch.save(self._state(), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.out / CHECKPOINT)
        self._saved = time.monotonic()

    def advance(self, stage: str, **losses: float) -> None:
        """Count one step, its time and its losses; save where a minute has passed."""
        now = time.monotonic()
        self.bar.update(round(self.elapsed + now - self._tick) - round(self.elapsed))
        self.elapsed += now - self._tick
        self._tick = now
        self.step += 1
        if self.step % _LOG_EVERY == 0:
            row = {"step": self.step, "seconds": round(self.elapsed, 1), "stage": stage}
            self.curve.append(row | {name: round(value, 5) for name, value in losses.items()})
            self.bar.set_postfix_str(f"{stage} {losses}")
        if now - self._saved > CHECKPOINT_SECONDS:
            self.save()

    def batches(self, dataset: Dataset) -> Iterator[tuple[Tensor, ...]]:
        """A dataset's batches from the current step on, made beside the training."""
        workers = 1 if self.device == "cpu" else max(1, (os.cpu_count() or 2) - 1)
        steps = itertools.count(self.step)
        loader = DataLoader(
            dataset,
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            multiprocessing_context="fork",
        )
        for batch in loader:
            yield tuple(tensor.to(self.device) for tensor in batch)

    def train_autoencoder(self) -> None:
        """Fit the autoencoder and fix the latent's one global shift and scale."""
        vae = self.pipeline.vae
        if self.editor_from is not None:
            return
        latents = []
        for (images,) in self.batches(ImageBatches(self.seed)):
            share = min(1.0, self.progress / AUTOENCODER_UNTIL)
            warm = min(1.0, (self.step + 1) / 30)
            self.vae_optimizer.param_groups[0]["lr"] = (
                AUTOENCODER_RATE * warm * max(0.02, 1 - share)
            )
            loss = autoencoder_loss(vae, images)
            self.vae_optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            self.vae_optimizer.step()
            with torch.no_grad():
                latents = [*latents[-99:], vae.encode(images).latent_dist.mode()]
            self.advance("autoencoder", loss=loss.item())
            if self.progress >= AUTOENCODER_UNTIL:
                break
        last = torch.cat(latents)
        self._scale(last.mean().item(), 1 / last.std().item())
        self.editor_from = self.step
        self.save()

    def train_editor(self) -> None:
        """Walk through the curriculum."""
        vae = self.pipeline.vae.requires_grad_(False)
        parameters = [p for o in self.optimizers for p in o.param_groups[0]["params"]]
        for stage in STAGES:
            if self.progress >= stage.until:
                continue
            for before, after, ids, owner in self.batches(EditBatches(stage, self.seed)):
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
                pure_noise = torch.rand((), generator=generator).item() < stage.pure_noise
                changed, kept = editor_loss(
                    self.pipeline,
                    encode(vae, before)[owner],
                    encode(vae, after),
                    ids,
                    stage.side_px,
                    pure_noise,
                    stage.noise_tokens,
                    generator,
                )
                steps = self.step - self.editor_from
                ramp = min(1.0, steps / 300)  # copying is learned first
                self._set_rate(steps)
                for optimizer in self.optimizers:
                    optimizer.zero_grad()
                (ramp * changed + kept).backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                for optimizer in self.optimizers:
                    optimizer.step()
                self.advance(stage.name, changed=changed.item(), kept=kept.item())
                if self.progress >= stage.until:
                    break
        self.save()

    def _set_rate(self, steps: int) -> None:
        decay = min(1.0, max(0.02, (1 - self.progress) / 0.3))
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * min(1.0, (steps + 1) / 50) * decay

    def export(self) -> None:
        """Write the pipeline's folder and the loss curve."""
        self.bar.close()
        self.pipeline.save_pretrained(self.out, safe_serialization=True)
        with (self.out / CURVE).open("w", newline="") as file:
            fields = ["step", "seconds", "stage", "loss", "changed", "kept"]
            writer = csv.DictWriter(file, fields)
            writer.writeheader()
            writer.writerows(self.curve)


def train(
    minutes: float,
    device: str = "cpu",
    out: str | Path = "tiny",
    resume: bool = False,
    seed: int = 0,
) -> Path:
    """Train the embedded editor and save it as a `FluxKontextPipeline` folder.

    Args:
        minutes: Time to train, that of earlier interrupted runs included.
        device: "cpu" or "cuda".
        out: Folder of the pipeline, the checkpoint and the curve.
        resume: Continue the run in `out`; at most a minute is lost by a kill.
        seed: Seed of weights, scenes and noise.

    Raises:
        InputError: `out` holds a run and `resume` is not set, or holds none and it is.
    """
    run = Run(minutes, device, Path(out), resume, seed)
    run.train_autoencoder()
    run.train_editor()
    run.export()
    return Path(out)
