"""The sentences above figures: what they say is what the numbers are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from ground_probe import study
from ground_probe.study import emergence_figures as draw
from ground_probe.study import findings


def cells() -> pd.DataFrame:
    """The editor in two blocks and two steps, one control above it and one below."""
    rows = [
        ("none", block, step, value)
        for (block, step), value in {
            ("transformer_blocks.0", 0): 0.6,
            ("transformer_blocks.0", 9): 0.95,
            ("transformer_blocks.1", 0): 0.9,
            ("transformer_blocks.1", 9): 0.8,
        }.items()
    ]
    rows += [("rgb", "transformer_blocks.0", 0, 0.55), ("word_order", "b", 0, 0.99)]
    frame = pd.DataFrame(rows, columns=["control", "block", "step", "value"])
    return frame.assign(labels="grounding", stream="reference", n_images=8)


def test_a_heat_map_says_its_chosen_cell_and_its_highest_control():
    rows = cells()
    chosen = rows[(rows.block == "transformer_blocks.1") & (rows.control == "none")]
    sentence = findings.cells_in_words(rows, chosen)
    assert sentence == (
        "Grounding is 0.90 at step 0 (double 1, chosen on val) and 0.80 at step 9; no control is "
        "above 0.55 (rgb)"
    )
    figure = draw.heat_maps(rows, chosen, title=sentence, about="")
    framed = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert [patch.get_xy() for patch in framed] == [(0, 1), (1, 1)]


def test_the_strongest_declared_patch_is_named_with_its_interval():
    row = {"against": "random", "measure": "edit", "low": -0.4, "high": -0.2, "declared": True}
    effects = pd.DataFrame(
        [
            row | {"difference": -0.3},
            row | {"difference": -0.1, "low": -0.2, "high": 0.1},
            row | {"difference": -0.9, "declared": False},
            row | {"difference": -0.9, "against": "none"},
            row | {"difference": -0.001, "low": -0.1, "high": 0.1, "measure": "grounding"},
        ]
    )
    assert findings.effects_in_words(effects) == (
        "Another object's expression at the input moves edit by -0.30 [-0.40, -0.20] and "
        "grounding by +0.00 [-0.10, +0.10], not shown"
    )


def test_the_highest_cell_is_named_and_framed():
    panels = {
        "grounding by from_text": pd.DataFrame({"0": [0.2, 0.7], "1": [0.9, np.nan]}, ["a", "b"]),
        "empty": pd.DataFrame({"0": [np.nan]}, ["a"]),
        "separability": pd.DataFrame({"0": [0.2, 0.7]}, ["a", "b"]),
        "other": pd.DataFrame({"mean": [0.2]}, ["a"]),
    }
    assert findings.peaks_in_words(panels, "head ") == (
        "Grounding by from text is highest at a, head 1 (0.90); separability at b, head 0 (0.70); "
        "other at a, mean of heads (0.20)"
    )
    figure = draw.matrices({"x": panels["grounding by from_text"]}, title="", about="")
    (framed,) = figure.axes[0].patches
    assert framed.get_xy() == (1, 0)


def test_templates_are_told_by_their_range():
    index = pd.Index(["a", "b", "c"], name="template")
    panels = {"grounding": pd.DataFrame({"linear": [0.8, 0.9, 0.7], "fisher": 0.1}, index)}
    assert findings.range_in_words(panels, "linear") == (
        "Over 3 templates linear grounding is 0.70 to 0.90"
    )


def test_the_share_of_text_is_told_with_the_words_that_get_most():
    mass = pd.DataFrame({"all text": [0.1, 0.4], "padding": [0.1, 0.1], "noun": [0.0, 0.3]})
    mass.index = ["transformer_blocks.0", "transformer_blocks.1"]
    assert findings.mass_in_words(mass) == (
        "Text gets 40% of the attention at most, at double 1; noun 30%"
    )
    figure = draw.matrices({"attention": mass}, title="", about="", label="share")
    assert not figure.axes[0].patches


def test_the_change_of_the_first_step_is_told_for_both_views():
    values = {
        ("prediction", "referent"): 0.22,
        ("prediction", "other objects"): 0.01,
        ("latents", "referent"): 0.23,
        ("latents", "other objects"): 0.24,
        ("prediction", "elsewhere"): 0.0,
        ("latents", "elsewhere"): 0.1,
    }
    rows = [(*at, step, value / (1 + step)) for at, value in values.items() for step in (0, 9)]
    change = pd.DataFrame(rows, columns=["view", "place", "step", "value"])
    assert findings.change_in_words(change) == (
        "At step 0 the one-step prediction has changed the referent by 0.22, other objects by "
        "0.01; in the latents themselves it is 0.23 and 0.24"
    )

    figure = draw.visible_curves(change.assign(low=0, high=1, n_images=3), title="said")
    assert figure.get_suptitle() == "said"


def test_the_recipe_stands_beside_the_best_of_each_kind():
    rows = [("full", 0.9), ("attention", 0.8), ("features", 0.1), ("whole_image", 0.2)]
    rows += [("ceiling", 0.99), ("random_weights", 0.3)]
    summary = pd.DataFrame(rows, columns=["method", "value"]).assign(metric="miou", low=0, high=1)
    assert findings.methods_in_words(summary) == (
        "The recipe has mIoU 0.90 [0.00, 1.00], the best simpler way 0.80 (where: attention "
        "alone), the best control 0.30 (random weights, trained scale)"
    )
    assert "no score" in findings.methods_in_words(summary[1:])


def test_a_curve_is_told_from_end_to_end():
    rows = pd.DataFrame({"value": ["9", "0", "3"], "miou": [0.5, 0.9, 0.95]})
    assert findings.curve_in_words(rows, "step") == (
        "mIoU is 0.90 at step 0 and 0.50 at step 9, 0.95 at most (at 3)"
    )


def test_neighbors_in_a_plane_are_counted():
    at = np.array([[0, 0], [0.1, 0], [5, 5], [5.1, 5]], float)
    kinds = np.array(["target", "target", "target", "distractor"])
    assert draw._neighbors(at, kinds) == pytest.approx(2 / 3)


def test_no_sentence_says_minus_zero():
    table = pd.DataFrame([{"part": "without", "value": "edges", "difference": -1e-6}]).assign(
        difference_low=-0.1, difference_high=0.1
    )
    assert "-0.000" not in study.conclude_ablation(table)
