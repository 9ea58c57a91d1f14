from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

import ground_probe as gp
from ground_probe.editors import Editor, Family
from ground_probe.errors import InputError, UnknownNameError
from ground_probe.segmentation.depth import at_depth, in_depth
from ground_probe.segmentation.forward import blocks_read
from ground_probe.segmentation.recipe import Recipe
from ground_probe.segmentation.recipes import recipe_for
from ground_probe.testing import instruct_pix2pix, kontext, sdxl_instruct_pix2pix

BLOCKS = [f"block.{i}" for i in range(6)]


def test_the_digest_changes_with_every_choice_and_with_nothing_else():
    other = {
        "template": "remove {expression}", "step": 1, "words": "content",
        "prior_depth": (0.0, 0.5), "prior_streams": ("noise",), "heads": ((0.5, 1),),
        "normalize": True, "level_weights": (0.3, 0.7), "propagation": 9, "prior": "change",
        "classifier": "lda", "seeds": "soft", "states": "block", "standardize": True,
        "feature_depth": (0.9, 1.0), "feature_streams": ("noise",), "cut": "half", "edges": 0.25,
    }  # fmt: skip
    product = {"product": True, "cut": "half"}
    assert {*other, *product} == {each.name for each in fields(Recipe)} - {"provenance"}
    digests = {replace(Recipe(), **{name: value}).digest for name, value in other.items()}
    digests |= {Recipe().digest, replace(Recipe(), **product).digest}
    assert len(digests) == len(other) + 2
    assert Recipe(provenance={"by": "hand"}).digest == Recipe().digest
    assert Recipe(edges=2).digest == Recipe(edges=2.0).digest


def test_a_recipe_survives_its_file(tmp_path):
    recipe = Recipe(prior_streams=["noise"], edges=3, provenance={"data": ["scenes"]})
    recipe.to_json(tmp_path / "recipe.json")
    again = Recipe.from_json(tmp_path / "recipe.json")
    assert again == recipe and again.digest == recipe.digest
    assert again.provenance == {"data": ["scenes"]}


def test_a_file_changed_by_hand_is_taken_and_says_so(tmp_path):
    path = tmp_path / "recipe.json"
    Recipe(provenance={"by": "us"}).to_json(path)
    path.write_text(path.read_text().replace('"step": 0', '"step": 3'))
    recipe = Recipe.from_json(path)
    assert recipe == Recipe(step=3)
    assert recipe.provenance == {
        "edited": f"by hand, from the recipe {Recipe().digest}",
        "by": "us",
    }


def test_a_file_of_some_choices_takes_the_others_defaults(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text('{"step": 3}')
    assert Recipe.from_json(path) == Recipe(step=3) and Recipe.from_json(path).provenance == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"color": 1}, "unknown choice in .*'color'"),
        ({"cut": "otsu"}, "unknown cut 'otsu'"),
        ({"step": "2"}, "step is '2', expected int"),
        ({"step": 10**9}, r"step is 1000000000, expected in \[0, 999\]"),
        ({"propagation": 10**9}, r"propagation is 1000000000, expected in \[0, 16\]"),
        ({"edges": float("inf")}, r"edges is inf, expected in \[0, 8\]"),
        ({"prior": "color"}, "unknown prior 'color'"),
        ({"level_weights": [1e308, 1e308]}, "level_weights is .* expected weights"),
        ({"prior_depth": [0.0, float("nan")]}, "prior_depth is"),
    ],
)
def test_a_file_with_a_wrong_choice_is_refused(tmp_path, change, message):
    path = tmp_path / "recipe.json"
    Recipe().to_json(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        Recipe.from_json(path)


@pytest.mark.parametrize("text", ["focus: 2", "[]", "", "3"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text):
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(InputError, match="is not a recipe"):
        Recipe.from_json(tmp_path / "recipe.json")


@pytest.mark.parametrize(
    "choice",
    [
        {"template": "make it red"},
        {"prior_depth": (0.5, 0.5)},
        {"feature_depth": (0.0, 1.5)},
        {"prior_streams": ()},
        {"step": -1},
        {"heads": ((1.5, 0),)},
        {"heads": ((0.5, -1),)},
        {"level_weights": (0.0, 0.0)},
    ],
)
def test_a_choice_out_of_range_is_refused(choice):
    (name,) = choice
    with pytest.raises(InputError, match=f"recipe: {name} is"):
        Recipe(**choice)


@pytest.mark.parametrize("choice", [{"product": True}, {"classifier": "none"}])
def test_only_features_by_themselves_have_a_zero(choice):
    with pytest.raises(InputError, match="cut is 'zero', expected 'half'"):
        Recipe(**choice)
    assert Recipe(**choice, cut="half")


@pytest.mark.parametrize("choice", [{"prior_depth": (0.1,)}, {"heads": ((0.5, 1, 2),)}])
def test_a_choice_of_the_wrong_length_is_refused(choice):
    with pytest.raises(InputError, match="expected 2 values"):
        Recipe(**choice)


def test_an_unknown_choice_lists_what_there_is():
    with pytest.raises(UnknownNameError, match="block, attention"):
        Recipe(states="sideways")


def test_depths_choose_blocks_by_their_middles():
    assert in_depth(BLOCKS, (0.0, 1.0)) == tuple(BLOCKS)
    assert in_depth(BLOCKS, (0.333, 0.667)) == ("block.2", "block.3")
    assert in_depth(BLOCKS, (0.30, 0.31)) == ("block.1",)
    assert at_depth(BLOCKS, 0.9) == "block.5"
    recipe = Recipe(prior_depth=(0.5, 0.667), feature_depth=(0.0, 0.2))
    assert blocks_read(BLOCKS, recipe) == ("block.0", "block.3")
    recipe = Recipe(heads=((0.58, 1), (0.1, 0), (0.58, 0)), feature_depth=(0.0, 0.2))
    assert blocks_read(BLOCKS, recipe) == ("block.0", "block.3")


def test_features_that_are_not_compared_are_not_read():
    recipe = Recipe(classifier="none", cut="half", prior_depth=(0.5, 0.667))
    assert blocks_read(BLOCKS, recipe) == ("block.3",)
    assert recipe.streams == ("reference",)


@pytest.mark.parametrize(("blocks", "block"), [(57, 44), (60, 46), (25, 19)])
def test_the_paper_s_features_come_from_the_block_that_its_authors_name(blocks, block):
    names = [str(at) for at in range(blocks)]
    assert in_depth(names, Recipe().feature_depth) == (str(block),)
    qwen = Recipe(feature_depth=(0.82, 0.83))
    assert in_depth([str(at) for at in range(60)], qwen.feature_depth) == ("49",)


def test_small_editors_take_the_embedded_editor_s_recipe():
    small, large = (gp.load_editor(kontext(sample_size=side)) for side in (64, 1024))
    assert recipe_for(small).provenance["model"] == "tiny"
    assert recipe_for(large).provenance["calibrated"] == "on no weights"
    assert recipe_for(small, "paper") == recipe_for(large, "paper") == Recipe()


# The Euler schedulers of diffusers 0.42.1 under NumPy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("builder", [instruct_pix2pix, sdxl_instruct_pix2pix])
@pytest.mark.parametrize("name", ["default", "paper"])
def test_an_editor_without_a_reference_stream_reads_what_it_has(builder, name):
    recipe = recipe_for(gp.load_editor(builder(), device="cpu"), name)
    assert recipe.streams == ("noise",) and recipe.provenance["calibrated"] == "on no weights"


def test_a_family_without_a_recipe_of_its_own_takes_that_of_all():
    family = Family(name="Unheard", pipeline="UnheardPipeline", streams=("noise",))
    assert recipe_for(Editor(None, family, "unheard")).streams == ("noise",)


def test_a_name_that_is_none_says_which_there_are(tmp_path):
    editor = gp.load_editor(kontext())
    with pytest.raises(UnknownNameError, match=r"unknown recipe 'papre'.*did you mean 'paper'"):
        recipe_for(editor, "papre")
    Recipe(step=2).to_json(tmp_path / "own.json")
    assert recipe_for(editor, tmp_path / "own.json") == Recipe(step=2)
