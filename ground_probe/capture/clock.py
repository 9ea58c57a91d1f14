"""Which step, forward and noise level of a pipeline run: read from calls, never assumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from ground_probe.capture.layout import EMPTY, Layout, layout_of
from ground_probe.editors import wrapped
from ground_probe.editors.family import Family
from ground_probe.errors import InputError


class Clock:
    """The time of a run. Steps are counted at the scheduler, forwards at the denoiser.

    Attributes:
        family: of the pipeline; says in which order guided forwards come.
        step: the denoising step that is running, from 0.
        roles: of the rows of the denoiser's call that is running.
        layout: of that call.
        timesteps, sigmas: by step, on the scheduler's scale.
        ran: every (step, role) that ran.
    """

    def __init__(self, pipeline: Any, family: Family) -> None:
        self.family, self._pipeline = family, pipeline
        self._calls = 0
        self.step, self.roles = 0, ()  # type: int, tuple[str, ...]
        self.layout: Layout = EMPTY
        self.timesteps: dict[int, float] = {}
        self.sigmas: dict[int, float] = {}
        self.ran: set[tuple[int, str]] = set()

    def call(self, denoiser: nn.Module, given: Mapping[str, Any]) -> None:
        """A call of the denoiser begins, with these arguments."""
        self.roles = self._roles_of(denoiser, given)
        self._calls += 1
        self.ran |= {(self.step, role) for role in self.roles}
        self.layout = layout_of(denoiser, given, self.family.text_first)
        level = noise_level(self._pipeline.scheduler, self.step, given.get("timestep"))
        self.timesteps[self.step], self.sigmas[self.step] = level

    def counting(self, ended: Callable[[Tensor, Tensor], None]) -> AbstractContextManager[None]:
        """Count the scheduler's steps.

        Args:
            ended: told each step's (model output, sample) before the scheduler takes them; may
                raise to end the run. The step is counted by then.
        """

        def stepped(
            step: Callable, output: Tensor, timestep: Any, sample: Tensor, *args: Any, **more: Any
        ) -> Any:
            self.step, self._calls = self.step + 1, 0
            ended(output, sample)
            return step(output, timestep, sample, *args, **more)

        return wrapped(self._pipeline.scheduler, "step", stepped)

    def _roles_of(self, denoiser: nn.Module, given: Mapping[str, Any]) -> tuple[str, ...]:
        rows, family = len(given["encoder_hidden_states"]), self.family
        if rows == len(family.rows) > 1 and _guided(self._pipeline, denoiser, family, given):
            return family.rows
        if rows == 1 and self._calls < len(family.calls):
            return (family.calls[self._calls],)
        raise InputError(
            f"the denoiser got {rows} rows in call {self._calls} of a step, which has no role "
            "here: capture one image and one instruction at a time"
        )


def predicts(pipeline: Any) -> bool:
    """Whether one step tells the clean latents by a straight line: flow matching."""
    return "FlowMatch" in type(pipeline.scheduler).__name__


def _guided(pipeline: Any, denoiser: nn.Module, family: Family, given: Mapping[str, Any]) -> bool:
    """Whether a batch is that of guidance, and not of several prompts or images."""
    sample = given.get("sample")
    channels = getattr(denoiser.config, "out_channels", None)
    if "image_only" in family.rows and sample is not None and sample.shape[1] > channels:
        # The reference is stacked on the noise, and the unconditional row has none.
        return not sample[family.rows.index("uncond"), channels:].any()
    if family.rows == ("uncond", "cond"):
        return getattr(pipeline, "guidance_scale", 2.0) > 1
    return True


def noise_level(scheduler: Any, step: int, given: Any = None) -> tuple[float, float]:
    """(timestep, sigma) of a step, on the scheduler's scale.

    Args:
        scheduler: of the pipeline.
        step: from 0; a run that starts within the schedule starts at its first step.
        given: the timestep that the denoiser is called with, on the scheduler's scale or as a share
            of its training steps, and perhaps rounded to half precision.
    """
    schedule = scheduler.timesteps.double().cpu()
    at = min((getattr(scheduler, "begin_index", None) or 0) + step, len(schedule) - 1)
    if given is None or getattr(given, "is_meta", False):
        return _level(scheduler, at)
    value = float(given.flatten()[0] if isinstance(given, Tensor) else given)
    scales = 1, scheduler.config.get("num_train_timesteps", 1000)
    nearest = [(int((schedule - value * scale).abs().argmin()), scale) for scale in scales]
    for index, scale in (*((at, scale) for scale in scales), *nearest):
        rounding = 2**-8 * value * scale
        if abs(float(schedule[index]) - value * scale) <= rounding:
            return _level(scheduler, index)
    share = value if value <= 1 else value / scales[1]
    if getattr(scheduler, "alphas_cumprod", None) is None:
        return value, share  # flow matching: the noise level is the time
    return value, _deviation(scheduler, int(value))


def _level(scheduler: Any, index: int) -> tuple[float, float]:
    timestep = float(scheduler.timesteps[index])
    if getattr(scheduler, "sigmas", None) is not None:
        return timestep, float(scheduler.sigmas[index])
    return timestep, _deviation(scheduler, int(timestep))


def _deviation(scheduler: Any, timestep: int) -> float:
    """The noise level of the variance-exploding form."""
    alpha = float(scheduler.alphas_cumprod[timestep])
    return ((1 - alpha) / alpha) ** 0.5
