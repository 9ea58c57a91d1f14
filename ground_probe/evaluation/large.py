"""Large models made smaller for an evaluation: blocks dropped, text encoders freed."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from tqdm import tqdm

from ground_probe.capture.sites import blocks_of
from ground_probe.editors import Editor, fill, load_editor, wrapped
from ground_probe.errors import GroundProbeError, InputError
from ground_probe.segmentation.forward import blocks_read
from ground_probe.segmentation.recipe import Recipe
from ground_probe.segmentation.recipes import recipe_for


@dataclass(frozen=True)
class Load:
    """Loads an editor that is no larger than an evaluation needs; travels to workers.

    Args:
        model: see `load_editor`.
        options: further arguments of `load_editor`.
        recipe: what will be asked of the editor; see `recipe_for`.
        drop: whether to drop the blocks after the last one that the recipe needs.
        expressions: encoded in the recipe's template before the text encoders are freed; none to
            keep the encoders.
    """

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe | str | None = None
    drop: bool = False
    expressions: tuple[str, ...] = ()

    def __call__(self) -> Editor:
        """Load it."""
        return load_editor(self.model, **self.options, prepare=self._prepare)

    def _prepare(self, editor: Editor, device: torch.device) -> None:
        recipe = recipe_for(editor, self.recipe)
        if self.drop and self.options.get("quantize"):
            raise InputError("blocks of quantized weights cannot be dropped: choose one of the two")
        if self.drop:
            last = blocks_read(tuple(blocks_of(editor.denoiser)), recipe)[-1]
            drop_blocks(editor.denoiser, last)
        if self.expressions:
            words = dict.fromkeys(self.expressions)
            encode_ahead(editor, [fill(recipe.template, each)[0] for each in words], device)


def drop_blocks(denoiser: nn.Module, last: str) -> None:
    """Free the weights of every block after one; the blocks keep their names and places.

    A run that stops at `last` is not changed.

    Args:
        denoiser: whose blocks; changed in place.
        last: name of the last block that is kept.
    """
    blocks = blocks_of(denoiser)
    names = list(blocks)
    for name in names[names.index(last) + 1 :]:
        for each in (*blocks[name].parameters(), *blocks[name].buffers()):
            each.data = each.data.new_empty(0)

        def refuse(module: nn.Module, args: tuple, name: str = name) -> None:
            raise GroundProbeError(
                f"block {name} was dropped, {last} being the last one needed: load the editor "
                "without dropping blocks"
            )

        blocks[name].register_forward_pre_hook(refuse)


def encode_ahead(editor: Editor, instructions: Sequence[str], device: torch.device) -> None:
    """Encode instructions, keep what the text encoders said, and free the encoders.

    From then on the editor knows these instructions and no others; its masks are the same.

    Args:
        editor: on the CPU; its text encoders are replaced.
        instructions: every one that will be asked for.
        device: where to encode; the answers are kept on the CPU.

    Raises:
        InputError: the text encoder sees the image too, so nothing can be encoded ahead.
    """
    pipeline = editor.pipeline
    if "image" in inspect.signature(pipeline.encode_prompt).parameters:
        raise InputError(
            f"{editor.family.name}'s text encoder sees the image too: its instructions cannot be "
            "encoded ahead; leave out --encode-ahead"
        )
    encoders = {
        name: _Remembered(part, device)
        for name, part in pipeline.components.items()
        if name.startswith("text_encoder") and isinstance(part, nn.Module)
    }
    pipeline.register_modules(**encoders)
    blank = Image.new("RGB", (64, 64))
    with wrapped(pipeline.vae, "encode", _stop), torch.no_grad():
        for instruction in tqdm(instructions, unit="instruction", desc="encode"):
            with suppress(_Stop):
                pipeline(**editor.arguments(blank, instruction), num_inference_steps=2)
                raise GroundProbeError(
                    f"{editor.family.pipeline} does not encode its text before its image"
                )
    for encoder in encoders.values():
        encoder.original.clear()


class _Stop(BaseException):
    """The text is encoded."""


def _stop(*args: Any, **kwargs: Any) -> None:
    raise _Stop


class _Remembered(nn.Module):
    """A text encoder that answers from memory what it was asked before."""

    def __init__(self, encoder: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.config, self._dtype = encoder.config, encoder.dtype
        self.register_buffer("_here", torch.empty(0), persistent=False)
        self._answers: dict[str, Any] = {}
        self.original: list[nn.Module] = [encoder.to(device)]  # in a list: no submodule

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    @property
    def device(self) -> torch.device:
        return self._here.device

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        asked = (args, sorted(kwargs.items()))
        key = repr(tree_map_only(Tensor, lambda tensor: (tensor.dtype, tensor.tolist()), asked))
        if key not in self._answers:
            if not self.original:
                raise InputError(
                    "this instruction was not encoded before the text encoders were freed: load "
                    "the editor without encoding ahead"
                )
            (encoder,) = self.original
            device = next(encoder.parameters()).device
            args, kwargs = _moved((args, kwargs), device)
            self._answers[key] = _moved(encoder(*args, **kwargs), torch.device("cpu"))
        return _moved(self._answers[key], self.device)


def _moved(value: Any, device: torch.device) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), value)
