"""The context manager that listens to a pipeline, stops it early and leaves no hook behind."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ground_probe.capture.edits import Edit, ReweightPhrase
from ground_probe.capture.options import Options, Reduce, Words
from ground_probe.capture.run import Run
from ground_probe.capture.traces import Trace
from ground_probe.editors.editor import denoiser_of
from ground_probe.errors import InputError, SilentSiteError, UnsupportedEditorError

_open: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_opening = threading.Lock()
# Hooks of diffusers that skip blocks or hand on stored outputs instead of computing them.
_SKIPPING = ("cache", "fbc", "pyramid", "layer_skip", "taylorseer", "smoothed_energy")


def capture(
    pipeline: Any,
    blocks: str | Sequence[str] = "all",
    steps: int | Sequence[int] = (0,),
    streams: str | Sequence[str] | None = None,
    attention_to: Words | None = None,
    reduce: Reduce | None = None,
    edit: Edit | ReweightPhrase | Sequence[Edit | ReweightPhrase] | None = None,
    stop: bool = True,
    *,
    roles: str | Sequence[str] = ("cond",),
    attention_output: bool = False,
    propagate: int = 0,
    affinity: str | Sequence[int] = (),
    mass: bool = False,
    prediction: bool = False,
    gradients: bool = False,
) -> AbstractContextManager[Trace]:
    """Capture from anybody's own call of a pipeline, which is stopped once all is there.

    ```python
    with gp.capture(pipe, "transformer_blocks.*", attention_to="the red circle") as captured:
        pipe(image=image, prompt="make the red circle blue")
    captured.hidden["transformer_blocks.0", 0, "noise"]     # (tokens, dim)
    captured.attention["transformer_blocks.0", 0]           # (heads, image tokens, phrase tokens)
    ```

    Args:
        pipeline: a diffusers editing pipeline.
        blocks: "all", or globs over the names of blocks and of their attention modules; none of
            them to only edit.
        steps: denoising steps, from 0.
        streams: "noise", "reference", "text", whose states are kept; None for the image streams
            that there are.
        attention_to: words of the prompt; (prompt, words) or (prompt, (start, stop)) where they
            stand there more than once, (prompt, None) for all of it.
        reduce: reduces each hidden state and attention output on its device, as
            `keep_tokens(256)`; None keeps it whole, in float32 on the CPU.
        edit: one or several functions of (site, states), called in each of `blocks` with what it
            hands on in a stream, that return what takes its place or None; also `ReplaceRows` and
            `ReweightPhrase`.
        stop: whether to end the call once all is there. It returns nothing then.
        roles: forwards of classifier-free guidance: "cond", "image_only", "uncond".
        attention_output: whether to keep what the blocks' attention modules return.
        propagate: how often to carry the maps to the phrase on by attention within each image
            stream that `streams` names, or within each that there is.
        affinity: image tokens, or a stream, whose attention to all image tokens is kept.
        mass: whether to keep how much a sample of image tokens attends to every key.
        prediction: whether to keep the one-step prediction of the clean latents.
        gradients: whether states and attention outputs stay in the graph that begins at `inputs`,
            what the denoiser is given at each step: `torch.autograd.grad(score, trace.inputs[0])`
            of any score of them. Maps and predictions carry none, and neither does the way from
            one step to the next.

    Raises:
        UnknownNameError: a block, stream or role that does not exist.
        UnsupportedEditorError: a pipeline that cannot be captured faithfully.
        PhraseError: the words are not in the prompt, or lost their tokens.
        NonFiniteError: a state or map is not finite.
        SilentSiteError: on leaving, when a site asked for did not fire or an edit took no place.
    """
    options = Options(
        blocks=blocks,
        steps=steps,  # type: ignore[arg-type] # made a tuple
        streams=streams,
        roles=roles,
        attention_to=attention_to,
        attention=bool(attention_to),
        attention_output=attention_output,
        propagate=propagate,
        affinity=affinity,
        mass=mass,
        prediction=prediction,
        reduce=reduce,
        edit=edit,
        stop=stop,
        gradients=gradients,
    )
    return capturing(pipeline, options)


class _Stop(BaseException):
    """Everything asked for is there. No `except Exception` on the way may swallow it."""


@contextmanager
def capturing(pipeline: Any, options: Options) -> Iterator[Trace]:
    """A capture by its options: hooks and a counted scheduler from `with` on, none afterwards."""

    def done() -> None:
        if options.stop and (run.record.blocks or options.prediction):
            raise _Stop

    run, denoiser, stopped = Run(pipeline, options, done), denoiser_of(pipeline), False
    _refuse_caches(denoiser)
    with ExitStack() as stack:
        stack.enter_context(_claimed(denoiser))
        stack.callback(torch.set_grad_enabled, torch.is_grad_enabled())
        if "torch._dynamo" in sys.modules:  # only then can anything be compiled
            # Hooks that come after a compilation never fire in the compiled code.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if run.recorder:
            stack.enter_context(run.recorder.recording(pipeline))
        stack.enter_context(run.clock.counting(run.step_ended))
        stack.callback(run.attentions.let_go)
        for handle in run.hooks(denoiser):
            stack.callback(handle.remove)
        try:
            yield run.record.trace
        except _Stop:
            stopped = True
    if stopped:
        pipeline.maybe_free_model_hooks()
    if silence := run.record.silence(denoiser) or run.edits.silence():
        raise SilentSiteError(silence)
    run.proof.require()


@contextmanager
def _claimed(denoiser: nn.Module) -> Iterator[None]:
    """Refuse a denoiser that is being captured: its steps would be counted twice."""
    with _opening:
        if denoiser in _open:
            raise InputError(
                "another capture of this pipeline has not ended: ask one capture for all that is "
                "needed, or run them one after the other"
            )
        _open.add(denoiser)
    try:
        yield
    finally:
        _open.discard(denoiser)


def _refuse_caches(denoiser: nn.Module) -> None:
    """Refuse a denoiser that does not compute all of its blocks."""
    for name, module in denoiser.named_modules():
        for hook in getattr(vars(module).get("_diffusers_hook"), "hooks", {}):
            if any(skips in hook for skips in _SKIPPING):
                raise UnsupportedEditorError(
                    f"the hook {hook!r} on {name or type(denoiser).__name__!r} skips blocks or "
                    "repeats stored outputs, so a capture would not be faithful: call "
                    "`disable_cache()` on the denoiser first"
                )
