"""Several instructions for one image in one call of the pipeline: a trace for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ground_probe.capture.attention import Attention
from ground_probe.capture.hooks import Capture
from ground_probe.capture.sites import Captured, site
from ground_probe.capture.trace import Trace
from ground_probe.capture.wanted import Wanted
from ground_probe.editors import Editor
from ground_probe.editors.hearing import Keys, Recorder
from ground_probe.editors.phrases import Span
from ground_probe.errors import InputError


@dataclass(frozen=True)
class Told:
    """An instruction, what of it is looked at, and the seed of its noise.

    Args:
        instruction: what the editor is told.
        phrase: its words that matter; None for all of them.
        seed: of the noise.
    """

    instruction: str
    phrase: Span | None
    seed: int


def trace_batch(
    editor: Editor,
    image: Image.Image,
    told: Sequence[Told],
    *,
    steps: tuple[int, ...],
    blocks: str | Sequence[str],
    streams: tuple[str, ...],
    attention: Any,
    prediction: bool = False,
) -> list[Trace]:
    """What `trace` captures, of several instructions at once.

    Args:
        editor: of a family that is `batched`.
        image: what to edit.
        told: the instructions.
        steps, blocks, streams, attention, prediction: as those of `trace`.
    """
    wanted = Wanted(
        blocks,
        steps=steps,
        streams=streams,
        attention=attention,
        prediction=prediction,
        instruction=told[0].instruction,
        phrase=told[0].phrase,
    )
    given = editor.arguments(image, told[0].instruction, guided=any(steps) or prediction)
    given["prompt"] = [each.instruction for each in told]
    given["generator"] = [torch.Generator().manual_seed(each.seed) for each in told]
    pipeline = editor.pipeline
    before = getattr(pipeline, "_progress_bar_config", {})
    pipeline.set_progress_bar_config(**{**before, "disable": True})
    try:
        with _Batch(pipeline, wanted, told) as captured, torch.no_grad():
            pipeline(**given)
    finally:
        pipeline._progress_bar_config = before
    geometry = editor.geometry(image)
    return [captured.trace(row, geometry) for row in range(len(told))]


class _Batch(Capture):
    """A capture whose rows are instructions. Each site carries the row's number as its role."""

    def __init__(self, pipeline: Any, wanted: Wanted, told: Sequence[Told]) -> None:
        super().__init__(pipeline, wanted)
        self._recorder = _Recorders([Recorder(each.instruction, each.phrase) for each in told])
        self._rows = tuple(map(str, range(len(told))))
        self._keys: list[Keys] = []

    def trace(self, row: int, geometry: Any) -> Trace:
        """The trace of one row."""
        kinds = ("hidden", "attention", "attention_from_text")
        own = {
            kind: Captured(
                {
                    key[:-1]: value
                    for key, value in getattr(self, kind).items()
                    if key[-1] == str(row)
                }
            )
            for kind in kinds
        }
        keys = self._keys[row]
        return Trace(
            **own,
            affinity=Captured(),
            key_mass=Captured(),
            prediction={step: rows[row, None] for step, rows in self.prediction.items()},
            reference=self.reference,
            device=self.device,
            blocks=self.blocks,
            steps=tuple(self.wanted.steps),
            sigmas=self.sigmas,
            timesteps=self.timesteps,
            phrase_tokens=keys.tokens,
            phrase_keys=tuple(keys.phrase.tolist()),
            padding=tuple(keys.padding.tolist()),
            layout=self._layout,
            geometry=geometry,
        )

    def _roles_of(self, rows: int) -> tuple[str, ...]:
        if rows != len(self._rows):
            raise InputError(
                f"the denoiser got {rows} rows for {len(self._rows)} instructions: run the "
                "instructions of this pipeline one by one"
            )
        return self._rows

    def _called(self, *given: Any) -> None:
        super()._called(*given)
        text = given[2]["encoder_hidden_states"]
        self._keys = self._keys or [
            recorder.keys(row) for recorder, row in zip(self._recorder.each, text, strict=True)
        ]

    def _expected(self) -> list[tuple]:
        found = [("prediction", step) for step in self.wanted.steps if self.wanted.prediction]
        for step, name, row in product(self.wanted.steps, self._chosen, self._rows):
            found += [("attention", site(name, step, row))] * bool(self.wanted.attention)
            found += [("hidden", site(name, step, stream, row)) for stream in self.wanted.streams]
        return found

    def _heard(self, name: str, inside: str, cross: bool, call: Attention) -> Tensor:
        text, image = self._layout.within_sequence()
        whole = self._layout.text + self._layout.image
        meant = self._step in self.wanted.steps and inside in self._chosen.get(name, ())
        if not meant or (call.query.shape[2], call.key.shape[2]) != (whole, whole):
            return call.output()
        output, lse = call.output_and_lse()
        for row, own in enumerate(self._keys):
            one, at = call.one(row), own.phrase + text.start
            key = site(name, self._step, self._rows[row])
            self._put("attention", key, self._kept(one.to_keys(lse[row, None], image, at)[0]))
            self.attention_from_text[key] = self._kept(one.from_rows(at)[0, ..., image])
        return output

    def _kept(self, maps: Tensor) -> Tensor:
        maps = maps.mean(0, keepdim=True) if self.wanted.attention == "mean" else maps
        return maps.detach().to("cpu", copy=True)


@dataclass(frozen=True)
class _Recorders:
    each: list[Recorder]

    @contextmanager
    def listening(self, pipeline: Any) -> Iterator[None]:
        with ExitStack() as stack:
            for recorder in self.each:
                stack.enter_context(recorder.listening(pipeline))
            yield
