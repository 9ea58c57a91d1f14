"""Attention rollout: how much of a token, block by block, comes from the phrase's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ground_probe.capture import Trace, trace
from ground_probe.capture.calls import each_call
from ground_probe.capture.kernel import Attention, Listening
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
        step: denoising step, from 0.
        residual: the share that the residual stream keeps.
        image, instruction, phrase, seed, num_steps, pipeline_kwargs: as of `trace`, unguided.

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
    every = blocks_of(editor.denoiser)
    first = next(iter(every))
    with same_draws(editor, seed):
        known = trace(editor, image, instruction, phrase, blocks=first, **options)
    text_at, image_at = known.layout.within_sequence()
    start = torch.zeros(known.layout.text + known.layout.image)
    start[[text_at.start + key for key in known.phrase_keys]] = 1
    running, share = "", start
    rollouts = Captured()

    def enter(block: str, given: dict[str, Any]) -> None:
        nonlocal running, share
        running = block
        if block == first:  # of each step
            share = start

    def attend(call: Attention) -> Tensor:
        nonlocal share
        if running and call.query.shape[2] == call.key.shape[2] == len(start):
            heads, share = call.query.shape[1], share.to(call.query.device)
            carried = call.one(0).carry(share[None, None, :, None].expand(1, heads, -1, 1))
            share = residual * share + (1 - residual) * carried[0, :, :, 0].mean(0)
            rollouts[running, step] = share[image_at].to("cpu", copy=True)[None, :, None]
        return call.output()

    with ExitStack() as stack:
        for name, block in every.items():
            stack.enter_context(each_call(block, partial(enter, name)))
        stack.enter_context(same_draws(editor, seed))
        stack.enter_context(Listening(attend))
        whole = trace(editor, image, instruction, phrase, **options)
    return replace(whole, hidden=Captured(), attention=rollouts)
