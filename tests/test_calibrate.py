from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_pipelines import kontext

import ground_probe as gp
from ground_probe.errors import InputError
from ground_probe.segmentation.bench import MARGIN, Bench, search
from ground_probe.segmentation.calibrate import GRID, calibrate
from ground_probe.segmentation.recipe import Recipe
from ground_probe.segmentation.segment import segment

SMALL = (
    {"template": ("make {expression} blue", "remove {expression}")},
    {"feature_depth": ((0.0, 0.5), (0.5, 1.0)), "prior_depth": ((0.0, 0.5), (0.5, 1.0))},
    {"focus": (1.0, 4.0)},
)


@pytest.fixture(scope="module")
def editor():
    return gp.load_editor(kontext(), device="cpu")


@pytest.fixture(scope="module")
def train():
    return gp.load_split("scenes+", "train", limit=6)


def test_it_writes_the_recipe_that_did_best_with_where_it_is_from(editor, train, tmp_path):
    path = tmp_path / "recipe.json"
    found = calibrate(editor, train, path, grid=SMALL, start=Recipe(), folds=2, passes=1)
    recipe = Recipe.from_json(path)
    assert recipe == found.recipe
    made = recipe.provenance
    assert made["data"] == [
        {"dataset": "scenes+", "split": "train", "revision": train.revision, "examples": 6}
    ]
    assert 0 <= made["miou_held_out"] <= 1
    assert made["miou_in_sample"] >= found.trials["miou"].max() - MARGIN - 1e-4
    assert set(found.trials["name"]) == {name for group in SMALL for name in group}
    assert list(found.cost["fraction"]) == [0.5, 1.0]
    again = calibrate(editor, train, grid=SMALL, start=Recipe(), folds=2, passes=1)
    assert again.recipe.provenance == made and again.recipe == recipe
    json.dumps(made)


@pytest.mark.parametrize("split", ["val", "test"])
def test_it_refuses_what_scores_are_reported_on(editor, split):
    with pytest.raises(InputError, match="recipes are chosen on 'train'"):
        calibrate(editor, gp.load_split("scenes", split, limit=2))


def test_several_splits_are_one_training_set(editor, train):
    other = gp.load_split("scenes", "train", limit=2)
    found = calibrate(editor, [train, other], grid=SMALL[1:], start=Recipe(), folds=2, passes=1)
    assert [each["dataset"] for each in found.recipe.provenance["data"]] == ["scenes+", "scenes"]


class _Table:
    """A bench whose scores are known."""

    def __init__(self, gains):
        self.gains = gains

    def ious(self, recipe):
        total = sum(self.gains.get((name, value), 0) for name, value in vars(recipe).items()
                    if isinstance(value, float | int | str))  # fmt: skip
        return np.full(4, 0.5 + total)


def test_near_ties_go_to_the_plain_value():
    grid = [{"focus": (1.0, 4.0)}, {"rounds": (1, 3)}]
    bench = _Table({("focus", 4.0): MARGIN / 2, ("rounds", 3): 2 * MARGIN})
    best = search(bench, Recipe(focus=4.0), grid, np.arange(4), passes=1)
    assert (best.focus, best.rounds) == (1.0, 3)


def test_a_bench_scores_as_segment_does_and_looks_once(editor, train):
    examples = list(train)[:3]
    calls = []
    handle = editor.denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    bench = Bench(editor, examples)
    ious = bench.ious(Recipe())
    bench.ious(Recipe(focus=4.0))
    handle.remove()
    assert len(calls) == len(examples)
    masks = [segment(editor, e.image, e.expression, Recipe()).mask for e in examples]
    counts = [gp.metrics.counts(mask, e.mask) for mask, e in zip(masks, examples, strict=True)]
    # Looks are kept in half precision.
    np.testing.assert_allclose(ious, gp.metrics.iou(*np.array(counts).T), atol=0.02)


def test_every_value_of_the_grid_makes_a_recipe():
    for group in GRID:
        for name, values in group.items():
            for value in values:
                Recipe(**{name: value})
