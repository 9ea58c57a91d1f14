"""How far the image has visibly changed: decoded latents against the decoded reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ground_probe.capture.calls import each_call
from ground_probe.editors import Editor
from ground_probe.errors import UnsupportedEditorError
from ground_probe.stats import bootstrap
from ground_probe.study.samples import Samples

VIEWS = ("latents", "prediction")
PLACES = ("referent", "other objects", "elsewhere")


@contextmanager
def denoiser_inputs(denoiser: nn.Module) -> Iterator[dict[float, Tensor]]:
    """What a denoiser is given while a pipeline runs: its sample, by timestep in order of time."""
    samples: dict[float, Tensor] = {}

    def note(given: dict[str, Any]) -> None:
        sample = given["sample"] if "sample" in given else given["hidden_states"]
        samples.setdefault(float(given["timestep"].flatten()[0]), sample[:1].detach().clone())

    with each_call(denoiser, note):
        yield samples


def decode(
    editor: Editor, latents: Float[Tensor, "batch tokens channels"], size_px: tuple[int, int]
) -> Float[np.ndarray, "batch height width 3"]:
    """Packed latents, as the denoiser is given them, as images of a size, 0 to 1."""
    pipe = editor.pipeline
    config = pipe.vae.config
    if not hasattr(pipe, "_unpack_latents") or not hasattr(config, "scaling_factor"):
        raise UnsupportedEditorError(
            f"{editor.family.pipeline} packs its latents in a way that is not known here: collect "
            "with visible=False"
        )
    with torch.no_grad():
        flat = pipe._unpack_latents(latents.to(editor.device), *size_px, pipe.vae_scale_factor)
        flat = flat / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
        images = pipe.vae.decode(flat.to(pipe.vae.dtype), return_dict=False)[0]
    return pipe.image_processor.postprocess(images, output_type="np")


def change_maps(
    editor: Editor,
    reference: Float[Tensor, "tokens channels"],
    views: Float[Tensor, "views tokens channels"],
    grid: tuple[int, int],
) -> Float[np.ndarray, "views rows cols"]:
    """Mean absolute difference (0 to 1) to the reference, averaged over each token.

    Both sides went through the autoencoder, so that an unchanged image has none.
    """
    token = editor.family.token_px(editor.pipeline)
    size_px = (grid[0] * token, grid[1] * token)
    before = decode(editor, reference[None], size_px)
    # One at a time: a megapixel's activations are large.
    after = np.concatenate([decode(editor, view[None], size_px) for view in views])
    change = np.abs(after - before).mean(-1)
    return change.reshape(len(views), grid[0], token, grid[1], token).mean((2, 4))


def visible_change(test: Samples) -> pd.DataFrame:
    """How far the image has visibly changed: the referent, the other objects and all else.

    `test` is collected with `visible=True`.

    Returns:
        a row for each view ("latents" as they are decoded, "prediction" in one step from them),
        step and place: mean absolute difference to the reference, 0 to 1, with its interval.
    """
    means = test.change_means()
    keys = test.rows.drop_duplicates("key")["image_id"]
    images, image = np.unique(keys, return_inverse=True)
    weights = np.eye(len(images))[image].T
    means = np.einsum("ie,evsp->ivsp", weights / weights.sum(1, keepdims=True), means)
    cells = means.reshape(len(images), -1)
    value, low, high = bootstrap(cells)
    rows = product(VIEWS, test.steps, PLACES)
    table = pd.DataFrame(rows, columns=["view", "step", "place"])
    return table[["view", "place", "step"]].assign(
        sigma=table["step"].map(test.sigmas),
        value=value,
        low=low,
        high=high,
        n_images=(~np.isnan(cells)).sum(0),
    )
