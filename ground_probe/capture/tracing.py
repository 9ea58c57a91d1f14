"""One run of an editor on one image and instruction, as far as needed."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from PIL import Image

from ground_probe.capture.capturing import capturing
from ground_probe.capture.edits import Edit, ReweightPhrase
from ground_probe.capture.options import Options, Reduce
from ground_probe.capture.traces import Trace
from ground_probe.editors.editor import Editor
from ground_probe.editors.phrases import Span
from ground_probe.errors import InputError

_OWN = {"image": "image", "prompt": "instruction", "num_inference_steps": "num_steps"}


def trace(
    editor: Editor,
    image: Image.Image,
    instruction: str,
    phrase: str | Span | None = None,
    *,
    blocks: str | Sequence[str] = "all",
    steps: int | Sequence[int] = (0,),
    streams: str | Sequence[str] | None = None,
    attention: bool | Literal["mean"] = True,
    attention_output: bool = False,
    states: Collection[str] | None = None,
    propagate: int = 0,
    reduce: Reduce | None = None,
    edit: Edit | ReweightPhrase | Sequence[Edit | ReweightPhrase] | None = None,
    roles: str | Sequence[str] = ("cond",),
    affinity: str | Sequence[int] = (),
    mass: bool = False,
    prediction: bool = False,
    gradients: bool = False,
    seed: int = 0,
    num_steps: int | None = None,
    pipeline_kwargs: Mapping[str, Any] | None = None,
) -> Trace:
    """Run an editor as far as needed and return what was asked for.

    ```python
    trace = gp.trace(editor, image, "make the red circle blue", "the red circle")
    trace.hidden[trace.blocks[0], 0, "noise"]       # (tokens, dim)
    trace.attention[trace.blocks[0], 0]             # (heads, image tokens, phrase tokens)
    ```

    Args:
        editor: from `load_editor`.
        image: what to edit.
        instruction: what to change.
        phrase: words of the instruction, or their (start, stop); None for the whole instruction.
        blocks: "all" or globs.
        steps: denoising steps, from 0, of the `num_steps` that the schedule has.
        streams: "noise", "reference", "text"; None for the image streams that there are.
        attention: whether to keep attention to and from the phrase; "mean" averages the heads.
        attention_output: see `capture`, as for all up to `gradients`.
        states: names of blocks whose states and attention outputs are kept; None for all of
            `blocks`, as where attention alone is read of the others.
        seed: of the noise.
        num_steps: of the schedule; None for the pipeline's own default. A schedule of one step is
            not the first step of the model's own schedule.
        pipeline_kwargs: further arguments of the pipeline's call. Guidance is on where it matters:
            after step 0, for other roles, and for a prediction.

    Raises:
        PhraseError: the phrase is not in the instruction or lost its tokens, attended to or not.
        NonFiniteError: a state or map is not finite.
        SilentSiteError: a site did not fire, or an edit took no place.
    """
    options = Options(
        blocks=blocks,
        steps=steps,  # type: ignore[arg-type] # made a tuple
        streams=streams,
        roles=roles,
        attention_to=(instruction, phrase),
        attention=attention,
        attention_output=attention_output,
        states=states,
        propagate=propagate,
        affinity=affinity,
        mass=mass,
        prediction=prediction,
        reduce=reduce,
        edit=edit,
        gradients=gradients,
    )
    if phrase is None and not (attention or options.reweights):
        options = replace(options, attention_to=None)  # a template may drop some words
    more = dict(pipeline_kwargs or {})
    for name in _OWN.keys() & more.keys():
        raise InputError(f"pipeline_kwargs has {name!r}: give it as `{_OWN[name]}`")
    parameters = inspect.signature(type(editor.pipeline).__call__).parameters
    num_steps = num_steps or parameters["num_inference_steps"].default
    if max(options.steps) >= num_steps:
        raise InputError(
            f"step {max(options.steps)} is not in a schedule of {num_steps} steps: "
            f"0 to {num_steps - 1}"
        )
    guided = any(options.steps) or prediction or options.roles != ("cond",)
    given = editor.arguments(image, instruction, seed, guided=guided) | more
    run = capturing(editor.pipeline, options)
    with without_bar(editor.pipeline), torch.no_grad(), run as captured:
        editor.pipeline(**given, num_inference_steps=num_steps)
    captured.geometry = editor.geometry(image) if editor.family.fit else None
    return captured


@contextmanager
def without_bar(pipeline: Any) -> Iterator[None]:
    """A bar that stops early looks like a failure."""
    before = getattr(pipeline, "_progress_bar_config", {})
    pipeline.set_progress_bar_config(**{**before, "disable": True})
    try:
        yield
    finally:
        pipeline._progress_bar_config = before
