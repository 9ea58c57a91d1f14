"""The hooks of one run: where a denoiser and its blocks are called and return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ground_probe.capture.attention import Attentions
from ground_probe.capture.calls import arguments_of
from ground_probe.capture.clock import Clock, predicts
from ground_probe.capture.edits import Edits
from ground_probe.capture.options import Options
from ground_probe.capture.proof import Proof
from ground_probe.capture.record import Record
from ground_probe.capture.sites import blocks_of, key_of, resolve
from ground_probe.editors.editor import denoiser_of
from ground_probe.editors.families import family_of
from ground_probe.editors.phrases import locate
from ground_probe.editors.prompt_tokens import Recorder
from ground_probe.errors import InputError, PhraseError


class Run:
    """What happens while a pipeline runs.

    1. The denoiser is called: its roles, its streams and the phrase's keys become known.
    2. An attention module runs: `Attentions` takes its maps; then its output is kept.
    3. A block returns: its edits are made, then the states of its streams are kept.
    4. The scheduler makes a step: the prediction is kept.
    5. After a block or a step, `done` is called once all is there.

    Attributes:
        clock: at which step, forward and noise level the run is.
        record: what was asked for, and what of it has come.
        edits: which of them took place.
        attentions: the hooks on attention modules.
        recorder: finds the phrase's keys, if there is a phrase.
        proof: of the layout of a pipeline outside the registry.
    """

    def __init__(self, pipeline: Any, options: Options, done: Callable[[], None]) -> None:
        if options.prediction and not predicts(pipeline):
            raise InputError(
                "a one-step prediction needs a flow-matching scheduler, not "
                f"{type(pipeline.scheduler).__name__}"
            )
        family, blocks = family_of(pipeline), blocks_of(denoiser_of(pipeline))
        chosen = resolve(blocks, options.blocks)
        self.clock = Clock(pipeline, family)
        self.record = Record(options, chosen, self.clock)
        self.recorder = Recorder(*options.phrase) if options.phrase else None
        self.proof = Proof(family)
        self.edits = Edits(options.edits, blocks, chosen, self.clock)
        self.attentions = Attentions(self.record, self.edits, self.clock)
        self._done = done

    def hooks(self, denoiser: nn.Module) -> Iterator[Any]:
        """Register all hooks, and yield their handles."""
        yield denoiser.register_forward_pre_hook(self._called, with_kwargs=True)
        options, chosen = self.record.options, self.record.blocks
        if options.gradients:
            yield from _graph(denoiser, self.clock, options.steps, self.record.trace.inputs)
        for name, block in blocks_of(denoiser).items():
            if name not in chosen and name not in self.edits.blocks:
                continue
            yield block.register_forward_hook(partial(self._returned, name))
            for inside in sorted(chosen.get(name, ())) if options.attention_output else ():
                module = block.get_submodule(inside)
                yield module.register_forward_hook(partial(self._attended, name))
            if options.listens:
                yield from self.attentions.listen(name, block)

    def step_ended(self, output: Tensor, sample: Tensor) -> None:
        """The scheduler is given what the denoiser returned, and its sample."""
        step, clock, record = self.clock.step - 1, self.clock, self.record
        self.proof.noise(sample, clock.layout)
        if record.awaits("prediction", step):
            record.put("prediction", step, sample.float() - clock.sigmas[step] * output.float())
        if step >= max(record.options.steps) or record.complete:
            self._done()

    def _called(self, denoiser: nn.Module, args: tuple, kwargs: dict) -> None:
        given = arguments_of(denoiser, args, kwargs)
        clock, record, trace = self.clock, self.record, self.record.trace
        clock.call(denoiser, given)
        self.proof.order(denoiser, given, clock.layout)
        text = given["encoder_hidden_states"]
        if record.awaited is None:
            trace.device, trace.dtype = text.device, text.dtype
            record.expect(clock.family, clock.layout)
        if "cond" not in clock.roles or trace.layout.grids:
            return
        trace.layout = clock.layout
        if self.recorder:
            if isinstance(record.options.attention_to, str):
                _require_once(record.options.attention_to, self.recorder.texts)
            keys = self.recorder.keys(text[clock.roles.index("cond")])
            self.attentions.phrase = keys.phrase
            trace.phrase_tokens = keys.tokens
            trace.phrase_keys = tuple(keys.phrase.tolist())
            trace.padding = tuple(keys.padding.tolist())
        if record.options.prediction and "reference" in clock.layout.grids:
            reference = given["hidden_states"][0, clock.layout.within_image("reference")]
            trace.reference = reference.detach().to("cpu", torch.float32, copy=True)

    def _returned(self, name: str, block: nn.Module, args: tuple, output: Any) -> Any:
        output = self.edits.of_block(name, output)
        self._keep("hidden", name, self.clock.layout.split(output))
        self.attentions.block_ran(name)
        if self.record.complete and self.proof.given:
            self._done()
        return output

    def _attended(self, name: str, module: nn.Module, args: tuple, output: Any) -> None:
        self._keep("attention_output", name, self.clock.layout.split_attention(output))

    def _keep(self, kind: str, name: str, streams: Mapping[str, Tensor]) -> None:
        for stream, states in streams.items():
            for row, role in enumerate(self.clock.roles):
                key = key_of(name, self.clock.step, stream, role)
                if self.record.awaits(kind, key):
                    self.record.put(kind, key, states[row])


def _graph(
    denoiser: nn.Module, clock: Clock, steps: Sequence[int], inputs: dict[int, Tensor]
) -> Iterator[Any]:
    """Let the graph of each step begin at what the denoiser is given: pipelines have none."""
    before = torch.is_grad_enabled()

    def begin(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        nonlocal before
        before = torch.is_grad_enabled()
        if clock.step not in steps or "cond" not in clock.roles:
            return None
        given = arguments_of(module, args, kwargs)
        name = "sample" if "sample" in given else "hidden_states"
        inputs[clock.step] = leaf = given[name].detach().clone().requires_grad_()
        torch.set_grad_enabled(True)
        return (args, {**kwargs, name: leaf}) if name in kwargs else ((leaf, *args[1:]), kwargs)

    def end(*_: Any) -> None:
        torch.set_grad_enabled(before)

    yield denoiser.register_forward_pre_hook(begin, with_kwargs=True)
    yield denoiser.register_forward_hook(end)


def _require_once(words: str, texts: Sequence[str]) -> None:
    """Refuse words that stand several times in a prompt, its template included."""
    for text in texts:
        try:
            locate(text, words)
        except PhraseError as error:
            raise PhraseError(
                f"attention_to={words!r} does not stand once, as whole words, in {text!r}: give "
                "(prompt, words) or (prompt, (start, stop))"
            ) from error
