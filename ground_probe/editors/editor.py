"""An editor: a diffusers pipeline together with what must be known to call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import nn

from ground_probe.editors.families import family_of
from ground_probe.editors.family import Family, Fit
from ground_probe.editors.hub import repository
from ground_probe.editors.identity import identity
from ground_probe.editors.weights import check_quantizer, load_pipeline, usable_device
from ground_probe.errors import InputError, UnsupportedEditorError, unknown
from ground_probe.geometry import Geometry
from ground_probe.images import to_rgb

DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class Editor:
    """An editing pipeline and how to call it.

    ```python
    editor = gp.load_editor("tiny")
    editor.family.streams  # ("noise", "reference", "text")
    ```

    Args:
        pipeline: the diffusers pipeline itself.
        family: facts about its class.
        name: what was loaded.
        whole: the revision before blocks or encoders were freed, which cannot be told any more.
    """

    pipeline: Any = field(repr=False)
    family: Family = field(repr=False)
    name: str
    whole: str = field(default="", repr=False)

    @property
    def revision(self) -> str:
        """A digest of all in memory that determines the output, taken anew whenever it is asked."""
        return self.whole or identity(self.pipeline)

    @property
    def denoiser(self) -> nn.Module:
        """The transformer or UNet."""
        return denoiser_of(self.pipeline)

    @property
    def device(self) -> torch.device:
        """Where the pipeline runs."""
        return self.pipeline._execution_device

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's number format."""
        return self.denoiser.dtype

    def arguments(
        self, image: Image.Image, instruction: str, seed: int = 0, *, guided: bool = False
    ) -> dict[str, Any]:
        """Keyword arguments of `pipeline(**arguments)`, with equal noise and reference grids.

        Args:
            image: any mode; the pipeline is given RGB.
            instruction: what to change.
            seed: of the noise, drawn on the CPU so that devices agree.
            guided: whether to guide. Guidance leaves the first conditional forward as it is and
                only costs time there; it steers every later step.

        Raises:
            InputError: no image, or an instruction that is empty or not of the family's form.
        """
        image = to_rgb(image)
        if not isinstance(instruction, str) or not instruction.strip():
            raise InputError(f"instruction {instruction!r} is empty or no text: say what to change")
        if not self.family.words and instruction.lstrip()[0] != "{":
            raise InputError(
                f"{self.family.name} is not told {instruction!r} as it is ({self.family.note}): "
                "give the instruction, or the recipe's template, in that form"
            )
        family = self.family
        given: dict[str, Any] = {}
        if family.fit is not None:
            native = self._fit(image).native
            given |= family.arguments(self.pipeline, native)
            if family.sized:
                given |= {"height": native[0], "width": native[1]}
            if family.resize(self.pipeline):
                image = image.resize(native[::-1], Image.Resampling.LANCZOS)
        return {
            "image": image,
            "prompt": instruction,
            "generator": torch.Generator().manual_seed(seed),
            **given,
            **(family.guided if guided else family.unguided),
        }

    def edit(
        self, image: Image.Image, instruction: str, seed: int = 0, steps: int = 28
    ) -> Image.Image:
        """The edited image, at the image's own size.

        Args:
            image: what to edit.
            instruction: what to change.
            seed: of the noise.
            steps: denoising steps, at least 1.
        """
        arguments = self.arguments(image, instruction, seed, guided=True)
        edited = self.pipeline(**arguments, num_inference_steps=steps).images[0]
        return edited.resize(image.size, Image.Resampling.LANCZOS)

    def geometry(self, image: Image.Image) -> Geometry:
        """How an image lies on the grid of the editor's image tokens; a UNet's finest one.

        Raises:
            UnsupportedEditorError: it is not known how the pipeline resizes an image.
        """
        (height, width), mode, box = self._fit(image)
        token_px = self.family.token_px(self.pipeline)
        grid = height // token_px, width // token_px
        geometry = Geometry((image.height, image.width), grid, mode)
        return replace(geometry, box=box) if box else geometry

    def _fit(self, image: Image.Image) -> Fit:
        """How the pipeline brings an image to its own size."""
        if self.family.fit is None:
            raise UnsupportedEditorError(
                f"how {self.family.pipeline} brings an image to its own size is not known: add a "
                "`Family` with its `fit` to ground_probe/editors/families.py"
            )
        fit = self.family.fit(self.pipeline, (image.height, image.width))
        if min(fit.native) < self.family.token_px(self.pipeline):
            raise InputError(
                f"an image of {image.width} x {image.height} px is brought to {fit.native[1]} x "
                f"{fit.native[0]} px by {self.family.pipeline}, less than a token: crop or pad it"
            )
        return fit


def denoiser_of(pipeline: Any) -> nn.Module:
    """The module of a pipeline that denoises, without the wrapper of `torch.compile`.

    Raises:
        UnsupportedEditorError: the pipeline has neither a transformer nor a UNet.
    """
    for name in ("transformer", "unet"):
        module = getattr(pipeline, name, None)
        if isinstance(module, nn.Module):
            return getattr(module, "_orig_mod", module)
    raise UnsupportedEditorError(
        f"{type(pipeline).__name__} has neither `transformer` nor `unet`: give a diffusers "
        "pipeline whose denoiser is loaded"
    )


def load_editor(
    model: Any = "tiny",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    offload: str | None = None,
    quantize: str | None = None,
    download: bool = False,
    prepare: Callable[[Editor, torch.device], None] | None = None,
) -> Editor:
    """Load an editor.

    ```python
    gp.load_editor("tiny")  # the embedded one
    gp.load_editor("path/to/FLUX.1-Kontext-dev", device="cuda", quantize="bnb8")
    ```

    Args:
        model: "tiny", the embedded one; a folder that `save_pretrained` left; a hub id, or the
            last part of one that the registry knows; or a pipeline object.
        device: where to run; None for the accelerator if there is one.
        dtype: of the weights, or its name; None for bfloat16 on an accelerator and float32 on the
            CPU.
        offload: None, "model" or "sequential": keep the weights on the CPU between their uses.
        quantize: None, "bnb4", "bnb8" (bitsandbytes) or "torchao8": denoiser and text encoders
            are quantized by diffusers when they are loaded.
        download: fetch weights that are not in the hub's local cache.
        prepare: called with the editor and its device before the weights go there, to make it
            smaller: see `ground_probe.evaluation.large`.

    Raises:
        MissingWeightsError: no such folder, nothing in the cache or on the hub, or files that are
            damaged or do not hold every weight.
        UnsupportedEditorError: a pipeline that is no known editor.
        InputError: an option or a device that does not exist, or whose package is missing.
    """
    if offload not in (None, "model", "sequential"):
        raise InputError(f"offload={offload!r}: choose None, 'model' or 'sequential'")
    check_quantizer(quantize)
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        dtype = cast(torch.dtype, getattr(torch, dtype))
    place, named = usable_device(device), isinstance(model, str | Path)
    if named:
        dtype = dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16)
        pipeline = load_pipeline(str(model), dtype, quantize, download)
        name = repository(str(model))
    else:
        if quantize is not None:
            raise InputError("a pipeline object is already loaded: quantize it when it is loaded")
        pipeline, name = model, type(model).__name__
        if dtype is not None:
            pipeline.to(dtype)
    family = family_of(pipeline)
    family.prepare(pipeline)
    editor = Editor(pipeline, family, name)
    if prepare is not None:
        editor = replace(editor, whole=editor.revision)
        prepare(editor, place)
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=place)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=place)
    elif named:
        pipeline.to(place)
    return editor
