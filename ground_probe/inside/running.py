"""Runs of an editor that differ in nothing but what is changed on purpose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ground_probe.capture import Site
from ground_probe.capture.clock import predicts
from ground_probe.capture.tracing import without_bar
from ground_probe.editors import Editor, encoded_once
from ground_probe.errors import UnsupportedEditorError

Place = tuple[str, int, str]
"""Block, step and stream."""


@dataclass(frozen=True, eq=False)
class Patch:
    """An edit: states of another run take the place of a run's own."""

    states: Mapping[Place, Tensor]

    @property
    def blocks(self) -> tuple[str, ...]:
        """Whose outputs are patched."""
        return tuple(dict.fromkeys(block for block, _, _ in self.states))

    def __call__(self, site: Site, states: Tensor) -> Tensor | None:
        """The other run's states of a site, if there are any."""
        other = self.states.get((site.block, site.step, site.stream))
        return other.to(states) if other is not None and site.role == "cond" else None


@contextmanager
def same_draws(editor: Editor, seed: int) -> Iterator[None]:
    """Let what a pipeline takes from torch's global generators be the same in every run."""
    on = [editor.device] if editor.device.type == "cuda" else []
    with torch.random.fork_rng(devices=on), without_bar(editor.pipeline), encoded_once(editor):
        torch.manual_seed(seed)
        yield


def require_prediction(editor: Editor) -> None:
    """Refuse an editor in which a step's prediction is no straight line."""
    if not predicts(editor.pipeline):
        raise UnsupportedEditorError(
            "what a step predicts is known of flow matching only, not of "
            f"{type(editor.pipeline.scheduler).__name__}"
        )


def unguided(editor: Editor, given: Any) -> dict[str, Any]:
    """Arguments of a call without guidance, which would mix in another forward's states."""
    return {**editor.family.unguided, **(given or {})}
