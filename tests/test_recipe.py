from __future__ import annotations

import json
from dataclasses import fields, replace
from importlib.resources import files

import pytest

import ground_probe as gp
from ground_probe.editors import FAMILIES, Editor, Family
from ground_probe.errors import InputError, UnknownNameError
from ground_probe.segmentation.look import needed
from ground_probe.segmentation.recipe import Recipe, at_depth, default_recipe, in_depth
from ground_probe.testing import instruct_pix2pix, kontext, sdxl_instruct_pix2pix

BLOCKS = [f"block.{i}" for i in range(6)]


def test_the_digest_changes_with_every_choice_and_with_nothing_else():
    other = {
        "template": "remove {expression}", "magnets": "of", "affinity": "attention",
        "step": 1, "seeds": 3, "contrast": "the image", "contrast_in": "both",
        "prior_depth": (0.0, 0.5), "prior_streams": ("noise",), "heads": ((0.5, 1),),
        "direction": "both", "prior_from": "change",
        "words": "all",
        "spatial": 0.5, "propagation": 9, "temperature": 0.7, "feature_depth": (0.9, 1.0),
        "feature_streams": ("reference",), "classifier": "lda", "prototypes": 4, "focus": 3.5,
        "rounds": 7, "prior_power": 0.25,
        "edges": 0.25,
    }  # fmt: skip
    assert set(other) == {each.name for each in fields(Recipe)} - {"provenance"}
    digests = {replace(Recipe(), **{name: value}).digest for name, value in other.items()}
    assert len(digests | {Recipe().digest}) == len(other) + 1
    assert Recipe(provenance={"by": "hand"}).digest == Recipe().digest
    assert Recipe(focus=2).digest == Recipe(focus=2.0).digest


def test_a_recipe_survives_its_file(tmp_path):
    recipe = Recipe(prior_streams=["noise"], focus=3, provenance={"data": ["scenes"]})
    recipe.to_json(tmp_path / "recipe.json")
    again = Recipe.from_json(tmp_path / "recipe.json")
    assert again == recipe and again.digest == recipe.digest
    assert again.provenance == {"data": ["scenes"]}


def _without(stored: dict, key: str) -> dict:
    return {name: value for name, value in stored.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stored: stored | {"colour": 1}, "colour"),
        (lambda stored: _without(stored, "focus"), "focus"),
        (lambda stored: stored | {"focus": 3.0}, "changed after it was written"),
        (lambda stored: stored | {"words": "al"}, "did you mean 'all'"),
        (lambda stored: stored | {"seeds": "2"}, "seeds is '2', expected int"),
        (lambda stored: [stored], "not a recipe"),
    ],
)
def test_a_changed_file_is_refused(tmp_path, change, message):
    path = tmp_path / "recipe.json"
    Recipe().to_json(path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(InputError, match=message):
        Recipe.from_json(path)


def test_a_file_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "recipe.json").write_text("focus: 2")
    with pytest.raises(InputError, match="is not a recipe"):
        Recipe.from_json(tmp_path / "recipe.json")


@pytest.mark.parametrize(
    "choice",
    [
        {"template": "make it red"},
        {"prior_depth": (0.5, 0.5)},
        {"feature_depth": (0.0, 1.5)},
        {"prior_streams": ()},
        {"seeds": 0},
        {"step": -1},
        {"spatial": 2.0},
        {"focus": 0.0},
        {"heads": ((1.5, 0),)},
        {"heads": ((0.5, -1),)},
    ],
)
def test_a_choice_out_of_range_is_refused(choice):
    (name,) = choice
    with pytest.raises(InputError, match=f"recipe: {name} is"):
        Recipe(**choice)


@pytest.mark.parametrize("choice", [{"prior_depth": (0.1,)}, {"heads": ((0.5, 1, 2),)}])
def test_a_choice_of_the_wrong_length_is_refused(choice):
    with pytest.raises(InputError, match="expected 2 values"):
        Recipe(**choice)


def test_an_unknown_choice_lists_what_there_is():
    with pytest.raises(UnknownNameError, match="from_image, from_text, both"):
        Recipe(direction="sideways")


def test_depths_choose_blocks_by_their_middles():
    assert in_depth(BLOCKS, (0.0, 1.0)) == tuple(BLOCKS)
    assert in_depth(BLOCKS, (0.333, 0.667)) == ("block.2", "block.3")
    assert in_depth(BLOCKS, (0.30, 0.31)) == ("block.1",)
    recipe = Recipe(prior_depth=(0.5, 0.667), feature_depth=(0.0, 0.2))
    assert needed(BLOCKS, recipe) == ("block.0", "block.3")
    assert at_depth(BLOCKS, 0.9) == "block.5"
    recipe = Recipe(heads=((0.58, 1), (0.1, 0), (0.58, 0)), feature_depth=(0.0, 0.2))
    assert needed(BLOCKS, recipe) == ("block.0", "block.3")


def test_features_that_are_not_compared_are_not_read():
    recipe = Recipe(classifier="none", propagation=0, prior_depth=(0.5, 0.667))
    assert needed(BLOCKS, recipe) == ("block.3",) and not recipe.reads_features
    carried = replace(recipe, propagation=1)
    assert len(needed(BLOCKS, carried)) > 1 and carried.reads_features
    assert not replace(carried, prior_from="change").reads_features
    assert "feature_depth" in recipe.idle and "feature_depth" not in carried.idle


def test_every_packaged_recipe_is_whole_and_says_where_it_is_from():
    folder = files("ground_probe.segmentation") / "recipes"
    stored = [file for file in folder.iterdir() if file.name.endswith(".json")]
    assert {"tiny.json"} < {f.name for f in stored}
    assert {f.name for f in stored} <= {f"{f.name}.json" for f in FAMILIES} | {"tiny.json"}
    for file in stored:
        assert Recipe.from_json(file).provenance["method"]


def test_small_editors_take_the_embedded_editor_s_recipe():
    small, large = (gp.load_editor(kontext(sample_size=side)) for side in (64, 1024))
    assert default_recipe(small).provenance != default_recipe(large).provenance


# The Euler schedulers of diffusers 0.42.1 under NumPy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("builder", [instruct_pix2pix, sdxl_instruct_pix2pix])
def test_an_editor_without_a_reference_stream_takes_its_family_s_recipe(builder):
    pipeline = builder()
    pipeline.vae.register_to_config(sample_size=512)  # as the weights on the hub say
    recipe = default_recipe(gp.load_editor(pipeline, device="cpu"))
    assert "reference" not in (*recipe.prior_streams, *recipe.feature_streams)
    assert recipe.provenance["method"]


def test_a_family_without_a_recipe_takes_the_streams_that_it_has():
    family = Family(name="Unheard", pipeline="UnheardPipeline", streams=("noise",))
    recipe = default_recipe(Editor(None, family, "unheard"))
    assert recipe.prior_streams == recipe.feature_streams == ("noise",)
