"""What was captured of one run of an editor: tensors by site, and where they lie in the image."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ground_probe.capture.layout import EMPTY, Layout, carrier_of
from ground_probe.capture.showing import in_words, picture
from ground_probe.capture.sites import Captured, require
from ground_probe.errors import UnsupportedEditorError
from ground_probe.geometry import Geometry
from ground_probe.images import png, shown_as_html


@dataclass(repr=False)
class Trace:
    """What was captured of one run. Image tokens are the noise, then the reference.

    ```python
    trace = gp.trace(editor, image, "make the dog red", "the dog")
    trace.hidden["transformer_blocks.1", 0, "reference"]  # block, step, stream
    ```

    Args:
        hidden: (tokens, dim) by (block, step, stream).
        attention: (heads, image tokens, phrase tokens) by (block, step): the probability that an
            image token attends to a token of the phrase.
        attention_from_text: (heads, phrase tokens, image tokens) by (block, step).
        attention_output: (tokens, dim) by (block, step, stream): what the block's attention module
            returns. That is after its output projection, or the joined heads where it has none of
            its own (single blocks of FLUX.1); single blocks of FLUX.2 project their heads together
            with their MLP. Of a block with self- and cross-attention, the first of those chosen.
        propagated: (heads, tokens, phrase tokens) by (block, step, stream): the block's map to the
            phrase, carried on by each head's attention among the stream's tokens. In a UNet, the
            mean map of the block's heads on the grid of the finest chosen blocks, carried on by
            the mean of those blocks' self-attention; (1, tokens of that grid, phrase tokens).
        affinity: (heads, chosen tokens, image tokens) by (block, step).
        key_mass: (heads, keys) by (block, step): the mean probability that a sample of image
            tokens gives to every key.
        prediction: the one-step prediction of the clean latents, by step.
        reference: (tokens, channels), the reference's latents; kept with a prediction.
        blocks: names of the blocks, in the order in which they run.
        steps: denoising steps, from 0.
        sigmas: the noise level, by step.
        timesteps: the time that the denoiser was told, by step, on the scheduler's scale.
        phrase_tokens: the phrase's tokens as the tokenizer spells them.
        phrase_keys: their indices among the text tokens.
        padding: indices of the text tokens that are padding.
        inputs: what the denoiser was given, by step, and what gradients are taken by; kept with
            `gradients`. (1, image tokens, channels) where it takes tokens, else the latents' own
            shape, as (batch, channels, rows, columns) in a UNet.
        layout: the token grids.
        geometry: how the image lies on the reference's grid; None where that is not known.
        device, dtype: where, and in which number format, the denoiser ran.
    """

    hidden: Captured = field(default_factory=Captured)
    attention: Captured = field(default_factory=Captured)
    attention_from_text: Captured = field(default_factory=Captured)
    affinity: Captured = field(default_factory=Captured)
    key_mass: Captured = field(default_factory=Captured)
    prediction: dict[int, Tensor] = field(default_factory=dict)
    blocks: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    sigmas: dict[int, float] = field(default_factory=dict)
    timesteps: dict[int, float] = field(default_factory=dict)
    phrase_tokens: tuple[str, ...] = ()
    phrase_keys: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    layout: Layout = field(default=EMPTY, repr=False)
    geometry: Geometry | None = None
    reference: Tensor | None = None
    attention_output: Captured = field(default_factory=Captured)
    propagated: Captured = field(default_factory=Captured)
    device: str | torch.device = "cpu"
    dtype: str | torch.dtype = "float32"
    inputs: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return in_words(self)

    def _repr_png_(self) -> bytes | None:
        shown = picture(self)
        return None if shown is None else png(shown)

    def _repr_html_(self) -> str:
        words = (
            "attention to the phrase: a column a block, a row a head, each on its own scale; "
            f"step {self.steps[0] if self.steps else '-'}, {carrier_of(self.layout.grids)} tokens"
        )
        return shown_as_html(repr(self), picture(self), words)

    def change(self, step: int) -> Float[Tensor, "rows cols"]:
        """How far a step's prediction of the clean latents is from the reference.

        The mean absolute difference over channels, on the token grid. Needs `prediction=True`.

        Raises:
            UnsupportedEditorError: an editor without reference tokens, or of another grid.
        """
        grids = self.layout.grids
        if self.reference is None or grids["noise"] != grids["reference"][:1]:
            raise UnsupportedEditorError(
                "what a step would change is known only where the reference's latents are tokens "
                f"on the grid of the noise, not for {dict(grids)}: take the prior from attention"
            )
        (predicted,), (grid,) = self.prediction[step], grids["noise"]
        return (predicted - self.reference[: len(predicted)]).abs().mean(-1).view(grid)

    def grid(self, stream: str, block: str | None = None) -> Geometry:
        """How a stream's tokens lie in the image.

        Args:
            stream: "noise" or "reference".
            block: needed only where blocks differ in their grids, as those of a UNet do.
        """
        require("stream", (stream,), tuple(self.layout.grids))
        if self.geometry is None:
            raise UnsupportedEditorError(
                "how this pipeline brings an image to its own size is not known: "
                f"its {stream} grid is {self.layout.grids[stream]}"
            )
        grid = self.layout.grids[stream][0]
        if block is not None and not self.layout.joint:
            site = block, self.steps[0]
            if site in self.attention:
                tokens = self.attention[site].shape[1]
            else:
                tokens = len(self.hidden[(*site, stream)])
            grid = self.layout.grid_of(tokens)
        return replace(self.geometry, grid=grid)

    def image_tokens(self, stream: str) -> slice:
        """Where a stream lies among the image tokens of an attention map."""
        require("stream", (stream,), tuple(self.layout.grids))
        return self.layout.within_image(stream) if self.layout.joint else slice(None)

    def mass(self, block: str, step: int) -> dict[str, float]:
        """How much an image token attends, on average, to each kind of token; sums to 1."""
        text = mass = self.key_mass[block, step].mean(0)
        streams = {}
        if self.layout.joint:
            text_at, image_at = self.layout.within_sequence()
            text, image = mass[text_at], mass[image_at]
            for stream in self.layout.grids:
                streams[stream] = float(image[self.layout.within_image(stream)].sum())
        parts = {"phrase": list(self.phrase_keys), "padding": list(self.padding)}
        masses = {name: float(text[at].sum()) for name, at in parts.items()}
        return masses | {"other text": float(text.sum()) - sum(masses.values())} | streams

    def save(self, path: str | Path) -> None:
        """Write the trace to a file, whole or not at all; `load_trace` reads it."""
        from ground_probe.capture.files import save_trace

        save_trace(self, path)
