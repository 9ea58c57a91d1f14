"""One run of an editor on one image and instruction, and what was captured of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ground_probe.capture.hooks import Capture, capture
from ground_probe.capture.layout import Layout
from ground_probe.capture.sites import Captured
from ground_probe.editors.editor import Editor
from ground_probe.editors.phrases import Span
from ground_probe.errors import InputError, UnsupportedEditorError, unknown
from ground_probe.geometry import Geometry


class Sink(NamedTuple):
    """A key that soaks up attention.

    Args:
        stream: "padding", "text", "noise" or "reference".
        token: which of the text's tokens, or of the image stream's.
        probability: the mean that image tokens give to it.
    """

    stream: str
    token: int
    probability: float


@dataclass(frozen=True)
class Trace:
    """What was captured of one run. Image tokens are the noise, then the reference.

    Args:
        hidden: (tokens, dim) by (block, step, stream).
        attention: (heads, image tokens, phrase tokens) by (block, step): the probability that an
            image token attends to a token of the phrase.
        attention_from_text: (heads, phrase tokens, image tokens) by (block, step).
        affinity: (heads, chosen tokens, image tokens) by (block, step).
        key_mass: (heads, keys) by (block, step): the mean probability that a sample of image
            tokens gives to every key.
        prediction: the one-step prediction of the clean latents, by step.
        reference: (tokens, channels), the reference's latents; kept with a prediction.
        attention_output: (tokens, dim) by (block, step, stream): what the block's attention module
            returns. That is after its output projection, or the joined heads where it has none of
            its own (single blocks of FLUX.1); single blocks of FLUX.2 project their heads together
            with their MLP. Of a block with self- and cross-attention, the first of those chosen.
        propagated: (heads, tokens, phrase tokens) by (block, step, stream): the block's map to the
            phrase, carried on by each head's attention among the stream's tokens. In a UNet, the
            mean map of the block's heads on the grid of the finest chosen blocks, carried on by
            the mean of those blocks' self-attention; (1, tokens of that grid, phrase tokens).
        device: where the denoiser ran.
        blocks: names of the blocks, in the order in which they run.
        steps: denoising steps, from 0.
        sigmas: the noise level, by step.
        timesteps: what the model was given, by step.
        phrase_tokens: the phrase's tokens as the tokenizer spells them.
        padding: indices of the text tokens that are padding.
        layout: the token grids.
        geometry: how the image lies on the reference's grid.
    """

    hidden: Captured
    attention: Captured
    attention_from_text: Captured
    affinity: Captured
    key_mass: Captured
    prediction: Mapping[int, Tensor]
    blocks: tuple[str, ...]
    steps: tuple[int, ...]
    sigmas: Mapping[int, float]
    timesteps: Mapping[int, float]
    phrase_tokens: tuple[str, ...]
    phrase_keys: tuple[int, ...]
    padding: tuple[int, ...]
    layout: Layout = field(repr=False)
    geometry: Geometry | None
    reference: Tensor | None = None
    attention_output: Captured = field(default_factory=Captured)
    propagated: Captured = field(default_factory=Captured)
    device: str | torch.device = "cpu"

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
        if stream not in self.layout.grids:
            raise unknown("stream", stream, self.layout.grids)
        if self.geometry is None:
            raise UnsupportedEditorError(
                "how this pipeline brings an image to its own size is not known: "
                f"its {stream} grid is {self.layout.grids[stream]}"
            )
        grid = self.layout.grids[stream][0]
        if block is not None and not self.layout.joint:
            maps = self.attention.get((block, self.steps[0]))
            states = self.hidden.get((block, self.steps[0], stream))
            tokens = maps.shape[1] if maps is not None else len(states)
            grid = self.layout.grid_of(tokens)
        return replace(self.geometry, grid=grid)

    def image_tokens(self, stream: str) -> slice:
        """Where a stream lies among the image tokens of an attention map."""
        if stream not in self.layout.grids:
            raise unknown("stream", stream, self.layout.grids)
        return self.layout.within_image(stream) if self.layout.joint else slice(None)

    def mass(self, block: str, step: int) -> dict[str, float]:
        """How much an image token attends, on average, to each kind of token; sums to 1."""
        mass = self.key_mass[block, step].mean(0)
        if self.layout.joint:
            text_at, image_at = self.layout.within_sequence()
            text, image = mass[text_at], mass[image_at]
        else:
            text, image = mass, mass[:0]
        parts = {"phrase": list(self.phrase_keys), "padding": list(self.padding)}
        found = {name: float(text[at].sum()) for name, at in parts.items()}
        found["other text"] = float(text.sum()) - sum(found.values())
        for stream in self.layout.grids if self.layout.joint else ():
            found[stream] = float(image[self.layout.within_image(stream)].sum())
        return found

    def sinks(self, block: str, step: int, count: int = 5) -> list[Sink]:
        """The keys that image tokens attend to most, on average over them and the heads."""
        mass = self.key_mass[block, step].mean(0)
        found = []
        for key in mass.argsort(descending=True)[:count].tolist():
            stream, token = self._stream_of(key)
            found.append(Sink(stream, token, float(mass[key])))
        return found

    def _stream_of(self, key: int) -> tuple[str, int]:
        """Which stream a key belongs to, and which token of it."""
        places = {"text": slice(0, self.layout.text)}
        if self.layout.joint:
            places["text"], image = self.layout.within_sequence()
            for stream in self.layout.grids:
                within = self.layout.within_image(stream)
                places[stream] = slice(image.start + within.start, image.start + within.stop)
        stream, at = next((s, at) for s, at in places.items() if at.start <= key < at.stop)
        token = key - at.start
        return ("padding" if stream == "text" and token in self.padding else stream), token


def trace(
    editor: Editor,
    image: Image.Image,
    instruction: str,
    phrase: str | Span | None = None,
    *,
    steps: Sequence[int] = (0,),
    blocks: str | Sequence[str] = "all",
    streams: Sequence[str] | None = None,
    attention: bool | Literal["mean"] = True,
    attention_output: bool = False,
    propagate: int = 0,
    keep: Any = None,
    seed: int = 0,
    affinity: str | Sequence[int] = (),
    mass: bool = False,
    prediction: bool = False,
    roles: Sequence[str] = ("cond",),
    interventions: Sequence[Any] = (),
    num_steps: int | None = None,
    **arguments: Any,
) -> Trace:
    """Run an editor as far as needed and return what was asked for.

    Args:
        editor: from `load_editor`.
        image: what to edit.
        instruction: what to change.
        phrase: words of the instruction, or their (start, stop); None for the whole instruction.
        steps: denoising steps, from 0, of the `num_steps` that the schedule has.
        blocks: "all" or globs.
        streams: "noise", "reference", "text"; None for the image streams that there are.
        attention: whether to keep attention to and from the phrase; "mean" averages the heads.
        attention_output: whether to keep what the blocks' attention modules return, of the streams
            that `streams` says.
        propagate: how often to carry the maps to the phrase on by attention within each image
            stream that `streams` names, or within each that there is.
        keep: reduces each hidden state and attention output on its device: `keep_tokens(256)`.
        seed: of the noise.
        affinity: image tokens, or a stream, whose attention to all image tokens is kept.
        mass: whether to keep how image tokens spread their attention over all keys.
        prediction: whether to keep the one-step prediction of the clean latents.
        roles: forwards of classifier-free guidance: "cond", "image_only", "uncond".
        interventions: changes made on the way, see `ground_probe.capture.interventions`.
        num_steps: of the schedule; None for the pipeline's own default. A schedule of one step is
            not the first step of the model's own schedule.
        arguments: further arguments of the pipeline's call. Guidance is on where it matters: after
            step 0, for other roles, and for a prediction.

    Raises:
        PhraseError: the phrase is not in the instruction or lost its tokens, attended to or not.
        SilentSiteError: a site did not fire.
    """
    num_steps = num_steps or _default_steps(type(editor.pipeline))
    steps = (steps,) if isinstance(steps, int) else tuple(steps)
    if steps and max(steps) >= num_steps:
        raise InputError(
            f"step {max(steps)} is not in a schedule of {num_steps} steps: 0 to {num_steps - 1}"
        )
    capturing = capture(
        editor.pipeline,
        blocks,
        steps=steps,
        streams=streams,
        roles=roles,
        instruction=instruction,
        phrase=phrase,
        attention=attention,
        attention_output=attention_output,
        propagate=propagate,
        affinity=affinity,
        mass=mass,
        prediction=prediction,
        keep=keep,
        interventions=interventions,
    )
    guided = any(steps) or prediction or capturing.wanted.roles != ("cond",)
    given = editor.arguments(image, instruction, seed, guided=guided) | arguments
    before = getattr(editor.pipeline, "_progress_bar_config", {})
    # A bar that stops early looks like a failure.
    editor.pipeline.set_progress_bar_config(**{**before, "disable": True})
    try:
        with capturing as captured, torch.no_grad():
            editor.pipeline(**given, num_inference_steps=num_steps)
    finally:
        editor.pipeline._progress_bar_config = before
    return _trace(captured, editor.geometry(image) if editor.family.fit else None)


def _trace(captured: Capture, geometry: Geometry) -> Trace:
    keys = captured.keys
    return Trace(
        **{
            part.name: getattr(captured, part.name)
            for part in fields(Trace)
            if hasattr(captured, part.name)
        },
        steps=tuple(captured.wanted.steps),
        phrase_tokens=keys.tokens if keys else (),
        phrase_keys=tuple(keys.phrase.tolist()) if keys else (),
        padding=tuple(keys.padding.tolist()) if keys else (),
        geometry=geometry,
    )


@cache
def _default_steps(pipeline: type) -> int:
    return inspect.signature(pipeline.__call__).parameters["num_inference_steps"].default
