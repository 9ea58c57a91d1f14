"""Train the embedded editor on edits of generated scenes only (never on a mask).

Two parts: an autoencoder, then everything that understands the instruction. Both live in one
checkpoint that is replaced once a minute, so that a killed run continues where it was.
"""

from __future__ import annotations

import csv
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ground_probe.errors import InputError
from tools.train_tiny.build import build_pipeline, load_weights
from tools.train_tiny.curriculum import (
    AUTOENCODER_UNTIL,
    EDITS_A_BATCH,
    STAGES,
    WORLDS,
    WORLDS_AUTOENCODER_UNTIL,
    EditBatches,
    ImageBatches,
)
from tools.train_tiny.losses import autoencoder_loss, editor_loss, encode
from tools.train_tiny.optimizers import optimizers

CHECKPOINT = "training.pt"
CURVE = "curve.csv"
AUTOENCODER_RATE = 4e-3
CARTOONS = 0.75
"""Share of cartoons among the autoencoder's images, where both worlds are learned."""
CONTINUED_PACE = 0.4
"""Of the learning rates, where weights go on: they keep what they know."""
CHECKPOINT_SECONDS = 55
_LOG_EVERY = 10


class Run:
    """One training run: its parts, its clock and its checkpoint."""

    def __init__(
        self,
        minutes: float,
        device: str,
        out: Path,
        resume: bool,
        seed: int,
        start: str | Path | None,
    ) -> None:
        self.seconds, self.device, self.out, self.seed = 60 * minutes, device, out, seed
        if dist.is_torchelastic_launched():
            dist.init_process_group("gloo" if device == "cpu" else "nccl")
        together = dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        self.pipeline = build_pipeline().to(device)
        self.continues = start is not None
        self.stages, self.share = (STAGES, 0.0) if start is None else (WORLDS, CARTOONS)
        self.vae_rate = AUTOENCODER_RATE if start is None else 0.5 * AUTOENCODER_RATE
        self.vae_until = AUTOENCODER_UNTIL if start is None else WORLDS_AUTOENCODER_UNTIL
        if start is not None and not resume:
            load_weights(self.pipeline, start)
        self.vae_optimizer = torch.optim.AdamW(
            self.pipeline.vae.parameters(), lr=self.vae_rate, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.optimizers = optimizers(self.pipeline)
        pace = 1.0 if start is None else CONTINUED_PACE
        self.rates = [pace * o.param_groups[0]["lr"] for o in self.optimizers]
        self.step, self.elapsed = 0, 0.0
        self.editor_from: int | None = None  # the step at which the autoencoder was done
        self.curve: list[dict[str, float | str]] = []
        if resume:
            self._restore()
        elif (out / CHECKPOINT).exists():
            raise InputError(f"{out} holds a training run: continue it with --resume, or remove it")
        # a busy machine shortens no stage: on CPU the time is this process's own
        self._clock = time.process_time if device == "cpu" else time.monotonic
        self._tick, self._saved = self._clock(), time.monotonic()
        self.bar = tqdm(
            total=round(self.seconds),
            initial=round(self.elapsed),
            unit="s",
            disable=self.rank > 0,
        )

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
        if self.rank > 0:
            return
        part = self.out / f"{CHECKPOINT}.part"
        with part.open("wb") as file:
            torch.save(self._state(), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.out / CHECKPOINT)
        self._saved = time.monotonic()

    def advance(self, stage: str, **losses: float) -> None:
        """Count one step, its time and its losses; save where a minute has passed."""
        now = self._clock()
        self.bar.update(round(self.elapsed + now - self._tick) - round(self.elapsed))
        self.elapsed += now - self._tick
        self._tick = now
        if self.world > 1:  # the first process's clock ends a stage, for all at once
            clock = torch.tensor([self.elapsed], dtype=torch.float64)
            dist.broadcast(clock, 0)
            self.elapsed = clock.item()
        self.step += 1
        if self.step % _LOG_EVERY == 0:
            row = {"step": self.step, "seconds": round(self.elapsed, 1), "stage": stage}
            self.curve.append(row | {name: round(value, 5) for name, value in losses.items()})
            self.bar.set_postfix_str(f"{stage} {losses}")
        if time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            self.save()

    def batches(self, dataset: Dataset) -> Iterator[tuple[Tensor, ...]]:
        """A dataset's batches from the current step on, made beside the training."""
        workers = 1 if self.device == "cpu" else max(1, (os.cpu_count() or 2) - 1)
        steps = itertools.count(self.step * self.world + self.rank, self.world)
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
        """Fit the autoencoder and fix the latent's one global shift and scale.

        Weights that go on keep their encoder, and so every latent that the denoiser knows.
        """
        vae = self.pipeline.vae
        if self.editor_from is not None:
            return
        vae.encoder.requires_grad_(not self.continues)
        latents = []
        for (images,) in self.batches(ImageBatches(self.seed, self.share)):
            share = min(1.0, self.progress / self.vae_until)
            warm = min(1.0, (self.step + 1) / 30)
            self.vae_optimizer.param_groups[0]["lr"] = self.vae_rate * warm * max(0.02, 1 - share)
            loss = autoencoder_loss(vae, images)
            self.vae_optimizer.zero_grad()
            loss.backward()
            self._share_gradients(list(vae.parameters()))
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            self.vae_optimizer.step()
            if not self.continues:
                with torch.no_grad():
                    latents = [*latents[-99:], vae.encode(images).latent_dist.mode()]
            self.advance("autoencoder", loss=loss.item())
            if self.progress >= self.vae_until:
                break
        if not self.continues:
            last = torch.cat(latents)
            scale = torch.stack([last.mean(), 1 / last.std()])
            if self.world > 1:
                dist.broadcast(scale, 0)
            self._scale(*scale.tolist())
        self.editor_from = self.step
        self.save()

    def train_editor(self) -> None:
        """Walk through the curriculum."""
        vae = self.pipeline.vae.requires_grad_(False)
        parameters = [p for o in self.optimizers for p in o.param_groups[0]["params"]]
        for stage in self.stages:
            if self.progress >= stage.until:
                continue
            edits = EDITS_A_BATCH // self.world
            for before, after, ids, owner in self.batches(EditBatches(stage, self.seed, edits)):
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
                pure_noise = torch.rand((), generator=generator).item() < stage.pure_noise
                generator.manual_seed(generator.initial_seed() * self.world + self.rank)
                steps = self.step - self.editor_from
                ramp = 1.0 if self.continues else min(1.0, steps / 300)  # copying comes first
                self._set_rate(steps)
                for optimizer in self.optimizers:
                    optimizer.zero_grad()
                references, edited = encode(vae, before), encode(vae, after)
                hidden = self.pipeline.text_encoder_2(ids)[0]
                pooled = self.pipeline.text_encoder(ids).pooler_output
                total = torch.zeros(2, device=self.device)
                for scene, reference in enumerate(references):
                    own = owner == scene
                    losses = editor_loss(
                        self.pipeline.transformer,
                        reference,
                        edited[own],
                        hidden[own],
                        pooled[own],
                        stage,
                        pure_noise,
                        generator,
                    )
                    total = total + torch.stack(losses) * own.sum() / len(own)
                (ramp * total[0] + total[1]).backward()
                self._share_gradients(parameters)
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                for optimizer in self.optimizers:
                    optimizer.step()
                changed, kept = total.tolist()
                self.advance(stage.name, changed=changed, kept=kept)
                if self.progress >= stage.until:
                    break
        self.save()

    def _share_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Average the gradients over the processes of a `torchrun`."""
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = (flat / self.world).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def _set_rate(self, steps: int) -> None:
        decay = min(1.0, max(0.02, (1 - self.progress) / 0.4))
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * min(1.0, (steps + 1) / 50) * decay

    def export(self) -> None:
        """Write the pipeline's folder and the loss curve."""
        if self.rank > 0:
            return
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
    start: str | Path | None = None,
) -> Path:
    """Train the embedded editor and save it as a `FluxKontextPipeline` folder.

    Under `torchrun` its processes share every batch out among them.

    Args:
        minutes: Time to train, that of earlier interrupted runs included; on CPU the time that
            the process computed, of several the first.
        device: "cpu" or "cuda".
        out: Folder of the pipeline, the checkpoint and the curve.
        resume: Continue the run in `out`; at most a minute is lost by a kill.
        seed: Seed of weights, scenes and noise.
        start: Pipeline folder whose weights go on with both worlds; None to begin from nothing,
            with scenes alone. A resumed run has to be told again.

    Raises:
        InputError: `out` holds a run and `resume` is not set, or holds none and it is.
    """
    run = Run(minutes, device, Path(out), resume, seed, start)
    run.train_autoencoder()
    run.train_editor()
    run.export()
    return Path(out)
