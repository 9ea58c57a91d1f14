from __future__ import annotations

import argparse
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import ground_probe as gp
from ground_probe.capture.sites import blocks_of
from ground_probe.errors import InputError, PhraseError
from ground_probe.io import seed_of
from ground_probe.segmentation.recipe import Recipe
from ground_probe.segmentation.segment import segment
from ground_probe.study.ablate import ablate, fractions, steps, variants
from ground_probe.study.bench import MARGIN, Bench, best_of, search, variants_of
from ground_probe.study.calibrate import (
    GRID,
    PLAIN,
    calibrate,
    curve_path,
    fraction,
    plain_for,
)
from ground_probe.study.figures import interval_curve
from ground_probe.study.head_search import MOST, HeadSearch
from ground_probe.study.sweep import candidates, sweep
from ground_probe.testing import instruct_pix2pix, kontext

LONG = "{expression} and so on"
TEMPLATES = ("make {expression} blue", "remove {expression}")
GRIDS = {
    "templates": TEMPLATES,
    "grid": (
        {"propagation": (0, 1)},
        {"feature_depth": ((0.0, 0.5), (0.5, 1.0))},
        {"edges": (0.0, 1.0)},
    ),
    "folds": 2,
}


@pytest.fixture(scope="module")
def editor():
    return gp.load_editor(kontext(), device="cpu")


@pytest.fixture(scope="module")
def train():
    return gp.load_split("scenes+", "train", limit=4)


def test_it_writes_the_recipe_with_where_it_is_from_and_the_curve(editor, train, tmp_path):
    path = tmp_path / "recipe.json"
    found = calibrate(editor, train, path, **GRIDS)
    recipe = Recipe.from_json(path)
    assert recipe == found.recipe and recipe.template in TEMPLATES
    made = recipe.provenance
    assert made["data"] == [
        {"dataset": "scenes+", "split": "train", "revision": train.revision, "examples": 4}
    ]
    assert (made["n"], made["folds"], made["model"]) == (4, 2, editor.name)
    assert 0 <= made["miou_held_out"] <= 1
    curve = pd.read_csv(curve_path(path))
    blocks = tuple(blocks_of(editor.denoiser))
    assert list(curve["last_block"]) == list(blocks)
    assert list(curve["fraction"]) == [0.25, 0.5, 0.75, 1.0]
    assert curve.eval("low <= miou <= high and n == 4").all()
    assert curve["chosen"].sum() == 1
    assert curve.loc[curve["chosen"], "fraction"].item() == made["fraction_of_step"]
    assert made["fraction_of_step"] == fraction(blocks, recipe)
    again = calibrate(editor, train, **GRIDS)
    assert again.recipe.provenance == made and again.recipe == recipe
    json.dumps(made)


def test_it_begins_at_the_plain_recipe_for_the_packaged_one_has_seen_every_fold(
    editor, train, monkeypatch
):
    change = gp.recipe_for(editor, "change")
    packaged = {"change": change}  # for comparison only
    monkeypatch.setattr(
        "ground_probe.segmentation.recipes._packaged_for", lambda name, _: packaged[name]
    )
    found = calibrate(editor, train, **GRIDS).recipe
    assert (found.seeds, found.standardize) == (PLAIN.seeds, PLAIN.standardize)


@pytest.mark.parametrize("split", ["val", "test"])
def test_it_refuses_what_scores_are_reported_on(editor, split):
    with pytest.raises(InputError, match="recipes are chosen on 'train'"):
        calibrate(editor, gp.load_split("scenes", split, limit=2))


def test_several_splits_are_one_training_set(editor, train):
    other = gp.load_split("scenes", "train", limit=2)
    found = calibrate(editor, [train, other], **GRIDS | {"templates": TEMPLATES[:1]})
    assert [each["dataset"] for each in found.recipe.provenance["data"]] == ["scenes+", "scenes"]


class _Table:
    """A bench whose scores are known."""

    def __init__(self, gains):
        self.gains = gains

    def ious(self, recipe, rows):
        total = sum(self.gains.get((name, value), 0) for name, value in vars(recipe).items()
                    if isinstance(value, float | int | str))  # fmt: skip
        return np.full(len(rows), 0.5 + total)


def test_near_ties_go_to_the_plain_value():
    grid = [{"edges": (1.0, 4.0)}, {"propagation": (1, 3)}]
    bench = _Table({("edges", 4.0): MARGIN / 2, ("propagation", 3): 2 * MARGIN})
    best = search(bench, Recipe(edges=4.0), grid, np.arange(4))
    assert (best.edges, best.propagation) == (1.0, 3)


class _Short(_Table):
    """A bench whose editor cannot read a template."""

    def ious(self, recipe, rows):
        if recipe.template == LONG:
            raise PhraseError("the text is cut")
        return super().ious(recipe, rows)


def test_a_setting_that_makes_an_instruction_too_long_is_not_chosen():
    bench, rows, short = _Short({("template", LONG): 1.0}), np.arange(4), Recipe().template
    grid = [{"template": (short, LONG)}, {"template": (LONG, short)}]
    assert search(bench, Recipe(), grid, rows).template == short
    with pytest.raises(PhraseError, match="the text is cut"):
        best_of(bench, [Recipe(template=LONG)], rows)


def test_an_ablation_leaves_out_what_makes_an_instruction_too_long(train):
    words = "the small red square that is to the left of the large blue ring"
    bench = Bench(gp.load_editor("tiny", device="cpu"), [replace(train[0], expression=words)])
    recipe = Recipe(template="change the color of {expression} to white")
    longer = replace(recipe, template=4 * "on the left " + "{expression}")  # beyond 24
    table = ablate(bench, recipe, iter([("template", "", longer)]))
    assert table["part"].tolist() == ["full"]


def test_a_bench_scores_as_segment_does_and_runs_the_editor_once(editor, train):
    examples = list(train)[:3]
    calls = []
    handle = editor.denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    bench = Bench(editor, examples)
    ious = bench.ious(Recipe())
    bench.ious(Recipe(seeds="soft"))
    handle.remove()
    assert len(calls) == len(examples)
    masks = [
        segment(editor, e.image, e.expression, Recipe(), seed_of(e.key, 0)).mask for e in examples
    ]
    counts = [gp.metrics.counts(mask, e.mask) for mask, e in zip(masks, examples, strict=True)]
    # Traces are kept in half precision.
    np.testing.assert_allclose(ious, gp.metrics.iou(*np.array(counts).T), atol=0.02)


def test_every_value_of_the_grid_makes_a_recipe():
    for group in GRID:
        tried = list(variants_of(PLAIN, group))
        for name, values in group.items():
            assert {getattr(recipe, name) for recipe in tried} == set(values)


def test_folds_are_of_images(editor, train):
    with pytest.raises(InputError, match="7 folds of 4 images"):
        calibrate(editor, train, **GRIDS | {"folds": 7})


def test_the_best_head_is_the_one_that_points(editor, train):
    """Of all heads one is given the mask itself: it must come first, alone."""
    bench = Bench(editor, list(train)[:3])
    recipe = Recipe(propagation=0)
    for trace, example in zip(bench.traces(recipe), bench.examples, strict=True):
        maps = trace.attention[bench.blocks[2], 0]
        label = torch.as_tensor(trace.geometry.soft_labels(example.mask), dtype=maps.dtype)
        tokens = maps.shape[1] // 2
        maps[1, tokens:] = 1e-3 + label.flatten()[:, None]
    search_ = HeadSearch(bench, [("noise",), ("reference",)])
    best = next(search_.best(recipe, np.arange(3), 1))
    assert best.heads == ((0.625, 1),)
    assert best.prior_streams == ("reference",)
    early = list(search_.best(recipe, np.arange(3), 99, until=0.5))
    assert all(depth < 0.5 for each in early for depth, _ in each.heads)
    assert max(len(each.heads) for each in early) == MOST


@pytest.fixture(scope="module")
def bench(editor, train):
    return Bench(editor, list(train)[:3])


def test_the_ablation_pairs_every_variant_with_the_recipe(bench):
    recipe = Recipe(propagation=1, edges=1.0)
    named = list(variants(recipe, ("noise", "reference")))[:12]
    table = ablate(bench, recipe, iter(named))
    full = table.iloc[0]
    assert (full["part"], full["difference"], full["value"]) == ("full", 0.0, recipe.digest)
    np.testing.assert_allclose(table["miou"] - full["miou"], table["difference"], atol=1e-12)
    assert table.eval("low <= miou <= high and n == 3").all()
    assert table.eval("difference_low <= difference <= difference_high").all()
    assert len(table) - 1 == sum(each[2] != recipe for each in named)


def test_every_variant_is_a_recipe_of_streams_that_there_are():
    recipe = Recipe(prior_streams=("noise",), feature_streams=("noise",))
    named = list(variants(recipe, ("noise",)))
    assert not any("reference" in value for part, value, _ in named if part.endswith("streams"))
    assert {"without", "template", "seeds", "words", "feature_depth"} <= {n[0] for n in named}


def test_an_ablation_of_attention_alone_adds_the_features_and_names_nothing_else_of_them():
    recipe = Recipe(classifier="none", cut="half", propagation=0)
    named = list(variants(recipe, ("noise", "reference")))
    parts = {value if part == "without" else part for part, value, _ in named}
    assert not parts & {"seeds", "states", "feature_streams", "feature_depth", "product"}
    added = [each.classifier for part, _, each in named if part == "classifier"]
    assert added == ["cosine", "lda"]


def test_features_that_gain_little_over_attention_alone_are_dropped():
    group = [each for each in GRID if "classifier" in each]
    for gain, classifier in ((MARGIN / 2, "none"), (2 * MARGIN, "lda")):
        bench = _Table({("classifier", "lda"): gain})
        found = search(bench, PLAIN, group, np.arange(4))
        assert found.classifier == classifier


def test_steps_share_one_run(editor, train):
    ran = []
    handle = editor.denoiser.register_forward_pre_hook(lambda *_: ran.append(1))
    bench = Bench(editor, list(train)[:2], steps=(0, 2))
    table = ablate(bench, Recipe(), steps(Recipe(), (0, 2)))
    handle.remove()
    assert len(ran) == 2 * 3
    assert list(table["value"][1:]) == ["0", "2"]
    assert table["difference"][1] == 0


def test_fractions_read_no_further(bench):
    recipe = Recipe(heads=((0.1, 0), (0.9, 1)), feature_depth=(0.7, 1.0))
    named = list(fractions(recipe, bench.blocks))
    for _, value, variant in named:
        assert fraction(bench.blocks, variant) <= float(value) + 1e-3
    assert named[-1][2] == recipe


def test_the_command_writes_both_and_refuses_what_scores_are_reported_on(tmp_path):
    from ground_probe.cli import calibrate as command

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    for split in ("val", "test"):
        given = ["--split", split, "--limit", "2", "--out", str(tmp_path / "recipe.json")]
        with pytest.raises(InputError, match="recipes are chosen on 'train'"):
            command.run(parser.parse_args(given))
    assert not list(tmp_path.iterdir())


def test_a_curve_is_drawn_in_the_order_of_its_numbers(bench):
    table = ablate(bench, Recipe(), fractions(Recipe(), bench.blocks)).iloc[1:]
    figure = interval_curve(table, xlabel="share", title="", about="n = 3")
    line = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == sorted(table["value"].astype(float))


SMALL = {
    "template": ("make {expression} blue", "remove {expression}"),
    "step": (0, 1),
    "prior": ("attention", "change"),
    "streams": (("reference",), ("noise", "reference")),
    "words": ("all", "content"),
    "seeds": ("hard", "soft"),
    "states": ("attention", "block"),
    "feature_depth": ((0.3, 0.4), (0.8, 0.9)),
}


def test_a_sweep_runs_once_for_each_example_and_template_and_goes_on(editor, train, tmp_path):
    examples, calls = list(train)[:3], []
    handle = editor.denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    recipe = sweep(editor, examples[:2], tmp_path / "r.json", choices=SMALL, folds=2)
    steps = 2  # denoising steps 0 and 1 are computed in one run
    assert len(calls) == 2 * len(SMALL["template"]) * steps
    sweep(editor, examples, tmp_path / "r.json", choices=SMALL, folds=3)
    handle.remove()
    assert len(calls) == 3 * len(SMALL["template"]) * steps, "what was scored is not scored again"
    assert recipe in candidates(editor, SMALL)
    made = recipe.provenance
    assert 0 <= made["miou_held_out"] <= 1 and made["n"] == 2
    assert Recipe.from_json(tmp_path / "r.json").provenance["n"] == 3


def test_a_sweep_scores_each_candidate_as_segment_does(editor, train, tmp_path):
    recipe = sweep(editor, list(train)[:2], tmp_path / "r.json", choices=SMALL, folds=2)
    masks = [
        segment(editor, e.image, e.expression, recipe, seed_of(e.key, 0)).mask
        for e in list(train)[:2]
    ]
    counts = [gp.metrics.counts(m, e.mask) for m, e in zip(masks, train, strict=False)]
    ious = gp.metrics.miou(*np.array(counts).T)
    every = np.stack([np.load(path) for path in sorted((tmp_path / "r.ious").glob("*.npy"))])
    assert every.mean(0).max() == pytest.approx(ious, abs=0.02)  # half precision


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_sweep_names_only_streams_that_the_editor_has():
    unet = gp.load_editor(instruct_pix2pix(), device="cpu")
    assert {recipe.streams for recipe in candidates(unet)} == {("noise",)}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_plain_recipe_is_of_streams_that_the_editor_has(editor):
    for made in (editor, gp.load_editor(instruct_pix2pix(), device="cpu")):
        recipe = plain_for(made)
        assert set(recipe.streams) <= set(made.family.streams) and not recipe.heads
        assert gp.recipe_for(made, recipe) is recipe
