"""What surrounds a capture: the schedule, compilation, step caches, attention kernels."""

from __future__ import annotations

from typing import Any

from torch import nn

from ground_probe.errors import UnsupportedEditorError

# Hooks of diffusers that skip blocks or hand on stored outputs instead of computing them.
_SKIPPING = ("cache", "fbc", "pyramid", "layer_skip", "taylorseer", "smoothed_energy")


def noise_level(scheduler: Any, step: int) -> tuple[float, float]:
    """(timestep, sigma) of a step; without sigmas, that of the variance-exploding form."""
    timestep = float(scheduler.timesteps[step])
    if getattr(scheduler, "sigmas", None) is not None:
        return timestep, float(scheduler.sigmas[step])
    alpha = float(scheduler.alphas_cumprod[int(timestep)])
    return timestep, ((1 - alpha) / alpha) ** 0.5


def is_compiled(pipeline: Any, denoiser: nn.Module) -> bool:
    """Whether `torch.compile` was applied to a component, or to a part of the denoiser."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in (*pipeline.components.values(), *denoiser.modules())
        if isinstance(module, nn.Module)
    )


def refuse_caches(denoiser: nn.Module) -> None:
    """Refuse a denoiser that does not compute all of its blocks.

    Raises:
        UnsupportedEditorError: names the hook.
    """
    for name, module in denoiser.named_modules():
        hooks = getattr(getattr(module, "_diffusers_hook", None), "hooks", {})
        for hook in hooks:
            if any(skips in hook for skips in _SKIPPING):
                raise UnsupportedEditorError(
                    f"the hook {hook!r} on {name or type(denoiser).__name__!r} skips blocks or "
                    "repeats stored outputs, so a capture would not be faithful: call "
                    "`disable_cache()` on the denoiser first"
                )


def kernel(denoiser: nn.Module) -> str:
    """The attention backend that a denoiser uses, for a message."""
    for module in denoiser.modules():
        backend = getattr(getattr(module, "processor", None), "_attention_backend", None)
        if backend is not None:
            return f"The attention backend {getattr(backend, 'value', backend)!r}"
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    return f"The attention backend {_AttentionBackendRegistry._active_backend.value!r}"
