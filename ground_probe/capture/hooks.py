"""The context manager that listens to a pipeline, stops it early and leaves no hook behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial, wraps
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from ground_probe.capture.attention import Attention, Listening
from ground_probe.capture.layout import Layout, arguments_of, layout_of
from ground_probe.capture.maps import maps_of, places_of
from ground_probe.capture.propagation import Carrier
from ground_probe.capture.sites import (
    Captured,
    attentions_of,
    blocks_of,
    denoiser_of,
    resolve,
    site,
)
from ground_probe.capture.surroundings import (
    is_compiled,
    noise_level,
    predicts,
    refuse_caches,
    silent,
)
from ground_probe.capture.wanted import Wanted
from ground_probe.editors.families import family_of
from ground_probe.editors.hearing import Keys, Recorder
from ground_probe.errors import InputError, SilentSiteError


class _Stop(BaseException):
    """Everything asked for is there. No `except Exception` on the way may swallow it."""


class Capture:
    """What was captured; as a context manager, the capturing.

    Attributes:
        hidden: (tokens, dim) by (block, step, stream).
        attention: (heads, image tokens, phrase tokens) by (block, step).
        attention_from_text: (heads, phrase tokens, image tokens) by (block, step).
        attention_output: (tokens, dim) by (block, step, stream).
        propagated: (heads, tokens, phrase tokens) by (block, step, stream).
        affinity: (heads, chosen, image tokens) by (block, step).
        key_mass: (heads, keys) by (block, step).
        prediction: clean latents by step.
        reference: the reference's latents, where a prediction is captured and there are such.
        device: where the denoiser ran.
        sigmas, timesteps: by step.
        layout: the token grids of the conditional forward.
        keys: the phrase's keys.
        blocks: names of the chosen blocks, in the order in which they run.
    """

    def __init__(self, pipeline: Any, wanted: Wanted) -> None:
        self.wanted = wanted
        self.family = family_of(pipeline)
        self.hidden, self.attention, self.attention_from_text = Captured(), Captured(), Captured()
        self.attention_output, self.propagated = Captured(), Captured()
        self.affinity, self.key_mass, self.prediction = Captured(), Captured(), {}
        self.sigmas: dict[int, float] = {}
        self.timesteps: dict[int, float] = {}
        self.reference: Tensor | None = None
        self.device: torch.device | None = None
        self.layout: Layout | None = None
        self.keys: Keys | None = None
        self._pipeline = pipeline
        self._blocks = blocks_of(denoiser_of(pipeline))
        self._chosen = resolve(self._blocks, wanted.sites)
        self._changes = [(i, resolve(self._blocks, i.blocks)) for i in wanted.interventions]
        self.blocks = tuple(self._chosen)
        if wanted.prediction and not predicts(pipeline):
            raise InputError(
                "a one-step prediction needs a flow-matching scheduler, not "
                f"{type(pipeline.scheduler).__name__}"
            )
        self._check_streams(wanted.streams or ())
        self._recorder = (
            Recorder(wanted.instruction, wanted.phrase) if wanted.needs_phrase else None
        )
        self._layout: Layout | None = None  # of the denoiser call that is running
        self._awaited: set[tuple] | None = None
        self._capturing = bool(self._chosen or wanted.prediction)
        self._step, self._call, self._roles = 0, -1, ()
        self._ran: set[tuple] = set()
        self._modes: list[Listening] = []
        unet = any(name.startswith("down_blocks.") for name in self._blocks)
        streams = tuple(s for s in wanted.streams or () if s != "text")
        self._carrier = Carrier(self.blocks, wanted.propagate, streams, unet)

    def __enter__(self) -> Capture:
        if self._pipeline is None:
            raise InputError("a capture is used once: make a new one for each run")
        denoiser = denoiser_of(self._pipeline)
        refuse_caches(denoiser)
        with ExitStack() as stack:
            stack.callback(self._let_go)
            if is_compiled(self._pipeline, denoiser):
                # Hooks that come after a compilation never fire in the compiled code.
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            if self._recorder:
                stack.enter_context(self._recorder.listening(self._pipeline))
            step = self._counting(self._pipeline.scheduler.step)
            stack.enter_context(patch.object(self._pipeline.scheduler, "step", step))
            handles = [denoiser.register_forward_pre_hook(self._called, with_kwargs=True)]
            for name, block in self._blocks.items():
                if name in self._chosen or any(name in blocks for _, blocks in self._changes):
                    handles.append(block.register_forward_hook(partial(self._block_done, name)))
                    handles += self._listen(name, block) if self.wanted.listens else []
                if name in self._chosen and self.wanted.attention_output:
                    for inside in self._chosen[name]:
                        hook = partial(self._attended, name)
                        handles.append(block.get_submodule(inside).register_forward_hook(hook))
            for handle in handles:
                stack.callback(handle.remove)
            self._undo = stack.pop_all()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> bool:
        pipeline = self._pipeline
        silence = silent(self._awaited, self.timesteps, self._ran, denoiser_of(pipeline))
        self._undo.close()
        if kind is _Stop:
            pipeline.maybe_free_model_hooks()
        elif kind is not None:
            return False
        if silence:
            raise SilentSiteError(silence)
        return kind is _Stop

    def _let_go(self) -> None:
        """Leave every mode, for an interrupt skips their own exits, and forget the model."""
        while self._modes:
            self._modes.pop().__exit__(None, None, None)
        self._pipeline = self._recorder = None
        self._blocks = {}

    def _listen(self, name: str, block: nn.Module) -> list:
        handles = []
        for inside, module in attentions_of(block).items():
            hear = partial(self._heard, name, inside)

            def enter(module, args, kwargs, hear=hear):
                if self._step not in self.wanted.steps and not self._changes:
                    return  # hearing slows a step down that nobody asked for
                # An attention is given these if its keys come from elsewhere than its queries.
                others = kwargs.get("encoder_hidden_states", args[1] if len(args) > 1 else None)
                self._modes.append(Listening(partial(hear, others is not None)))
                self._modes[-1].__enter__()

            def leave(module, args, output):
                if self._modes:
                    self._modes.pop().__exit__(None, None, None)

            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave, always_call=True))
        return handles

    def _called(self, denoiser: nn.Module, args: tuple, kwargs: dict) -> None:
        """Read the layout, the roles and the noise level from a call of the denoiser."""
        given = arguments_of(denoiser, args, kwargs)
        text = given["encoder_hidden_states"]
        self.device = text.device
        self._call += 1
        self._roles = self._roles_of(len(text))
        self._ran |= {(self._step, role) for role in self._roles}
        self._layout = layout_of(denoiser, given, self.family.text_first)
        if self.layout is None and "cond" in self._roles:
            self.layout = self._layout
            self._check_streams(self.wanted.streams or (), self._layout)
        if self._awaited is None:
            self._awaited = set(self._expected())
        if self._recorder and "cond" in self._roles and self.keys is None:
            self.keys = self._recorder.keys(text[self._roles.index("cond")])
        if self.wanted.prediction and self.reference is None and "reference" in self._layout.grids:
            image = given["hidden_states"][0, self._layout.within_image("reference")]
            self.reference = image.detach().to("cpu", torch.float32, copy=True)
        level = noise_level(self._pipeline.scheduler, self._step)
        self.timesteps[self._step], self.sigmas[self._step] = level

    def _roles_of(self, rows: int) -> tuple[str, ...]:
        if rows == len(self.family.rows) > 1:
            return self.family.rows
        if rows == 1 and self._call < len(self.family.calls):
            return (self.family.calls[self._call],)
        raise InputError(
            f"the denoiser got {rows} rows in call {self._call} of a step, which has no role here: "
            "capture one image and one instruction at a time"
        )

    def _check_streams(self, streams: Sequence[str], layout: Layout | None = None) -> None:
        there = self.family.streams
        if layout is not None:
            there = [s for s in there if s == "text" or s in layout.grids]
        for stream in streams:
            if stream not in there:
                raise InputError(
                    f"{self.family.pipeline} has no {stream!r} tokens in its blocks, only "
                    f"{', '.join(there)}. {self.family.note or 'Pass an image.'}"
                )

    def _expected(self) -> list[tuple]:
        wanted = self.wanted
        streams = self._layout.grids if wanted.streams is None else wanted.streams
        image_streams = [s for s in streams if s != "text"] or self._layout.grids
        found = []
        for step in wanted.steps:
            found += [("prediction", step)] * wanted.prediction
            for name in self._chosen:
                found += [("hidden", site(name, step, s, r)) for s in streams for r in wanted.roles]
                found += [("attention", site(name, step))] * bool(wanted.attention)
                if wanted.attention_output:
                    found += [
                        ("attention_output", site(name, step, s, r))
                        for s in streams
                        for r in wanted.roles
                    ]
                if wanted.propagate:
                    found += [("propagated", site(name, step, s)) for s in image_streams]
                for kind, asked in (("affinity", len(wanted.affinity)), ("key_mass", wanted.mass)):
                    found += [(kind, site(name, step, r)) for r in wanted.roles if asked]
        return found

    def _put(self, kind: str, key: Any, value: Tensor) -> None:
        getattr(self, kind)[key] = value
        self._awaited.discard((kind, key))

    def _attended(self, name: str, module: nn.Module, args: tuple, output: Any) -> None:
        self._put_states("attention_output", name, self._layout.split_attention(output))

    def _put_states(self, kind: str, name: str, streams: Mapping[str, Tensor]) -> None:
        for stream, states in streams.items():
            for row, role in enumerate(self._roles):
                key = site(name, self._step, stream, role)
                if (kind, key) in self._awaited:
                    self._put(kind, key, self._reduced(states[row].detach()))

    def _block_done(self, name: str, block: nn.Module, args: tuple, output: Any) -> Any:
        changed = None
        for change, blocks in self._changes:
            if name in blocks and hasattr(change, "on_block") and self._now(change):
                changed = change.on_block(
                    self._roles, self._layout, output if changed is None else changed
                )
        streams = self._layout.split(output if changed is None else changed)
        self._put_states("hidden", name, streams)
        if (
            self.wanted.propagate
            and ("propagated", site(name, self._step, "noise")) in self._awaited
        ):
            maps = {block: self.attention.get((block, self._step)) for block in self.blocks}
            for block, carried in self._carrier.by_finest(name, self._layout, maps):
                self._put("propagated", site(block, self._step, "noise"), carried.to("cpu"))
        if self._capturing and not self._awaited:
            raise _Stop
        return changed

    def _now(self, change: Any) -> bool:
        return change.steps is None or self._step in change.steps

    def _reduced(self, state: Tensor) -> Tensor:
        if self.wanted.keep is None:
            return state.to("cpu", torch.float32, copy=True)
        return self.wanted.keep(state).to("cpu", copy=True)

    def _heard(self, name: str, inside: str, cross: bool, call: Attention) -> Tensor:
        """Change and look at one attention of a block."""
        at = places_of(self._layout, call, cross)
        if at is None:
            return call.output()
        keys = self.keys.phrase + at.text.start if self.keys and at.text is not None else None
        for change, blocks in self._changes:
            meant = keys is not None and inside in blocks.get(name, ())
            if meant and hasattr(change, "on_attention") and self._now(change):
                call = change.on_attention(self._roles, keys, call)
        if self._step not in self.wanted.steps or name not in self._chosen:
            return call.output()
        if self.wanted.propagate and at.text is None and "cond" in self._roles:
            self._carrier.hold(name, call.one(self._roles.index("cond")))
        if inside not in self._chosen[name]:
            return call.output()
        if self.wanted.attention and keys is not None and "cond" in self._roles:
            output, lse = call.output_and_lse()
        else:
            output, lse = call.output(), None
        for kind, rest, maps in maps_of(
            call, at, self.wanted, self._roles, self._layout, keys, lse, self._carrier.of(name)
        ):
            self._put(kind, site(name, self._step, *rest), maps)
        return output

    def _counting(self, step: Callable) -> Callable:
        """The scheduler's step, counted. Pipelines look at its signature, so it must keep it."""

        @wraps(step)
        def stepped(output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any):
            if ("prediction", self._step) in (self._awaited or ()):
                clean = sample.float() - self.sigmas[self._step] * output.float()
                self._put("prediction", self._step, clean.detach().to("cpu", copy=True))
            self._step, self._call = self._step + 1, -1
            if self._capturing and (self._step > max(self.wanted.steps) or not self._awaited):
                raise _Stop
            return step(output, timestep, sample, *args, **kwargs)

        return stepped


def capture(pipeline: Any, sites: str | Sequence[str] = "all", **wanted: Any) -> Capture:
    """Capture from anybody's own call of a pipeline, which is stopped once all is there.

    Args:
        pipeline: a diffusers editing pipeline.
        sites: "all", or globs over the names of blocks and of their attention modules.
        wanted: further fields of `Wanted`.

    Raises:
        UnknownNameError: a block, stream or role that does not exist.
        UnsupportedEditorError: a pipeline that cannot be captured faithfully.
        SilentSiteError: on leaving, when a site asked for did not fire.

    ```python
    with gp.capture(pipe, "transformer_blocks.*", steps=(0,)) as captured:
        pipe(image=image, prompt="make it blue")
    captured.hidden["transformer_blocks.0", 0, "noise"]
    ```
    """
    return Capture(pipeline, Wanted(sites, **wanted))
