"""Editors: diffusers pipelines that follow an instruction, and the facts that are needed."""

from ground_probe.editors.editor import Editor, load_editor
from ground_probe.editors.encoding import encoded_once
from ground_probe.editors.families import FAMILIES, Family, family_of, models
from ground_probe.editors.phrases import fill, locate
from ground_probe.editors.untrained import random_weights

__all__ = [
    "FAMILIES",
    "Editor",
    "Family",
    "encoded_once",
    "family_of",
    "fill",
    "load_editor",
    "locate",
    "models",
    "random_weights",
]
