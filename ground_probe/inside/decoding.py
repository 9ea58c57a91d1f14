"""From latents to an image, through the pipeline's own last stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ground_probe.editors import Editor, wrapped
from ground_probe.inside.running import same_draws, unguided


def decode(
    editor: Editor,
    image: Image.Image,
    instruction: str,
    latents: Tensor,
    *,
    output: Any = None,
    pipeline_kwargs: Mapping[str, Any] | None = None,
) -> Image.Image:
    """The image that latents become.

    ```python
    trace = gp.trace(editor, image, instruction, prediction=True)
    gp.decode(editor, image, instruction, trace.prediction[0])  # what the first step would give
    ```

    The pipeline is called with one step whose outcome are the latents, so that unpacking, scaling
    and the autoencoder are its own and nothing is copied from it.

    Args:
        image: what is edited, for its size.
        instruction: any; it is encoded and has no effect.
        latents: as the scheduler holds them, such as `trace.prediction[step]`.
        output: of the denoiser in an earlier call; None computes one, whose values are not used.
        editor, pipeline_kwargs: as of `trace`.
    """

    def ended(call: Callable, model_output: Tensor, timestep: Any, sample: Tensor, *args, **kwargs):  # type: ignore[no-untyped-def]
        result = call(model_output, timestep, sample, *args, **kwargs)
        if isinstance(result, tuple):
            return (latents.to(sample), *result[1:])
        result.prev_sample = latents.to(sample)
        return result

    def denoised(call: Callable, *args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs) if output is None else output

    given = editor.arguments(image, instruction) | unguided(editor, pipeline_kwargs)
    with (
        torch.no_grad(),
        same_draws(editor, 0),
        wrapped(editor.denoiser, "forward", denoised),
        wrapped(editor.pipeline.scheduler, "step", ended),
    ):
        decoded = editor.pipeline(**given, num_inference_steps=1).images[0]
    return decoded.resize(image.size, Image.Resampling.LANCZOS)
