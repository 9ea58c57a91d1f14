"""The control that every probe needs: the same network with random weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ground_probe.editors.editor import Editor, load_editor
from ground_probe.errors import InputError


def random_weights(editor: Editor, seed: int = 0) -> Editor:
    """The same editor with every weight tensor of its denoiser in random order.

    ```python
    untrained = random_weights(editor, seed=0)
    ```

    A weight keeps its tensor and loses its place: what was learned is gone, and each matrix, bias
    and modulation keeps its trained values, so its norm. That scale lets the control fail. In a
    fresh initialization the text hardly reaches the image tokens: of the embedded editor another
    instruction moves their states by less than 1 %, those of the trained weights by tens of
    percent and these by ten to twenty.

    Text encoders, autoencoder and schedule are shared with the original, which stays as it is.

    Args:
        editor: from `load_editor`.
        seed: of the order, drawn on the CPU so that devices agree.

    Raises:
        InputError: the weights are not there to be read: offloaded one by one, or packed.
    """
    pipeline, denoiser = editor.pipeline, editor.denoiser
    with torch.random.fork_rng(devices=()):
        fresh = type(denoiser).from_config(denoiser.config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    trained = dict(denoiser.named_parameters())
    for name, weight in fresh.named_parameters():
        source = trained.get(name, torch.empty(0, device="meta"))
        if source.is_meta or not source.is_floating_point() or source.shape != weight.shape:
            raise InputError(
                f"{editor.name}: {name} cannot be put in random order: load the editor without "
                "sequential offload, bitsandbytes and adapters"
            )
        values = source.detach().dequantize().flatten()
        order = torch.randperm(len(values), generator=generator)
        weight.copy_(values[order.to(values.device)].view_as(weight))
    name = next(name for name, part in pipeline.components.items() if part is denoiser)
    fresh = nn.Module.to(fresh, denoiser.device, denoiser.dtype)
    untrained = load_editor(type(pipeline)(**pipeline.components | {name: fresh}))
    return replace(untrained, name=f"{editor.name}, random weights")
