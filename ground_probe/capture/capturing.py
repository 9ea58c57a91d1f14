"""The context manager that listens to a pipeline, stops it early and leaves no hook behind."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ground_probe.capture.attention import Attentions
from ground_probe.capture.blocks import Blocks
from ground_probe.capture.clock import Clock
from ground_probe.capture.edits import Edit, Edits, ReweightPhrase
from ground_probe.capture.layout import arguments_of
from ground_probe.capture.options import Options, Reduce, Words
from ground_probe.capture.proof import Proof
from ground_probe.capture.record import Record, check_streams, sites_of
from ground_probe.capture.sites import blocks_of, denoiser_of, resolve
from ground_probe.capture.surroundings import is_compiled, predicts, refuse_caches, silent
from ground_probe.capture.traces import Trace
from ground_probe.editors.families import family_of
from ground_probe.editors.phrases import locate
from ground_probe.editors.prompt_tokens import Recorder
from ground_probe.errors import InputError, PhraseError, SilentSiteError

_open: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_opening = threading.Lock()


class _Stop(BaseException):
    """Everything asked for is there. No `except Exception` on the way may swallow it."""


class Capture:
    """The capturing of one run: from `with` on, hooks and a counted scheduler; none afterwards.

    Three collaborators look at the run: `Clock` at its steps and forwards, `Blocks` at hidden
    states, `Attentions` at attention. What they take goes into the trace that `with` gives.
    """

    def __init__(self, pipeline: Any, options: Options) -> None:
        self._pipeline, self._options = pipeline, options
        self._clock = Clock(pipeline, family_of(pipeline))
        check_streams(options, self._clock.family)
        if options.prediction and not predicts(pipeline):
            raise InputError(
                "a one-step prediction needs a flow-matching scheduler, not "
                f"{type(pipeline.scheduler).__name__}"
            )
        self._every = blocks = blocks_of(denoiser_of(pipeline))
        self._chosen = resolve(blocks, options.blocks)
        self._recorder = Recorder(*options.phrase) if options.phrase else None
        self._record = Record(
            Trace(
                blocks=tuple(self._chosen),
                steps=tuple(options.steps),
                timesteps=self._clock.timesteps,
                sigmas=self._clock.sigmas,
            )
        )
        self._edits = Edits(options.edits, blocks, self._chosen, self._clock)
        parts = self._chosen, options, self._edits, self._clock, self._record
        self._attentions = Attentions(*parts)
        self._blocks = Blocks(*parts, self._block_ran)
        self._proof = Proof(self._clock.family)

    def __enter__(self) -> Trace:
        if self._pipeline is None:
            raise InputError("a capture is used once: make a new one for each run")
        denoiser = denoiser_of(self._pipeline)
        self._hooked = refuse_caches(denoiser)
        with ExitStack() as stack:
            stack.callback(self._let_go)
            _claim(denoiser)
            stack.callback(_open.discard, denoiser)
            stack.callback(torch.set_grad_enabled, torch.is_grad_enabled())
            if is_compiled(self._pipeline, denoiser):
                # Hooks that come after a compilation never fire in the compiled code.
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            if self._recorder:
                stack.enter_context(self._recorder.recording(self._pipeline))
            stack.enter_context(self._clock.counting(self._step_ended))
            for handle in self._hooks(denoiser):
                stack.callback(handle.remove)
            self._undo = stack.pop_all()
        return self._record.trace

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> bool:
        pipeline, record, clock = self._pipeline, self._record, self._clock
        silence = silent(record.awaited, clock.timesteps, clock.ran, denoiser_of(pipeline))
        self._undo.close()
        if kind not in (None, _Stop):
            return False
        if kind is _Stop and (self._hooked or getattr(pipeline, "_all_hooks", None)):
            pipeline.maybe_free_model_hooks()  # it walks all modules, hooks or none
        if silence := silence or self._edits.silent():
            raise SilentSiteError(silence)
        self._proof.require()
        return kind is _Stop

    def _hooks(self, denoiser: nn.Module) -> Iterator[Any]:
        yield denoiser.register_forward_pre_hook(self._called, with_kwargs=True)
        if self._options.gradients:
            yield denoiser.register_forward_pre_hook(self._rooted, with_kwargs=True)
            yield denoiser.register_forward_hook(self._grown)
        for name, block in self._every.items():
            if name in self._chosen or name in self._edits.blocks:
                yield from self._blocks.listen(name, block)
                if self._options.listens:
                    yield from self._attentions.listen(name, block)

    def _let_go(self) -> None:
        self._attentions.let_go()
        self._clock.let_go()
        self._pipeline = self._recorder = None
        self._every = {}

    def _called(self, denoiser: nn.Module, args: tuple, kwargs: dict) -> None:
        """A call of the denoiser begins."""
        given = arguments_of(denoiser, args, kwargs)
        text, trace, clock = given["encoder_hidden_states"], self._record.trace, self._clock
        trace.device, trace.dtype = text.device, text.dtype
        clock.call(denoiser, given)
        self._proof.order(denoiser, given, clock.layout)
        if self._record.awaited is None:
            check_streams(self._options, clock.family, clock.layout)
            self._record.expect(sites_of(self._options, self._chosen, clock.layout))
        if "cond" not in clock.roles or trace.layout.grids:
            return
        trace.layout = clock.layout
        if self._recorder:
            if isinstance(self._options.attention_to, str):
                _require_once(self._options.attention_to, self._recorder.texts)
            keys = self._recorder.keys(text[clock.roles.index("cond")])
            self._attentions.phrase = keys.phrase
            trace.phrase_tokens = keys.tokens
            trace.phrase_keys = tuple(keys.phrase.tolist())
            trace.padding = tuple(keys.padding.tolist())
        if self._options.prediction and "reference" in clock.layout.grids:
            reference = given["hidden_states"][0, clock.layout.within_image("reference")]
            trace.reference = reference.detach().to("cpu", torch.float32, copy=True)

    def _rooted(self, denoiser: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """The graph of a step begins: pipelines turn gradients off, and all before is constant."""
        clock, inputs = self._clock, self._record.trace.inputs
        self._mode = torch.is_grad_enabled()
        if clock.step not in self._options.steps or "cond" not in clock.roles:
            return None
        given = arguments_of(denoiser, args, kwargs)
        name = "sample" if "sample" in given else "hidden_states"
        inputs[clock.step] = leaf = given[name].detach().clone().requires_grad_()
        torch.set_grad_enabled(True)
        return (args, {**kwargs, name: leaf}) if name in kwargs else ((leaf, *args[1:]), kwargs)

    def _grown(self, *_: Any) -> None:
        torch.set_grad_enabled(self._mode)

    def _block_ran(self, name: str) -> None:
        self._attentions.block_ran(name)
        if self._record.complete and self._proof.given:
            self._end()

    def _step_ended(self, output: Tensor, sample: Tensor) -> None:
        step, clock = self._clock.step - 1, self._clock
        self._proof.noise(sample, clock.layout)
        if self._record.awaits("prediction", step):
            clean = sample.float() - clock.sigmas[step] * output.float()
            self._record.put("prediction", step, clean)
        if step >= max(self._options.steps) or self._record.complete:
            self._end()

    def _end(self) -> None:
        """End the run, unless it was only to be edited or is to go on."""
        if self._options.stop and (self._chosen or self._options.prediction):
            raise _Stop


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
    heads: Literal["each", "mean"] = "each",
    attention_output: bool = False,
    propagate: int = 0,
    affinity: str | Sequence[int] = (),
    mass: bool = False,
    prediction: bool = False,
    gradients: bool = False,
) -> Capture:
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
        heads: whether to keep maps of each attention head or their mean.
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
    if heads not in ("each", "mean"):
        raise InputError(f"heads={heads!r}: choose 'each' or 'mean'")
    options = Options(
        blocks=blocks,
        steps=steps,  # type: ignore[arg-type] # made a tuple
        streams=streams,
        roles=roles,
        attention_to=attention_to,
        attention="mean" if attention_to and heads == "mean" else bool(attention_to),
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
    return Capture(pipeline, options)


def _require_once(words: str, texts: Sequence[str]) -> None:
    """Refuse words that stand several times in a prompt, its template included.

    Raises:
        PhraseError: they do, or only within other words.
    """
    for text in texts:
        try:
            locate(text, words)
        except PhraseError as error:
            raise PhraseError(
                f"attention_to={words!r} does not stand once, as whole words, in {text!r}: give "
                "(prompt, words) or (prompt, (start, stop))"
            ) from error


def _claim(denoiser: nn.Module) -> None:
    """Refuse a denoiser that is being captured: its steps would be counted twice.

    Raises:
        InputError: another capture of it has not ended.
    """
    with _opening:
        if denoiser in _open:
            raise InputError(
                "another capture of this pipeline has not ended: ask one capture for all that is "
                "needed, or run them one after the other"
            )
        _open.add(denoiser)
