"""The recipes that come with the package, and how a name, a file or nothing becomes one."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ground_probe.editors.editor import Editor
from ground_probe.editors.fits import small_side_px
from ground_probe.errors import InputError, unknown
from ground_probe.segmentation.recipe import Recipe

NAMES = ("default", "paper", "change")


def recipe_for(editor: Editor, recipe: Recipe | str | Path | None = None) -> Recipe:
    """The recipe that is meant for an editor.

    ```python
    recipe_for(editor)                  # the packaged one of its family, or the embedded editor's
    recipe_for(editor, "paper")         # the settings of the paper's authors, as far as known
    recipe_for(editor, "change")        # where the step would change something
    recipe_for(editor, "recipe.json")   # a file, from `calibrate` or written by hand
    ```

    Args:
        editor: from `load_editor`.
        recipe: a `Recipe` is taken as it is; None is "default".

    Raises:
        InputError: the file is no recipe, or it names streams that the editor does not have.
        UnknownNameError: neither a packaged recipe nor a file.
    """
    if not isinstance(recipe, Recipe):
        recipe = read_recipe(recipe or "default")
    if isinstance(recipe, str):
        recipe = _packaged_for(recipe, editor)
    if missing := sorted(set(recipe.streams) - set(editor.family.streams)):
        raise InputError(
            f"the recipe reads the stream {missing[0]!r}, which {editor.family.name} does not "
            f"have: it has {', '.join(editor.family.streams)}"
        )
    return recipe


def read_recipe(name: str | Path) -> Recipe | str:
    """A file's recipe; the name of a packaged one stays, for its choices depend on the editor.

    Raises:
        InputError: the file is no recipe.
        UnknownNameError: neither a packaged recipe nor a file.
    """
    if name in NAMES:
        return str(name)
    path = Path(name).expanduser()
    if not path.is_file():
        raise unknown("recipe", str(name), (*NAMES, "or a file"))
    return Recipe.from_json(path)


def _packaged_for(name: str, editor: Editor) -> Recipe:
    family = editor.family.name
    embedded = family == "FluxKontext" and small_side_px(editor.pipeline)
    return _of_family(name, "tiny" if embedded else family, editor.family.streams)


@cache
def _of_family(name: str, family: str, streams: tuple[str, ...]) -> Recipe:
    """The choices of all families, then those of a family; the last that is given holds."""
    choices: dict[str, Any] = {}
    for layer in ("paper", *(() if name == "paper" else (name,))):
        packaged = _packaged()[layer]
        choices |= packaged["all"] | packaged.get(family, {})
    if "reference" not in streams:
        choices |= {"prior_streams": ["noise"], "feature_streams": ["noise"]}
    return Recipe.from_choices(choices, name)


@cache
def _packaged() -> dict[str, Any]:
    stored = files("ground_probe.segmentation") / "recipes.json"
    return json.loads(stored.read_text(encoding="utf-8"))
