"""What a family of editing pipelines is described by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ground_probe.geometry import Mode

Size = tuple[int, int]


class Fit(NamedTuple):
    """How a pipeline brings an image to its own size.

    Args:
        native: (height, width) px of the image that is encoded.
        mode: see `Geometry`.
        box: what it covers of the original; None for the mode's default.
    """

    native: Size
    mode: Mode = "stretch"
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Family:
    """Facts about a pipeline class.

    ```python
    gp.register_family(gp.Family(name="Mine", pipeline=MyPipeline, ...))
    ```

    Args:
        name: how the project calls it.
        pipeline: its class in diffusers.
        weights: where open weights are.
        licence: of the weights.
        parameters_b: of the denoiser, in billions.
        memory_gb: of the weights in bfloat16, text encoder included.
        fit: how an image of a (height, width) is brought to the pipeline's size; None if unknown.
        sized: whether `height` and `width` must be passed for equal noise and reference grids.
        resize: whether the image must be brought there before the call.
        arguments: further keyword arguments of every call.
        guided: keyword arguments that turn classifier-free guidance on, beyond the defaults.
        unguided: keyword arguments that turn it off.
        streams: whose hidden states the blocks hold.
        rows: the roles of the rows of a guided batch.
        calls: the roles of a step's denoiser calls.
        text_first: text comes before image tokens in the sequence and in a block's outputs.
        token_px: the side of a token in px of the native image.
        words: it takes the instruction as it is said, not in a form of its own.
        prepare: mends what the pipeline gets wrong, once, when it is loaded.
        note: what a user should know.
    """

    name: str
    pipeline: str
    weights: str = ""
    licence: str = ""
    parameters_b: float | None = None
    memory_gb: float | None = None
    fit: Callable[[Any, Size], Fit] | None = None
    sized: bool = True
    resize: Callable[[Any], bool] = field(default=lambda pipe: False)
    arguments: Callable[[Any, Size], Mapping[str, Any]] = field(default=lambda pipe, native: {})
    guided: Mapping[str, Any] = field(default_factory=dict)
    unguided: Mapping[str, Any] = field(default_factory=dict)
    streams: tuple[str, ...] = ("noise", "reference", "text")
    rows: tuple[str, ...] = ("cond",)
    calls: tuple[str, ...] = ("cond", "uncond")
    text_first: bool = True
    token_px: Callable[[Any], int] = field(default=lambda pipe: 2 * pipe.vae_scale_factor)
    words: bool = True
    prepare: Callable[[Any], None] = field(default=lambda pipe: None)
    note: str = ""
