"""Attention rollout: how much of a token, block by block, comes from the phrase's tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ground_probe.capture import Trace, trace
from ground_probe.capture.calls import each_call
from ground_probe.capture.kernel import Attention, Listening
from ground_probe.capture.layout import Layout
from ground_probe.capture.sites import Captured, blocks_of
from ground_probe.editors import Editor
from ground_probe.editors.phrases import Span
from ground_probe.errors import InputError, UnsupportedEditorError
from ground_probe.inside.running import same_draws, unguided


def attention_rollout(
    editor: Editor,
    image: Image.Image,
    instruction: str,
    phrase: str | Span | None = None,
    *,
    step: int = 0,
    residual: float = 0.5,
    seed: int = 0,
    num_steps: int | None = None,
    pipeline_kwargs: Mapping[str, Any] | None = None,
) -> Trace:
    """How much of every image token comes from a phrase, after each block.

    ```python
    rolled = gp.attention_rollout(editor, image, "make the red circle blue", "the red circle")
    rolled.attention["transformer_blocks.1", 0]      # (1, image tokens, 1)
    ```

    r ← residual · r + (1 - residual) · mean over heads of A r, from r = 1 at the phrase's tokens
    and 0 elsewhere: the phrase's column of the product of (residual · I + (1 - residual) · Ā) over
    the blocks (Abnar and Zuidema 2020, arXiv 2005.00928). A r is one more call of the fused kernel
    with r as its values, so that no S x S matrix is built. A rollout knows attention alone, not
    what values and MLPs do with it, and grows flatter with every block.

    Args:
        editor: from `load_editor`; text and image must share one sequence.
        image: what to edit.
        instruction: what to change.
        phrase: words of the instruction, or their (start, stop); None for the whole instruction.
        step: denoising step, from 0.
        residual: the share that the residual stream keeps.
        seed: of the noise.
        num_steps: of the schedule; None for the pipeline's own default.
        pipeline_kwargs: further arguments of the pipeline's call. Guidance is off.

    Returns:
        a trace whose `attention` are the rollouts, so that `grid` and `image_tokens` hold for them.

    Raises:
        UnsupportedEditorError: text that comes by cross-attention.
        InputError: a residual that is no share.
    """
    if not 0 <= residual <= 1:
        raise InputError(f"residual={residual}: give a share from 0 to 1")
    if "text" not in editor.family.streams:
        raise UnsupportedEditorError(
            f"{editor.family.pipeline} takes its text by cross-attention: a rollout is of one "
            "sequence that text and image share; take maps from `trace`"
        )
    options: dict[str, Any] = {
        "attention": False, "streams": ("noise",), "steps": step, "seed": seed,
        "num_steps": num_steps, "pipeline_kwargs": unguided(editor, pipeline_kwargs),
    }  # fmt: skip
    with same_draws(editor, seed):
        first = next(iter(blocks_of(editor.denoiser)))
        known = trace(editor, image, instruction, phrase, blocks=first, **options)
    rolling = _Rolling(known.layout, known.phrase_keys, residual)
    with same_draws(editor, seed), rolling.through(editor.denoiser):
        whole = trace(editor, image, instruction, phrase, **options)
    return replace(
        whole,
        hidden=Captured(),
        attention=Captured({(block, step): share for block, share in rolling.shares.items()}),
    )


class _Rolling:
    """The rollout of the step that is running: it starts anew at the first block.

    1. Before a block runs, its name is noted.
    2. Every attention over the whole sequence is computed as ever, and carries the share on.
    """

    def __init__(self, layout: Layout, keys: tuple[int, ...], residual: float) -> None:
        text, self._image = layout.within_sequence()
        self._start = torch.zeros(layout.text + layout.image)
        self._start[[text.start + key for key in keys]] = 1
        self._residual, self._share, self._block = residual, self._start, ""
        self.shares: dict[str, Tensor] = {}  # by block, of image tokens

    @contextmanager
    def through(self, denoiser: nn.Module) -> Iterator[None]:
        """Follow the attention of every block."""
        with ExitStack() as stack:
            for place, (name, block) in enumerate(blocks_of(denoiser).items()):
                stack.enter_context(each_call(block, partial(self._enter, name, place == 0)))
            stack.enter_context(Listening(self._attend))
            yield

    def _enter(self, name: str, first: bool, _: dict[str, Any]) -> None:
        self._block = name
        if first:
            self._share = self._start

    def _attend(self, call: Attention) -> Tensor:
        if self._block and call.query.shape[2] == call.key.shape[2] == len(self._start):
            heads, share = call.query.shape[1], self._share.to(call.query.device)
            carried = call.one(0).carry(share[None, None, :, None].expand(1, heads, -1, 1))
            mixed = carried[0, :, :, 0].mean(0)
            self._share = self._residual * share + (1 - self._residual) * mixed
            self.shares[self._block] = self._share[self._image].to("cpu", copy=True)[None, :, None]
        return call.output()
