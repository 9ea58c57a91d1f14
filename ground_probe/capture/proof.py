"""Is the layout that is assumed of a pipeline outside the registry true? Proven while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ground_probe.capture.kernel import Attention, Listening
from ground_probe.capture.layout import Layout
from ground_probe.editors.families import FAMILIES
from ground_probe.editors.family import Family
from ground_probe.errors import UnsupportedEditorError


class _Enough(Exception):
    """The first joint attention was heard."""


class Proof:
    """That text comes before the image, and that the noise is what the scheduler is given.

    Registered families are tested once and for all. Of others, until it is proven, no run is
    stopped and nothing is given out. A denoiser whose text enters by cross-attention has one order;
    that its blocks return image tokens alone is checked wherever they return.

    Attributes:
        given: whether all is proven.
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        self.given = any(family is known for known in FAMILIES)
        self._ordered = self.given

    def order(self, denoiser: nn.Module, given: Mapping[str, Any], layout: Layout) -> None:
        """Move one text token and see which key moves."""
        if self._ordered or not layout.joint:
            return
        moved = given["encoder_hidden_states"].clone()
        moved[0, 0] += 1
        before = _first_keys(denoiser, given, layout)
        after = _first_keys(denoiser, {**given, "encoder_hidden_states": moved}, layout)
        changed = (after - before).abs().sum((0, -1)).nonzero().flatten().tolist()
        if changed != [layout.within_sequence()[0].start]:
            self._refuse(
                f"when its first text token is moved, the keys {changed[:5]} of its attention "
                "move, so where text and image tokens lie is not known"
            )
        self._ordered = True

    def noise(self, sample: Tensor, layout: Layout) -> None:
        """Compare the noise tokens with the sample that the scheduler is given."""
        if self.given:
            return
        tokens = layout.tokens("noise")
        patch = 1.0 if sample.ndim == 3 else (prod(sample.shape[2:]) / tokens) ** 0.5
        if not patch.is_integer() or (sample.ndim == 3 and sample.shape[1] != tokens):
            self._refuse(
                f"its scheduler is given a sample of shape {tuple(sample.shape)}, not the "
                f"{tokens} tokens of one noise grid {layout.grids['noise']}"
            )
        self.given = True

    def require(self) -> None:
        """Refuse a run that has ended without a proof."""
        if not self.given:
            self._refuse("its scheduler made no step, so what it denoises is not known")

    def _refuse(self, why: str) -> None:
        raise UnsupportedEditorError(
            f"{self._family.pipeline} is not in the registry and cannot be captured: {why}. Add a "
            "`Family` to ground_probe/editors/families.py and run `testing.check_family`"
        )


def _first_keys(denoiser: nn.Module, given: Mapping[str, Any], layout: Layout) -> Tensor:
    """The keys of the first joint attention of a denoiser, (heads, keys, dim)."""
    keys: list[Tensor] = []
    whole = layout.text + layout.image

    def hear(call: Attention) -> Tensor:
        if call.query.shape[2] == call.key.shape[2] == whole:
            keys.append(call.key[0].detach().clone())
            raise _Enough
        return call.output()

    with suppress(_Enough), torch.no_grad(), Listening(hear):
        denoiser.forward(**{name: given[name] for name in given if name != "self"})
    if not keys:
        raise UnsupportedEditorError(
            f"{type(denoiser).__name__} has no attention of its {layout.text} text and "
            f"{layout.image} image tokens to one another, so where they lie is not known"
        )
    return keys[0]
