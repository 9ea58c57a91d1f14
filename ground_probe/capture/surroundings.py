"""What keeps a capture from being whole: step caches and other kernels; why a site is silent."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from ground_probe.capture.clock import Clock
from ground_probe.capture.sites import ROLES
from ground_probe.errors import UnsupportedEditorError

# Hooks of diffusers that skip blocks or hand on stored outputs instead of computing them.
_SKIPPING = ("cache", "fbc", "pyramid", "layer_skip", "taylorseer", "smoothed_energy")


def refuse_caches(denoiser: nn.Module) -> None:
    """Refuse a denoiser that does not compute all of its blocks.

    Raises:
        UnsupportedEditorError: names the hook.
    """
    for name, module in denoiser.named_modules():
        for hook in getattr(vars(module).get("_diffusers_hook"), "hooks", {}):
            if any(skips in hook for skips in _SKIPPING):
                raise UnsupportedEditorError(
                    f"the hook {hook!r} on {name or type(denoiser).__name__!r} skips blocks or "
                    "repeats stored outputs, so a capture would not be faithful: call "
                    "`disable_cache()` on the denoiser first"
                )


def _kernel(denoiser: nn.Module) -> str:
    """The attention backend that a denoiser uses, for a message."""
    for module in denoiser.modules():
        backend = getattr(getattr(module, "processor", None), "_attention_backend", None)
        if backend is not None:
            return f"The attention backend {getattr(backend, 'value', backend)!r}"
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    return f"The attention backend {_AttentionBackendRegistry._active_backend.value!r}"


def silent(awaited: Collection[tuple] | None, clock: Clock, denoiser: nn.Module) -> str | None:
    """Which sites stayed silent, and the likely cause; None if none did.

    Args:
        awaited: (kind, site) of what has not fired; None if the denoiser was not called.
        clock: of the run.
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
    if step not in clock.timesteps:
        return head + f"only {len(clock.timesteps)} steps ran; ask for earlier ones or run more"
    if (step, role) not in clock.ran:
        return head + f"no {role!r} forward ran in that step; turn classifier-free guidance on"
    if kind in ("attention", "propagated", "affinity", "key_mass"):
        return head + (
            "no such attention passed through F.scaled_dot_product_attention there. "
            f"{_kernel(denoiser)} may bypass it (set the native one), a step cache may skip it, or "
            "the modules chosen attend to something else"
        )
    return head + "the block did not run; a step cache or a compiled module may skip its hooks"
