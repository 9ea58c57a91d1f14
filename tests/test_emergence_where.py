"""Which heads and words ground; and the study on a UNet and on a folder of REFER annotations."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import ground_probe as gp
from ground_probe import study as em
from ground_probe.datasets import refcoco
from ground_probe.errors import InputError
from ground_probe.probes import hard_labels
from ground_probe.study.words import IN_EXPRESSION, token_classes, word_classes
from ground_probe.testing import instruct_pix2pix, kontext

SPEC = em.Spec(template="make {expression} blue", steps=(0,), num_steps=4, tokens=5, heads=True)


@pytest.fixture(scope="module")
def refer(tmp_path_factory):
    """Six photos with three objects each, told of as in RefCOCO."""
    root, rng = tmp_path_factory.mktemp("refer"), np.random.default_rng(0)
    (root / "refcoco").mkdir()
    (root / "train2014").mkdir()
    refs, annotations, images = [], [], []
    for i in range(6):
        name = f"COCO_train2014_{i:012d}.jpg"
        Image.fromarray(rng.integers(0, 255, (64, 96, 3), np.uint8)).save(root / "train2014" / name)
        images.append({"id": i, "file_name": name, "height": 64, "width": 96})
        for j, sentence in enumerate(("left man", "the red car", "dog on the right")):
            number, x = 3 * i + j, 4 + 32 * j
            box = [x, 8, x + 24, 8, x + 24, 48, x, 48]
            annotations.append(
                {"id": number, "image_id": i, "category_id": 1, "iscrowd": 0, "segmentation": [box]}
            )
            refs.append(
                {
                    "ref_id": number,
                    "ann_id": number,
                    "image_id": i,
                    "category_id": 1,
                    "file_name": name,
                    "split": "val",
                    "sent_ids": [number],
                    "sentences": [
                        {"sent_id": number, "sent": sentence, "raw": sentence, "tokens": []}
                    ],
                }
            )
    with (root / "refcoco" / "refs(unc).p").open("wb") as file:
        pickle.dump(refs, file, protocol=2)
    instances = {"images": images, "annotations": annotations}
    (root / "refcoco" / "instances.json").write_text(json.dumps(instances))
    with pytest.MonkeyPatch.context() as patch:
        splits = refcoco.COLLECTIONS["refcoco_unc"].splits
        counts = replace(splits["val"], images=6, refs=18, sentences=18)
        patch.setitem(splits, "val", counts)
        yield gp.load_split("refcoco_unc", "val", root=root)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("make", [kontext, instruct_pix2pix])
def test_the_study_runs_on_photos_with_and_without_a_reference_stream(make, refer, tmp_path):
    editor = gp.load_editor(make())
    fit = em.collect(editor, refer, SPEC, tmp_path)
    other = em.collect(editor, refer, replace(SPEC, condition="other_expression"), tmp_path)
    joint = "reference" in editor.family.streams
    assert fit.streams == (("noise", "reference") if joint else ("noise",))
    cell = fit.cells[0]
    scores = em.score(fit, [other], cells=[cell])
    table = em.summarize(scores)
    assert set(table.labels) == set(em.LABELS)
    assert {"linear", "linear_precision", "attention"} <= set(table.probe)
    assert set(em.summarize(em.score_inputs(fit)).control) >= {"rgb", "position"}

    heads = em.head_table(fit, fit)
    maps = fit.attention_heads("attention", cell)
    assert maps.shape[1] > 1 and set(heads["head"]) >= {"mean", "0", "1"}
    np.testing.assert_allclose(fit.attention("attention", cell), maps.mean(1))

    words = em.attended_words(editor, refer, SPEC)
    mass = words[words.name != em.BEYOND].groupby(["image_id", "block", "stream"])["mass"].mean()
    assert mass.between(0, 1 + 1e-5).all()
    found = em.summarize_words(words)
    assert {"head noun", "attribute", "location", "stop word", "template"} <= set(found.name)
    assert found.auc.dropna().between(0, 1).all() and set(em.sinks(found).block) == set(fit.blocks)


def test_the_mass_of_all_text_is_what_the_image_does_not_get(tmp_path):
    editor, split = gp.load_editor(kontext()), gp.load_split("scenes", "test", limit=1)
    words = em.attended_words(editor, split, SPEC)
    told = SPEC.instruction(split[0], ())
    traced = gp.trace(
        editor, split[0].image, told[0], streams=(), mass=True, attention="mean",
        affinity="reference", num_steps=4, seed=SPEC.noise_seed(split[0].key),
    )  # fmt: skip
    block = traced.blocks[-1]
    here = words[(words.block == block) & (words.stream == "noise") & (words.name != em.BEYOND)]
    mass = traced.mass(block, 0)
    image = mass["noise"] + mass["reference"]
    assert here.mass.sum() == pytest.approx(1 - image, abs=1e-3)


@pytest.mark.parametrize(
    ("expression", "heads", "others"),
    [
        ("the large red circle", ["circle"], []),
        ("baseball player in white shirt on the left", ["player"], ["shirt"]),
        ("red ring to the right of the small cross", ["ring"], ["cross"]),
        ("left", [], []),
    ],
)
def test_nouns_of_an_expression(expression, heads, others):
    named = {(expression[slice(*span)], name) for span, name in word_classes(expression)}
    assert [word for word, name in named if name == "head noun"] == heads
    assert [word for word, name in named if name == "other noun"] == others
    assert {name for _, name in named} <= set(IN_EXPRESSION)


def test_a_side_is_a_place_or_a_relation():
    place, relation = (dict(word_classes(x)) for x in ("man on the left", "man left of the car"))
    assert place[(11, 15)] == "location" and relation[(4, 8)] == "relation"


def test_tokens_of_unknown_and_cut_words_find_their_class():
    told = ("make the zebra left blue", (5, 19))
    for tokens in (
        ["make", "the", "<unk>", "left", "blue"],
        ["Ġmake", "Ġthe", "Ġze", "bra", "Ġleft", "Ġblue"],
    ):
        names = token_classes(tokens, *told)
        assert names[0] == names[-1] == "template"
        assert set(names[2:-2]) == {"head noun"} and names[-2] == "location"


def test_heads_must_have_been_kept(tmp_path):
    editor, split = gp.load_editor(kontext()), gp.load_split("scenes", "test", limit=1)
    meaned = em.collect(editor, split, em.Spec(steps=(0,), num_steps=4, tokens=5), tmp_path)
    with pytest.raises(InputError, match="heads=True"):
        em.head_table(meaned, meaned)


def test_the_pointing_game_looks_at_the_whole_grid(tmp_path):
    """On the sampled tokens the highest is the referent's far too often."""
    editor, split = gp.load_editor(kontext()), gp.load_split("scenes", "test", limit=3)
    samples = em.collect(editor, split, SPEC, tmp_path)
    cell = samples.cells[0]
    block, stream, step = cell
    hits = samples.pointing("attention", cell)
    for example in split:
        traced = gp.trace(
            editor,
            example.image,
            *SPEC.instruction(example, ()),
            blocks=[block],
            num_steps=4,
            seed=SPEC.noise_seed(example.key),
        )
        geometry = traced.grid(stream, block)
        target = hard_labels(geometry.soft_labels(example.mask))[0]
        maps = traced.attention[block, step][:, traced.image_tokens(stream)].sum(-1)
        expected = [target.ravel()[head.argmax()] for head in (maps.mean(0), *maps)]
        mine = np.flatnonzero(samples.rows.key == example.key)
        np.testing.assert_array_equal(hits[mine[0], :, 0], expected)
    table = em.head_table(samples, samples)
    at = (table.block == block) & (table.stream == stream)
    row = table[at & (table["map"] == "attention") & (table["head"] == "mean")]
    row = row.query("metric == 'pointing' and labels == 'separability'")
    firsts = samples.rows.drop_duplicates("key").index
    assert row.value.iloc[0] == pytest.approx(np.nanmean(hits[firsts, 0, 0]))
