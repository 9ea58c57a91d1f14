"""What surrounds a capture: schedule, compilation, step caches, kernels; why a site is silent."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from ground_probe.capture.sites import ROLES, bare, every_module
from ground_probe.errors import UnsupportedEditorError

# Hooks of diffusers that skip blocks or hand on stored outputs instead of computing them.
_SKIPPING = ("cache", "fbc", "pyramid", "layer_skip", "taylorseer", "smoothed_energy")


def predicts(pipeline: Any) -> bool:
    """Whether one step tells the clean latents by a straight line: flow matching."""
    return "FlowMatch" in type(pipeline.scheduler).__name__


def is_compiled(pipeline: Any, denoiser: nn.Module) -> bool:
    """Whether `torch.compile` was applied to a component, or to a part of the denoiser."""
    return any(
        bare(module) is not module or module._compiled_call_impl is not None
        for module in (*pipeline.components.values(), *every_module(denoiser))
        if isinstance(module, nn.Module)
    )


def refuse_caches(denoiser: nn.Module) -> bool:
    """Refuse a denoiser that does not compute all of its blocks.

    Returns whether it has other hooks of diffusers.

    Raises:
        UnsupportedEditorError: names the hook.
    """
    hooked = False
    for module in every_module(denoiser):
        hooks = getattr(vars(module).get("_diffusers_hook"), "hooks", {})
        hooked |= bool(hooks)
        for hook in hooks:
            if any(skips in hook for skips in _SKIPPING):
                name = next(name for name, each in denoiser.named_modules() if each is module)
                raise UnsupportedEditorError(
                    f"the hook {hook!r} on {name or type(denoiser).__name__!r} skips blocks or "
                    "repeats stored outputs, so a capture would not be faithful: call "
                    "`disable_cache()` on the denoiser first"
                )
    return hooked


def kernel(denoiser: nn.Module) -> str:
    """The attention backend that a denoiser uses, for a message."""
    for module in denoiser.modules():
        backend = getattr(getattr(module, "processor", None), "_attention_backend", None)
        if backend is not None:
            return f"The attention backend {getattr(backend, 'value', backend)!r}"
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    return f"The attention backend {_AttentionBackendRegistry._active_backend.value!r}"


def silent(
    awaited: Collection[tuple] | None,
    timesteps: Collection[int],
    ran: Collection[tuple[int, str]],
    denoiser: nn.Module,
) -> str | None:
    """Which sites stayed silent, and the likely cause; None if none did.

    Args:
        awaited: (kind, site) of what has not fired; None if the denoiser was not called.
        timesteps: the steps that ran.
        ran: the (step, role) that ran.
        denoiser: whose blocks they are.
    """
    if awaited is None:
        return "the denoiser was not called: call the pipeline inside the `with` block"
    if not awaited:
        return None
    kind, key = min(awaited, key=str)
    step = key if kind == "prediction" else key[1]
    role = "cond" if kind == "prediction" or key[-1] not in ROLES else key[-1]
    head = f"{len(awaited)} sites stayed silent, the first is {kind} at {key}: "
    if step not in timesteps:
        return head + f"only {len(timesteps)} steps ran; ask for earlier ones or run more"
    if (step, role) not in ran:
        return head + f"no {role!r} forward ran in that step; turn classifier-free guidance on"
    if kind in ("attention", "propagated", "affinity", "key_mass"):
        return head + (
            "no such attention passed through F.scaled_dot_product_attention there. "
            f"{kernel(denoiser)} may bypass it (set the native one), a step cache may skip it, or "
            "the modules chosen attend to something else"
        )
    return head + "the block did not run; a step cache or a compiled module may skip its hooks"
