"""The control that every probe needs: the same network with random weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ground_probe.editors.editor import Editor, load_editor


def random_weights(editor: Editor, seed: int = 0) -> Editor:
    """The same editor with a denoiser drawn anew: architecture without training.

    Text encoders, autoencoder and schedule are shared with the original, which stays as it is.
    """
    pipeline, denoiser = editor.pipeline, editor.denoiser
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        fresh = type(denoiser).from_config(denoiser.config).eval().requires_grad_(False)
    name = next(name for name, part in pipeline.components.items() if part is denoiser)
    fresh = nn.Module.to(fresh, denoiser.device, denoiser.dtype)
    untrained = load_editor(type(pipeline)(**pipeline.components | {name: fresh}))
    return replace(untrained, name=f"{editor.name}, random weights")
