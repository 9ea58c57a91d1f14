"""What notebooks end with, on numbers that a reader can check; and the page they are read on."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image

import ground_probe as gp
from ground_probe import study
from ground_probe.study import findings
from ground_probe.study.page import SECTIONS, index_page
from ground_probe.study.run import NOTEBOOKS
from ground_probe.study.step_curves import step_curves


def example(size: int = 10) -> gp.RefExample:
    target, other = (np.zeros((size, size), bool) for _ in range(2))
    target[:3, :3], other[-3:, -3:] = True, True
    image = Image.new("RGB", (size, size), "gray")
    return gp.RefExample("a", image, "the square", target, "a", (other,), ("it",))


def edited(*masks: np.ndarray) -> Image.Image:
    pixels = np.asarray(example().image).copy()
    for mask in masks:
        pixels[mask] = 255
    return Image.fromarray(pixels)


def test_an_edit_is_right_where_what_is_meant_changes_and_it_alone():
    one = example()
    (other,) = one.distractors
    assert study.check_edit(one, edited(one.mask)).verdict == "right"
    assert study.check_edit(one, edited(other)).verdict == "wrong object"
    assert study.check_edit(one, edited(one.mask, other)).verdict == "others too"
    nothing = study.check_edit(one, edited())
    assert nothing == ("nothing changed", 0.0, 0.0)
    checks = [study.check_edit(one, edited(mask)) for mask in (one.mask, other)]
    assert study.conclude_edits(checks) == (
        "1 of 2 edits change the referent, and it alone; wrong object otherwise."
    )
    assert study.conclude_edits([nothing]).startswith("Not shown: 0 of 1")
    failed = study.conclude_edits([checks[0], checks[1], checks[1], nothing])
    assert failed.endswith("; wrong object, nothing changed otherwise.")


def chosen(one: tuple, mean: tuple) -> pd.DataFrame:
    rows = [("one head", "b.1", "3", *one), ("mean of heads", "b.0", "mean", *mean)]
    columns = ["chosen", "block", "head", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns).set_index("chosen")


def test_a_head_is_better_only_where_the_intervals_part():
    pointed = {"one head": (9, 10), "mean of heads": (2, 10)}
    shown = study.conclude_heads(chosen((0.9, 0.85, 0.95), (0.6, 0.5, 0.7)), pointed)
    assert shown.startswith("One head grounds better than the mean: head 3 of b.1 has AUC 0.90")
    assert "one head: 9 of 10; mean of heads: 2 of 10" in shown
    absent = study.conclude_heads(chosen((0.9, 0.65, 0.95), (0.6, 0.5, 0.7)), pointed)
    assert absent.startswith("Not shown: ")
    assert "linear probe" not in absent


@pytest.mark.parametrize(("low", "apart"), [(0.93, False), (0.96, True)])
def test_a_head_is_compared_with_the_linear_probe(low, apart):
    probe = pd.Series({"value": 0.97, "low": low, "high": 0.99})
    said = study.conclude_heads(chosen((0.9, 0.85, 0.95), (0.6, 0.5, 0.7)), {}, probe)
    assert f"hidden states has 0.97 [{low:.2f}, 0.99]" in said
    assert ("a difference to the head is not shown" in said) == (not apart)


def test_methods_are_above_below_or_not_told_apart_by_paired_differences():
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.1, 0.9, 60)  # examples differ far more than ways do, so intervals overlap
    ious = {
        "full": hard,
        "attention": hard - 0.03 + 0.01 * rng.standard_normal(60),
        "features": hard + 0.1 * rng.standard_normal(60),
        "prediction": hard + 0.05 + 0.01 * rng.standard_normal(60),
        "ceiling": hard + 0.1,
    }
    rows = pd.concat(
        pd.DataFrame(
            {
                "example": [str(i) for i in range(60)],
                "image_id": [str(i) for i in range(60)],
                "method": name,
                "status": "ok",
                "inter_px": 1000 * of.clip(0, 1),
                "union_px": 1000,
                "pred_px": 1000,
                "gold_px": 1000,
            }
        )
        for name, of in ious.items()
    )
    columns = {"metric": "miou", "low": 0.4, "high": 0.6, "n_ok": 60}
    summary = pd.DataFrame({"method": list(ious), "value": 0.5}).assign(**columns)
    said = study.conclude_methods(summary, rows)
    assert said.startswith("mIoU 0.50 [0.40, 0.60] on 60 sentences. Above attention (+0.03 [")
    assert ". Below prediction (-0.05 [" in said and ". Not shown to differ from features (" in said
    assert "ceiling" not in said
    without = summary.assign(value=np.nan)
    assert study.conclude_methods(without, rows) == "Not shown: full has no score."


def test_an_ablation_says_what_is_needed_and_what_is_not_shown():
    rows = [("a", -0.2, -0.3, -0.1), ("b", 0.01, -0.05, 0.07), ("c", 0.2, 0.1, 0.3)]
    columns = ["value", "difference", "difference_low", "difference_high"]
    table = pd.DataFrame(rows, columns=columns).assign(part="without")
    assert study.conclude_ablation(table) == (
        "Needed, mIoU falls without them: a (-0.200). Better left out: c (+0.200). Not shown to "
        "matter: b (+0.010)."
    )


FIELDS = {
    "digest": "d",
    "started_utc": "then",
    "commit": None,
    "dirty": False,
    "parts": {
        "10_emergence": {
            "conclusion": "It can be decoded from step 0 on.",
            "verdicts": {"grounding reference": "Shown: <at> step 0.", "x": "Not shown: at none."},
        },
        "mine": {},
    },
}


def by_step(own: float, rival: float) -> pd.DataFrame:
    """The editor and every control it must exceed, at steps 0 and 9; one lacks step 9."""
    rows = [("none", step, own) for step in (0, 9)] + [("word_order", 0, own)]
    rows += [(name, step, rival) for name in study.RIVALS["grounding"] for step in (0, 9)]
    rows.remove(("shuffled", 9, rival))
    frame = pd.DataFrame(rows, columns=["control", "step", "value"])
    frame = frame.assign(labels="grounding", stream="noise", block="b.0", n_images=8)
    return frame.assign(low=frame.value - 0.1, high=frame.value + 0.1)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (0.9, "lies above every control at step 0; it is highest at step 0 (0.90)"),
        (0.6, "is not shown to lie above every control; it is 0.60 at most"),
    ],
)
def test_the_curves_say_where_the_editor_lies_above_what_it_must_exceed(own, said):
    rows = by_step(own, 0.5)
    rows.loc[rows.control == "rgb", "value"] = 0.55
    figure = step_curves(rows, title=findings.steps_in_words(rows), about="linear probe")
    figure.draw_without_rendering()
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert figure.get_suptitle() == f"Grounding in the noise stream {said}"
    assert "rgb" in texts and "1 of 8 controls at steps 0 only" in texts
    assert "word order" in texts and "shuffled" not in texts


def test_the_page_is_a_paper_question_answer_figure_tables_and_what_was_not_shown(tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("steps_grounding", "causal"):
        Image.new("RGB", (8, 8)).save(tmp_path / "figures" / f"{name}.png")
    row = {"dataset": "scenes", "split": "test", "method": "full", "metric": "miou", "value": 0.5}
    row |= {"low": 0.4, "high": 0.6, "n_ok": 8, "n_error": 0}
    pd.DataFrame([row]).to_csv(tmp_path / "segmentation.csv", index=False)
    page = index_page(tmp_path, FIELDS)
    order = [
        "know where to edit",
        "Shown: &lt;at&gt; step 0.",
        "steps_grounding.png",
        "the recipe</th>",
        "0.50 [0.40, 0.60]",
        "What was not shown",
        "Not shown: at none.",
        "Emergence",
        "It can be decoded",
        "causal.png",
    ]
    places = [page.index(text) for text in order]
    assert places == sorted(places)
    captions = re.findall(r'alt="([^"]+)"', page)
    assert len(captions) == 2 and not any(text.endswith(".png") for text in captions)
    assert '<div class="table">' in page and "http" not in page


def test_every_notebook_of_the_study_has_its_section():
    assert set(NOTEBOOKS) == set(SECTIONS)


@pytest.mark.long
def test_the_head_that_grounds_points_at_the_referent_on_the_whole_grid(tmp_path):
    editor = gp.load_editor("tiny")
    val, test = (gp.load_split("scenes", name, limit=100) for name in ("val", "test"))
    spec = study.Spec(steps=(0,), heads=True)
    kept = study.collect(editor, val, spec, tmp_path)
    heads = study.head_table(kept, kept)
    of = heads[(heads.metric == "pointing") & (heads["head"] != "mean") & (heads.split == "val")]
    best = of[(of["map"] == "attention") & (of.labels == "separability")]
    best = best.loc[best.value.idxmax()]
    overlays = study.attention_overlays(editor, test, spec, [(best.block, int(best["head"]))])
    assert np.mean([each.on_referent for (each,) in overlays]) >= 0.85


def test_an_overlay_is_the_map_and_says_where_it_is_highest(monkeypatch):
    from ground_probe.testing import kontext

    editor, split = gp.load_editor(kontext()), gp.load_split("scenes", "test", limit=2)
    spec = study.Spec(steps=(0,), num_steps=4)
    block = "transformer_blocks.0"
    one, mean = study.attention_overlays(editor, split, spec, [(block, 1), (block, None)])[0]
    traced = gp.trace(
        editor,
        split[0].image,
        spec.template.format(expression=split[0].expression),
        split[0].expression,
        blocks=[block],
        num_steps=4,
        seed=spec.noise_seed(split[0].key),
    )
    maps = traced.attention[block, 0][:, traced.image_tokens("reference")].sum(-1).numpy()
    geometry = traced.grid("reference")
    for overlay, tokens in ((one, maps[1]), (mean, maps.mean(0))):
        pixels = geometry.to_pixels(tokens.reshape(geometry.grid))
        assert np.corrcoef(pixels.ravel(), overlay.pixels.ravel())[0, 1] > 0.999
        assert overlay.pixels.min() == 0 and overlay.pixels.max() == pytest.approx(1)
        assert overlay.highest_share == pytest.approx(tokens.max() / tokens.sum(), rel=1e-4)
        row, col = divmod(int(tokens.argmax()), geometry.grid[1])
        inside = geometry.soft_labels(split[0].mask)[row, col] >= 0.5
        assert overlay.on_referent == inside
