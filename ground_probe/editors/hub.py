"""The hub's models: their names, what is in the local cache, and a download only when asked."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from ground_probe.editors.families import FAMILIES
from ground_probe.errors import MissingWeightsError

PREFLIGHT_SECONDS = 5


def repository(model: str) -> str:
    """The hub id that a model's last part stands for; anything else as it is.

    >>> repository("FLUX.1-Kontext-dev")
    'black-forest-labs/FLUX.1-Kontext-dev'
    """
    for family in FAMILIES:
        if model.lower() == family.weights.split("/")[-1].lower() and not Path(model).is_dir():
            return family.weights
    return model


def absent(model: str, download: bool = False) -> str | None:
    """The hub id to fetch when a model is not here and may be downloaded; None when it is here.

    Raises:
        MissingWeightsError: it is not here and may not be, or is no name of a model.
    """
    if model == "tiny" or Path(model).expanduser().is_dir():
        return None
    name = repository(model)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        known = [family.weights.split("/")[-1] for family in FAMILIES]
        near = get_close_matches(name, ["tiny", *known], n=1)
        raise MissingWeightsError(
            f"no model {model!r}{f' (did you mean {near[0]!r}?)' if near else ''}: give 'tiny', an "
            "existing folder or a hub id such as 'black-forest-labs/FLUX.1-Kontext-dev'"
        )
    if cached_index(name) is not None:
        return None
    if not download:
        raise MissingWeightsError(f"{name} is not in the local cache; {how_to_get(name)}")
    return name


def cached_index(name: str) -> Path | None:
    """The `model_index.json` of a hub id in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(name, "model_index.json")
    return Path(index) if isinstance(index, str) else None


def how_to_get(name: str) -> str:
    """What a model's weights need: size, licence, the variable to set and the command."""
    family = next((family for family in FAMILIES if family.weights == name), None)
    size = f"about {family.memory_gb:g} GB" if family and family.memory_gb else "size unknown"
    licence = f", {family.licence}" if family and family.licence else ""
    access = (
        f"accept the licence at https://huggingface.co/{name} and set HF_TOKEN "
        "(or `hf auth login`), then "
    )
    return (
        f"{size}{licence}: {access if 'gated' in licence else ''}run `hf download {name}`, or give "
        "--download to the command that runs it; without them, use the embedded editor "
        "(--model tiny)"
    )


def fetch(name: str, patterns: list[str] | None = None) -> None:
    """Download a model's files, after one quick question whether they can be had at all.

    Args:
        name: hub id.
        patterns: which files; None for all that its pipeline loads.

    Raises:
        MissingWeightsError: no network, no access or no such model.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        get_hf_file_metadata(hf_hub_url(name, "model_index.json"), timeout=PREFLIGHT_SECONDS)
    except Exception as error:  # httpx, the socket and the hub each have their own
        if isinstance(error, GatedRepoError):  # first: it is a RepositoryNotFoundError too
            why = f"is gated and this machine has no access; {how_to_get(name)}"
        elif isinstance(error, RepositoryNotFoundError):
            why = "is not on the hub, or it is private: check the name, or set HF_TOKEN"
        else:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            why = (
                f"is not in the local cache and the hub cannot be reached ({reason}); "
                f"{how_to_get(name)}"
            )
        raise MissingWeightsError(f"{name} {why}") from error
    if patterns is None:
        from diffusers import DiffusionPipeline

        DiffusionPipeline.download(name)
    else:
        snapshot_download(name, allow_patterns=patterns)
