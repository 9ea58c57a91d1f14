"""Train the embedded editor on edits of generated scenes only (never on a mask).

Two parts: an autoencoder, then everything that understands the instruction. Both live in one
checkpoint that is replaced once a minute, so that a killed run continues where it was.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from diffusers import FluxKontextPipeline
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ground_probe.errors import InputError
from ground_probe.io import whole_file
from tools.train_tiny.build import build_pipeline
from tools.train_tiny.examples import EditChunks, ImageChunks
from tools.train_tiny.graphs import repeatable
from tools.train_tiny.losses import autoencoder_loss
from tools.train_tiny.optimizers import optimizers
from tools.train_tiny.pool import Ahead, LatentPool, pixels
from tools.train_tiny.schedule import GOING_ON, RATE_GOING_ON, SCALES, STAGES
from tools.train_tiny.step import EditorStep

MODULES = ("vae", "transformer", "text_encoder", "text_encoder_2")
PROGRESS = ("step", "chunks", "elapsed", "editor_from", "curve")
CHECKPOINT = "training.pt"
CURVE = "curve.csv"
AUTOENCODER_UNTIL = 0.08
AUTOENCODER_RATE = 4e-3
CHECKPOINT_SECONDS = 55
_LOG_EVERY = 10
_FILL_EVERY = 8


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
        self.scale = SCALES[device]
        out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        torch.set_float32_matmul_precision("high")
        # with cuDNN's attention, or workers forked beside CUDA, memory was accessed illegally
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.pipeline = build_pipeline().to(device)
        self.vae_optimizer = torch.optim.AdamW(
            self.pipeline.vae.parameters(),
            lr=AUTOENCODER_RATE,
            betas=(0.9, 0.99),
            weight_decay=0.0,
        )
        self.optimizers = optimizers(self.pipeline)
        self.rates = [o.param_groups[0]["lr"].item() for o in self.optimizers]
        self.step, self.chunks, self.elapsed = 0, 0, 0.0
        self.editor_from: int | None = None  # the step at which the autoencoder was done
        self.curve: list[dict[str, float | str]] = []
        if resume:
            self._restore()
        elif (out / CHECKPOINT).exists():
            raise InputError(f"{out} holds a training run: continue it with --resume, or remove it")
        elif start is not None:
            self._go_on(start)
        # a busy machine shortens no stage: on CPU the time is this process's own
        self._clock = time.process_time if device == "cpu" else time.monotonic
        self._tick, self._saved = self._clock(), time.monotonic()
        self.bar = tqdm(total=round(self.seconds), initial=round(self.elapsed), unit="s")

    @property
    def progress(self) -> float:
        """Share of the time that is spent."""
        return self.elapsed / max(self.seconds, 1e-9)

    def _state(self) -> dict:
        return {
            "modules": {name: getattr(self.pipeline, name).state_dict() for name in MODULES},
            "optimizers": [o.state_dict() for o in (self.vae_optimizer, *self.optimizers)],
            "scaling": dict(self.pipeline.vae.config),
            **{name: getattr(self, name) for name in PROGRESS},
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
        for name in PROGRESS:
            setattr(self, name, state[name])

    def _go_on(self, folder: str | Path) -> None:
        """Begin with the weights of a pipeline of this shape; its autoencoder is kept."""
        earlier = FluxKontextPipeline.from_pretrained(folder)
        for name in MODULES:
            getattr(self.pipeline, name).load_state_dict(getattr(earlier, name).state_dict())
        config = earlier.vae.config
        self._scale(config.shift_factor, config.scaling_factor)
        self.editor_from = 0

    def _scale(self, shift: float, scale: float) -> None:
        self.pipeline.vae.register_to_config(shift_factor=shift, scaling_factor=scale)

    def save(self) -> None:
        """Replace the checkpoint; a kill leaves the old one or the new one, never half of one."""
        with whole_file(self.out / CHECKPOINT) as part:
            torch.save(self._state(), part)
        self._saved = time.monotonic()

    def advance(self, stage: str, **losses: Tensor) -> None:
        """Count one step, its time and its losses; save where a minute has passed."""
        self.step += 1
        if self.step % _LOG_EVERY == 0:  # reading a loss waits for the device
            row = {"step": self.step, "seconds": round(self.elapsed, 1), "stage": stage}
            self.curve.append(row | {name: round(v.item(), 5) for name, v in losses.items()})
            self.bar.set_postfix_str(str(self.curve[-1]))
        now = self._clock()
        self.bar.update(round(self.elapsed + now - self._tick) - round(self.elapsed))
        self.elapsed += now - self._tick
        self._tick = now
        if time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            self.save()

    def made(self, dataset: Dataset) -> Iterator:
        """A dataset's chunks from the current one on, made by processes beside the training."""
        return iter(
            DataLoader(
                dataset,
                batch_size=None,
                sampler=itertools.count(self.chunks),
                num_workers=self.scale.workers,
                multiprocessing_context="spawn" if self.device == "cuda" else "fork",
            )
        )

    def train_autoencoder(self) -> None:
        """Fit the autoencoder and fix the latent's one global shift and scale."""
        vae = self.pipeline.vae
        if self.editor_from is not None:
            return
        latents: list[Tensor] = []
        for images in self.made(ImageChunks(self.seed)):
            images = pixels(images.to(self.device))
            decay = max(0.02, 1 - self.progress / AUTOENCODER_UNTIL)
            rate = AUTOENCODER_RATE * min(1.0, (self.step + 1) / 30) * decay
            self.vae_optimizer.param_groups[0]["lr"] = rate
            loss = autoencoder_loss(vae, images)
            self.vae_optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            self.vae_optimizer.step()
            with torch.no_grad():
                latents = [*latents[-99:], vae.encode(images).latent_dist.mode()]
            self.chunks += 1
            self.advance("autoencoder", loss=loss)
            if self.progress >= AUTOENCODER_UNTIL:
                break
        last = torch.cat(latents)
        self._scale(last.mean().item(), 1 / last.std().item())
        self.editor_from = self.step
        self.save()

    def train_editor(self) -> None:
        """Learn to follow instructions, from a pool that fills beside it."""
        vae = self.pipeline.vae.requires_grad_(False)
        pool = LatentPool(vae, self.scale.pool, self.device)
        ahead = Ahead(self.made(EditChunks(self.seed)), most=self.scale.first)
        seed = self.seed * 1_000_003 + self.step
        choosing = torch.Generator().manual_seed(seed)
        generator = torch.Generator(self.device).manual_seed(seed)
        step = EditorStep(self.pipeline, self.optimizers, pool, self.scale.scenes, generator)
        if self.device == "cuda":
            self.pipeline.transformer.compile_repeated_blocks(dynamic=False)
        with warnings.catch_warnings():
            # said once, of norms whose weights are in single precision; they are right as they are
            warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
            for stage in STAGES if self.editor_from else GOING_ON:
                take = None
                while self.progress < stage.until:
                    self._fill(pool, ahead)
                    self._adjust(step)
                    step.places.copy_(pool.sample(self.scale.scenes, choosing))
                    take = take or repeatable(partial(step.take, stage), generator)
                    changed, kept = take()
                    self.advance(stage.name, changed=changed, kept=kept)
        self.save()

    def _fill(self, pool: LatentPool, ahead: Ahead) -> None:
        """Take in what was drawn meanwhile; wait for it where there is too little to begin."""
        while (few := len(pool) < self.scale.first) or self.step % _FILL_EVERY == 0:
            if chunks := ahead.take(at_least=few):
                pool.add(chunks)
                self.chunks += len(chunks)
            if not few:
                return
            self.bar.set_postfix_str(f"{len(pool)} of {self.scale.first} scenes to begin with")

    def _adjust(self, step: EditorStep) -> None:
        """Set what changes with time: the rates, and the share of what edits change."""
        steps = self.step - (self.editor_from or 0)
        decay = min(1.0, max(0.02, (1 - self.progress) / 0.5))
        share = min(1.0, (steps + 1) / 50) * decay
        if self.editor_from:
            step.ramp.fill_(min(1.0, steps / 300))  # copying comes first
        else:
            share *= RATE_GOING_ON
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"].fill_(rate * share)

    def export(self) -> None:
        """Write the pipeline's folder and the loss curve."""
        self.bar.close()
        self.pipeline.save_pretrained(self.out, safe_serialization=True)
        columns = ["step", "seconds", "stage", "loss", "changed", "kept"]
        pd.DataFrame(self.curve, columns=columns).to_csv(self.out / CURVE, index=False)


def train(
    minutes: float,
    device: str = "cpu",
    out: str | Path = "tiny",
    resume: bool = False,
    seed: int = 0,
    start: str | Path | None = None,
) -> Path:
    """Train the embedded editor and save it as a `FluxKontextPipeline` folder, which is returned.

    Args:
        minutes: Time to train, that of earlier interrupted runs included; on CPU the time that
            the process computed.
        device: "cpu" or "cuda".
        out: Folder of the pipeline, the checkpoint and the curve.
        resume: Continue the run in `out`; at most a minute is lost by a kill.
        seed: Seed of weights, scenes and noise.
        start: Pipeline folder to go on from with a new clock and new optimizers; its autoencoder is
            kept. None to begin from nothing.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device was found: train on the CPU (--device cpu), for hours")
    run = Run(minutes, device, Path(out), resume, seed, start)
    try:
        run.train_autoencoder()
        run.train_editor()
    except KeyboardInterrupt:
        run.save()
        raise
    run.export()
    return Path(out)
