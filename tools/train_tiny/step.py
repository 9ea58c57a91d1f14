"""One training step of the editor, from scenes of the pool to new weights."""

from __future__ import annotations

import torch
from diffusers import FluxKontextPipeline
from torch import Tensor

from tools.train_tiny.examples import EDITS_A_SCENE
from tools.train_tiny.losses import is_changed, mean_where, token_weights, velocity_error
from tools.train_tiny.pool import LatentPool
from tools.train_tiny.schedule import Stage


class EditorStep:
    """What a GPU can record: it never waits for the device, and what changes is changed in place.

    Args:
        pipeline: The editor.
        optimizers: Of its weights; their rates are tensors.
        pool: Not empty when a step is taken.
        scenes: In a batch.
        generator: Of everything random but the choice of scenes.
    """

    def __init__(
        self,
        pipeline: FluxKontextPipeline,
        optimizers: list[torch.optim.Optimizer],
        pool: LatentPool,
        scenes: int,
        generator: torch.Generator | None,
    ) -> None:
        self.pipeline, self.optimizers, self.pool = pipeline, optimizers, pool
        self.generator = generator
        self.places = torch.zeros(scenes, dtype=torch.long, device=pool.device)
        self.ramp = torch.ones((), device=pool.device)

    def take(self, stage: Stage) -> tuple[Tensor, Tensor]:
        """Step all optimizers once; the errors where the edits change something, and elsewhere."""
        with torch.autocast(self.pool.device, torch.bfloat16):
            loss, changed, kept = self.losses(stage)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        parameters = [p for o in self.optimizers for p in o.param_groups[0]["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        return changed.detach(), kept.detach()

    def losses(self, stage: Stage) -> tuple[Tensor, Tensor, Tensor]:
        """What to minimize, the error where the edits change something, and elsewhere."""
        reference, edited, ids = self.pool.at(self.places)
        ids = ids.flatten(0, 1)
        error, there, sigma = velocity_error(
            self.pipeline.transformer,
            reference.repeat_interleave(EDITS_A_SCENE, dim=0),
            edited.flatten(0, 1),
            self.pipeline.text_encoder_2(ids)[0],
            self.pipeline.text_encoder(ids).pooler_output,
            stage.pure_noise,
            stage.noise_tokens,
            self.generator,
        )
        changes = is_changed(reference, edited)
        here = changes.flatten(0, 1)[:, there]
        changed, kept = mean_where(error, here), mean_where(error, ~here)
        is_even = stage.is_even & (sigma == 1).view(changes.shape[:2])
        weights = token_weights(changes, is_even, self.ramp).flatten(0, 1)[:, there]
        loss = (error * weights).sum(1).mean() / stage.noise_tokens
        return loss, changed, kept
