"""Load a pipeline from its folder: every weight from its file, and nothing that is not one's own.

A part is loaded by itself, for only so does its library say which weights it did not find and
which it did not use; diffusers' loader of pipelines keeps that to the log.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch

from ground_probe.editors.families import known_family
from ground_probe.editors.hub import absent, cached_index, fetch, how_to_get, repository
from ground_probe.errors import InputError, MissingWeightsError, UnsupportedEditorError, unknown

TINY = Path(__file__).parent / "tiny" / "weights"
# By name: the package, the configuration's class in either library, about the bytes of a weight.
QUANTIZERS = {
    "bnb4": ("bitsandbytes", "BitsAndBytesConfig", 0.57),
    "bnb8": ("bitsandbytes", "BitsAndBytesConfig", 1.0),
    "torchao8": ("torchao", "TorchAoConfig", 1.0),
}
_QUANTIZED = ("transformer", "unet", "text_encoder")


def usable_device(device: str | torch.device | None = None) -> torch.device:
    """The device that a name stands for, or the best there is, after trying it.

    Raises:
        InputError: there is no such device here.
    """
    if device is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.empty(1, device=device).cpu()
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        best = torch.accelerator.current_accelerator(check_available=True)
        raise InputError(
            f"device {str(device)!r} cannot be used here ({str(error).splitlines()[0]}): give cpu"
            f"{f' or {best}' if best else '; torch finds no accelerator on this machine'}"
        ) from error


def load_pipeline(
    model: str, dtype: torch.dtype, quantize: str | None = None, download: bool = False
) -> Any:
    """Load a pipeline, on the CPU; see `load_editor`."""
    folder = TINY if model == "tiny" else Path(model).expanduser()
    if folder.is_dir():
        return load_folder(folder, dtype, quantize)
    name = repository(model)
    if absent(model, download):
        fetch(name)
    cached = cast(Path, cached_index(name)).parent
    try:
        return load_folder(cached, dtype, quantize)
    except MissingWeightsError as error:
        if not download:
            raise MissingWeightsError(
                f"{name} is not whole in the local cache ({error}); {how_to_get(name)}"
            ) from error
    fetch(name)
    return load_folder(cast(Path, cached_index(name)).parent, dtype, quantize)


def load_folder(folder: Path, dtype: torch.dtype, quantize: str | None = None) -> Any:
    """Load what `save_pretrained` left in a folder, on the CPU."""
    import diffusers
    from transformers import PreTrainedModel

    kind, parts = _index(folder)
    known_family(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm's too, of widgets that a notebook does not have
        models = {
            name: _model(folder, name, part, dtype, quantize)
            for name, part in parts.items()
            if issubclass(part, diffusers.ModelMixin | PreTrainedModel)
        }
        try:
            return diffusers.DiffusionPipeline.from_pretrained(
                str(folder), torch_dtype=dtype, local_files_only=True, **models
            )
        except Exception as error:
            raise _told(folder, error) from error


def _index(folder: Path) -> tuple[type, dict[str, type]]:
    """The class of a folder's pipeline, and those of its parts."""
    import diffusers

    path = folder / "model_index.json"
    if not path.is_file():
        raise MissingWeightsError(
            f"{folder} has no model_index.json: give a folder that `save_pretrained` left"
        )
    try:
        index = json.loads(path.read_bytes())
        name = index["_class_name"]
        parts = {
            part: value
            for part, value in index.items()
            if value and isinstance(value, list) and all(isinstance(v, str) for v in value)
        }
    except Exception as error:
        raise _told(path, error) from error
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise UnsupportedEditorError(
            f"{path} names the pipeline {name!r}, which diffusers {diffusers.__version__} does not "
            "have: code that comes with weights is not run"
        )
    return kind, {part: _class_of(path, part, value) for part, value in parts.items()}


def _class_of(path: Path, part: str, names: list[str]) -> type:
    """The class of a part, looked up in diffusers and transformers alone."""
    import diffusers
    import transformers

    library, *name = names
    modules = {"diffusers": diffusers, "transformers": transformers}
    own = getattr(diffusers.pipelines, library, None)  # a pipeline's, as "stable_diffusion"
    kind = getattr(modules.get(library, own), ".".join(name), None)
    if not isinstance(kind, type):
        raise UnsupportedEditorError(
            f"{path} takes {part} from {names}: only parts of diffusers and transformers, as "
            "installed here, are loaded"
        )
    return kind


def _model(
    folder: Path, name: str, kind: Any, dtype: torch.dtype, quantize: str | None
) -> torch.nn.Module:
    """A part with weights; every one of them from its file."""
    import diffusers

    path = folder / name
    dtype_name = "torch_dtype" if issubclass(kind, diffusers.ModelMixin) else "dtype"
    options = {dtype_name: dtype, "local_files_only": True, "output_loading_info": True}
    try:
        model, info = kind.from_pretrained(
            str(path), **options | _quantization(quantize, name, kind)
        )
    except Exception as error:
        raise _told(path, error) from error
    unfilled = {key for key, weight in model.named_parameters() if weight.is_meta}
    missing = sorted({*info["missing_keys"], *unfilled})
    unused = [] if hasattr(model, "hf_quantizer") else sorted(info["unexpected_keys"])
    if missing or unused:
        said = [
            f"{len(keys)} weights {what}, as {keys[0]!r}"
            for keys, what in ((missing, "are not in its files"), (unused, "have no place in it"))
            if keys
        ]
        raise MissingWeightsError(
            f"{path} does not hold the weights of its {kind.__name__}: {' and '.join(said)}; "
            "download or save it again"
        )
    return model


def check_quantizer(quantize: str | None) -> None:
    """Raise InputError unless the quantizer is known and its package installed."""
    if quantize is None:
        return
    if quantize not in QUANTIZERS:
        raise unknown("quantizer", quantize, QUANTIZERS)
    package = QUANTIZERS[quantize][0]
    if find_spec(package) is None:
        raise InputError(f"quantize={quantize!r} needs {package}: pip install {package}")


def _quantization(quantize: str | None, part: str, kind: type) -> dict[str, Any]:
    """The loader's argument: the denoiser and the text encoders are quantized."""
    if quantize is None or not part.startswith(_QUANTIZED):
        return {}
    config = QUANTIZERS[quantize][1]
    if config == "TorchAoConfig":
        from torchao.quantization import Int8WeightOnlyConfig

        options: Mapping[str, Any] = {"quant_type": Int8WeightOnlyConfig()}
    else:
        options = {f"load_in_{quantize[-1]}bit": True}
    library = importlib.import_module(kind.__module__.partition(".")[0])
    return {"quantization_config": getattr(library, config)(**options)}


def _told(path: Path, error: Exception) -> Exception:
    """What is wrong with a file or a folder that could not be loaded, as one sentence."""
    if isinstance(error, torch.OutOfMemoryError):
        return error
    said = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, ImportError):
        return InputError(f"{path} needs a package that is not here or does not work: {said}")
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file() and (what := _instead(file)):
            return MissingWeightsError(f"{file} {what}: download or save it again")
    return MissingWeightsError(
        f"{path} cannot be loaded ({type(error).__name__}: {said}): download or save it again"
    )


def _instead(file: Path) -> str | None:
    """What a file is instead of what its name says, where that shows at its beginning."""
    with file.open("rb") as opened:
        head = opened.read(256).lstrip()
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself (`git lfs pull` gets it)"
    return "is a web page" if head.startswith(b"<") else None if head else "is empty"
