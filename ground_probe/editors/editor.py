"""An editor: a diffusers pipeline together with what must be known to call it."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from ground_probe.editors.families import Family, family_of
from ground_probe.errors import InputError, MissingWeightsError, UnsupportedEditorError
from ground_probe.geometry import Geometry

_LARGE = 2**30
TINY = Path(__file__).parent / "tiny" / "weights"


@dataclass(frozen=True)
class Editor:
    """An editing pipeline and how to call it.

    Args:
        pipeline: the diffusers pipeline itself.
        family: facts about its class.
        name: what was loaded.
        revision: the hub's commit, or a digest of the weights.
    """

    pipeline: Any = field(repr=False)
    family: Family = field(repr=False)
    name: str
    revision: str = ""

    @property
    def denoiser(self) -> nn.Module:
        """The transformer or UNet."""
        for name in ("transformer", "unet"):
            module = getattr(self.pipeline, name, None)
            if isinstance(module, nn.Module):
                return getattr(module, "_orig_mod", module)
        raise UnsupportedEditorError(f"{self.name} has no denoiser")

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
            InputError: no image, or an empty instruction.
        """
        image = _rgb(image)
        if not isinstance(instruction, str) or not instruction.strip():
            raise InputError(f"instruction {instruction!r} is empty: say what to change")
        family, given = self.family, {}
        if family.fit is not None:
            native = family.fit(self.pipeline, (image.height, image.width)).native
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
        if self.family.fit is None:
            raise UnsupportedEditorError(
                f"how {self.family.pipeline} brings an image to its own size is not known: add a "
                "`Family` with its `fit` to ground_probe/editors/families.py"
            )
        size_px = image.height, image.width
        (height, width), mode, box = self.family.fit(self.pipeline, size_px)
        token_px = self.family.token_px(self.pipeline)
        return Geometry(size_px, (height // token_px, width // token_px), mode=mode, box=box)


def load_editor(
    model: Any = "tiny",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    offload: str | None = None,
) -> Editor:
    """Load an editor.

    Args:
        model: "tiny", the embedded one; a folder that `save_pretrained` left; a hub id; or a
            pipeline object.
        device: where to run; None for the accelerator if there is one.
        dtype: of the weights; None for bfloat16 on an accelerator and float32 on the CPU.
        offload: None, "model" or "sequential": keep the weights on the CPU between their uses.

    Raises:
        MissingWeightsError: no such folder, and nothing in the cache or on the hub.
        UnsupportedEditorError: a pipeline that is no known editor.
    """
    if offload not in (None, "model", "sequential"):
        raise InputError(f"offload={offload!r}: choose None, 'model' or 'sequential'")
    device = torch.device(device or _accelerator())
    if isinstance(model, str | Path):
        dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
        pipeline, revision = _load(str(model), dtype)
        name = str(model)
    else:
        pipeline, name, revision = model, type(model).__name__, ""
        if dtype is not None:
            pipeline.to(dtype)
    family = family_of(pipeline)
    family.prepare(pipeline)
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    elif isinstance(model, str | Path):
        pipeline.to(device)
    return Editor(pipeline, family, name, revision)


def _load(model: str, dtype: torch.dtype) -> tuple[Any, str]:
    from diffusers import DiffusionPipeline

    folder = TINY if model == "tiny" else Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise MissingWeightsError(
                f"{folder} has no model_index.json: give a folder that `save_pretrained` left"
            )
        return _from_pretrained(DiffusionPipeline, str(folder), dtype), weights_digest(folder)
    if model == "tiny":
        raise MissingWeightsError(
            f"the embedded editor's weights are not in {folder}: run `ground-probe train-tiny`"
        )
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise MissingWeightsError(
            f"no model {model!r}: give 'tiny', an existing folder or a hub id such as "
            "'black-forest-labs/FLUX.1-Kontext-dev'"
        )
    try:
        pipeline = _from_pretrained(DiffusionPipeline, model, dtype)
    except (OSError, ValueError) as error:
        raise MissingWeightsError(
            f"cannot load {model!r} from the hub or its cache: {str(error).splitlines()[0]} "
            "(gated weights need `hf auth login` and an accepted licence)"
        ) from error
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(model, "model_index.json")
    return pipeline, Path(index).parent.name if isinstance(index, str) else ""


def _from_pretrained(loader: Any, source: str, dtype: torch.dtype) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return loader.from_pretrained(source, torch_dtype=dtype)


def weights_digest(folder: Path) -> str:
    """12 hex digits over a pipeline folder's index and weights: files above 1 GB by their ends."""
    index = json.loads((folder / "model_index.json").read_text())
    digest = hashlib.sha256(json.dumps(index, sort_keys=True).encode())
    for path in sorted(folder.rglob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)} {size}".encode())
        with path.open("rb") as file:
            if size <= _LARGE:
                digest.update(hashlib.file_digest(file, "sha256").digest())
                continue
            # Hashing tens of gigabytes would take longer than loading them.
            digest.update(file.read(_LARGE // 64))
            file.seek(-(_LARGE // 64), 2)
            digest.update(file.read())
    return digest.hexdigest()[:12]


def _accelerator() -> str:
    found = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if found is None else found.type


def _rgb(image: Any) -> Image.Image:
    if not isinstance(image, Image.Image):
        raise InputError(f"image is a {type(image).__name__}: give a PIL image")
    return image if image.mode == "RGB" else image.convert("RGB")
