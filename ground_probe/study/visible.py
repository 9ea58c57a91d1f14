"""How far the image has visibly changed: decoded latents against the decoded reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from ground_probe.capture.calls import each_call
from ground_probe.editors import Editor
from ground_probe.inside.decoding import decode
from ground_probe.stats import bootstrap
from ground_probe.study.samples import Samples

VIEWS = ("latents", "prediction")
PLACES = ("referent", "other objects", "elsewhere")


class Calls:
    """What a denoiser is given and returns while a pipeline runs.

    Attributes:
        samples: its sample, by timestep in order of time.
        output: of its last call.
    """

    def __init__(self) -> None:
        self.samples: dict[float, Tensor] = {}
        self.output: Any = None

    @contextmanager
    def of(self, denoiser: nn.Module) -> Iterator[Calls]:
        """Listen to a denoiser."""

        def note(given: dict[str, Any]) -> None:
            sample = given["sample"] if "sample" in given else given["hidden_states"]
            time = float(given["timestep"].flatten()[0])
            self.samples.setdefault(time, sample[:1].detach().clone())

        def keep(module: nn.Module, args: tuple, output: Any) -> None:
            self.output = output

        handle = denoiser.register_forward_hook(keep)
        try:
            with each_call(denoiser, note):
                yield self
        finally:
            handle.remove()


def change_maps(
    editor: Editor,
    image: Image.Image,
    instruction: str,
    reference: Float[Tensor, "tokens channels"],
    views: Float[Tensor, "views tokens channels"],
    output: Any,
) -> Float[np.ndarray, "views rows cols"]:
    """Mean absolute difference (0 to 1) to the decoded reference, averaged over each token.

    Both sides went through the autoencoder, so that an unchanged image has none.

    Args:
        editor, image, instruction, output: see `inside.decode`.
        reference: latents of the reference.
        views: latents to be held against it.
    """
    before, *after = (
        np.asarray(decode(editor, image, instruction, latents[None], output=output)) / 255
        for latents in (reference, *views)
    )
    return editor.geometry(image).soft_labels(np.abs(np.stack(after) - before).mean(-1))


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
