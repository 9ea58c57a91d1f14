"""Editors: diffusers pipelines that follow an instruction, and the facts that are needed."""

import warnings

with warnings.catch_warnings():  # plain bars will do where a notebook has no widgets
    warnings.filterwarnings("ignore", "IProgress not found")
    import tqdm.auto  # noqa: F401 # before diffusers, which would warn

from ground_probe.editors.editor import Editor, load_editor
from ground_probe.editors.families import FAMILIES, family_of, models, register_family
from ground_probe.editors.family import Family, Fit
from ground_probe.editors.phrases import fill, locate
from ground_probe.editors.tokenized import unknown_words
from ground_probe.editors.untrained import random_weights
from ground_probe.editors.wrapping import encoded_once, wrapped

__all__ = [
    "FAMILIES",
    "Editor",
    "Family",
    "Fit",
    "encoded_once",
    "family_of",
    "fill",
    "load_editor",
    "locate",
    "models",
    "random_weights",
    "register_family",
    "unknown_words",
    "wrapped",
]
