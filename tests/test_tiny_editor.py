"""The embedded editor: its edits, its training and the rules by which it is scored."""

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import FluxKontextPipeline
from scipy.ndimage import distance_transform_edt

from ground_probe.datasets import cartoons, scenes
from ground_probe.errors import InputError
from tools.train_tiny import rules, score
from tools.train_tiny.build import (
    POOLED_WIDTH,
    TEXT_TOKENS,
    WIDTH,
    build_pipeline,
    build_tokenizer,
    load_weights,
)
from tools.train_tiny.curriculum import EDITS_A_BATCH, STAGES, WORLDS, EditBatches
from tools.train_tiny.edits import TEMPLATES, edit, sample_edits
from tools.train_tiny.losses import editor_loss
from tools.train_tiny.optimizers import Muon, orthogonalized
from tools.train_tiny.train import CHECKPOINT, CURVE, train


@pytest.fixture
def drawn():
    return scenes.load("scenes+", "test", limit=1).scene(0)


def test_every_instruction_fits_and_every_word_is_known():
    tokenizer, rng, longest = build_tokenizer(), np.random.default_rng(0), 0
    for _ in range(300):
        scene = scenes.sample_scene(rng)
        for each in sample_edits(rng, scene, scenes.STYLES, 4):
            ids = tokenizer(each.instruction).input_ids
            assert tokenizer.unk_token_id not in ids, each.instruction
            longest = max(longest, len(ids))
    assert 12 < longest <= TEXT_TOKENS


def test_every_instruction_of_cartoons_fits_and_every_word_is_known():
    tokenizer, rng, longest, kinds = build_tokenizer(), np.random.default_rng(0), 0, set()
    for _ in range(60):
        scene = cartoons.sample_scene(rng)
        for asked in sample_edits(rng, scene, cartoons.STYLES, 4):
            ids = tokenizer(asked.instruction).input_ids
            assert tokenizer.unk_token_id not in ids, asked.instruction
            longest = max(longest, len(ids))
            kinds.add(asked.kind)
            assert not cartoons.is_held_out(scene.objects[asked.target])
            before, after = scene.render(), asked.edited.render()
            assert (before != after).any(-1)[scene.mask(asked.target)].any()
    assert 12 < longest <= TEXT_TOKENS and kinds == set(TEMPLATES)


def test_weights_of_scenes_read_scenes_alike_with_more_words():
    """Today's weights, grown to both worlds' words, encode old instructions as before."""
    earlier, grown = FluxKontextPipeline.from_pretrained(score.WEIGHTS), build_pipeline()
    load_weights(grown, score.WEIGHTS)
    assert len(grown.tokenizer) > 150
    text = "change the color of the small red circle on the left to blue"
    new = grown.tokenizer(text, return_tensors="pt").input_ids
    old = earlier.tokenizer(text, return_tensors="pt").input_ids
    known = earlier.tokenizer.get_vocab()
    assert all(grown.tokenizer.get_vocab()[word] == number for word, number in known.items())
    with torch.no_grad():
        for name in ("text_encoder", "text_encoder_2"):
            ours, theirs = (getattr(p, name)(i)[0] for p, i in ((grown, new), (earlier, old)))
            assert torch.equal(new, old) and torch.allclose(ours, theirs, atol=1e-6)
        slip, word = grown.tokenizer.convert_tokens_to_ids(["lft", "left"])
        table = grown.text_encoder_2.shared.weight
        assert torch.equal(table[slip], table[word]) and table.std(1).min() > 0


@pytest.mark.parametrize("kind", TEMPLATES)
def test_an_edit_changes_its_object_and_nothing_else(drawn, kind):
    asked = edit(np.random.default_rng(0), drawn.scene, drawn.target, drawn.expression, kind)
    kept = [o for i, o in enumerate(drawn.scene.objects) if i != drawn.target]
    assert set(kept) <= set(asked.edited.objects)
    assert drawn.scene.objects[drawn.target] not in asked.edited.objects
    assert drawn.expression in asked.instruction


@pytest.mark.parametrize("stage", [STAGES[2], WORLDS[0]])
def test_batches_are_pure_functions_of_seed_and_step(stage):
    once, again = (EditBatches(stage, seed=0)[5] for _ in range(2))
    later = EditBatches(stage, seed=0)[6]
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not torch.equal(once[0], later[0])
    before, after, texts, owner = once
    assert len(after) == len(texts) == len(owner) == EDITS_A_BATCH
    assert owner.unique().tolist() == list(range(len(before)))


@pytest.mark.parametrize("shape", [(24, 24), (24, 72), (72, 24)])
def test_muon_steps_as_torch_s_own_does(shape):
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = (
        Muon([ours], lr=0.01, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1),
    )
    for _ in range(3):
        ours.grad = theirs.grad = torch.randn(shape)
        for optimizer in optimizers:
            optimizer.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved  # torch rounds to bfloat16
    singular = torch.linalg.svdvals(orthogonalized(ours.grad))
    assert singular.min() > 0.6 and singular.max() < 1.3


def test_the_loss_tells_the_edited_region_from_the_rest():
    torch.manual_seed(0)
    pipeline = build_pipeline()
    reference = torch.randn(64, 24)
    hidden, pooled = torch.randn(2, TEXT_TOKENS, WIDTH), torch.randn(2, POOLED_WIDTH)
    stage = next(stage for stage in STAGES if stage.side_px == 64)

    def losses(edited, pure_noise=True):
        with torch.no_grad():
            noise = torch.Generator().manual_seed(7)
            edits = edited.expand(2, -1, -1)
            parts = editor_loss(
                pipeline.transformer, reference, edits, hidden, pooled, stage, pure_noise, noise
            )
        return tuple(part.item() for part in parts)

    changed, kept = losses(reference)
    assert changed == 0 and kept > 0
    changed, kept = losses(reference + 1)
    assert changed > 0 and kept == 0
    assert all(loss > 0 for loss in losses(torch.roll(reference, 1, 0), pure_noise=False)[:1])


def test_scoring_accepts_the_asked_image_and_refuses_every_other(drawn):
    rng = np.random.default_rng(1)
    for kind in TEMPLATES:
        asked = edit(rng, drawn.scene, drawn.target, drawn.expression, kind)
        wanted = asked.edited.render()
        assert rules.does_as_asked(drawn, asked, wanted)
        assert not rules.does_as_asked(drawn, asked, drawn.scene.render())
        other = next(i for i in range(len(drawn.scene.objects)) if i != drawn.target)
        elsewhere = drawn.scene.without(other).render()
        assert not rules.does_as_asked(drawn, asked, elsewhere)
        assert rules.change_outside(drawn, asked, wanted) == 0
        assert rules.change_outside(drawn, asked, 255 - wanted) > 0.05


def test_a_hit_is_a_change_on_the_object_itself(drawn):
    scene, rng = drawn.scene, np.random.default_rng(0)
    edits = [edit(rng, scene, at, "it", "remove") for at in range(len(scene.objects))]
    for index, asked in enumerate(edits):
        share = _on_tokens(scene.mask(index))
        assert rules.hits(scene, asked, share)
        assert not rules.hits(scene, edits[(index + 1) % len(edits)], share)


def test_a_hit_in_pixels_is_within_half_a_token_of_the_object(drawn):
    scene, rng = drawn.scene, np.random.default_rng(0)
    asked = edit(rng, scene, drawn.target, "it", "remove")
    distance = distance_transform_edt(~scene.mask(drawn.target))
    distance[[0, -1]] = distance[:, [0, -1]] = np.inf  # a blob of 3 x 3 px fits around the rest
    for target_px, hit in [(0, True), (3, True), (6, False), (20, False)]:
        row, column = np.unravel_index(np.abs(distance - target_px).argmin(), distance.shape)
        change = np.zeros((128, 128))
        change[row - 1 : row + 2, column - 1 : column + 2] = 1
        assert rules.hits_in_pixels(scene, asked, change) == hit, target_px


def test_the_breakdown_counts_every_example_once_for_each_question():
    rows = pd.DataFrame(
        {
            "style": "cartoons",
            "hit": [True, False, True],
            "hit_px": [True, True, True],
            "noun": ["dog", "dog", "cat"],
            **{name: "none" for name in ("says", "edit", "hidden", "held_out")},
            "objects": [2, 3, 3],
        }
    )
    table = score.breakdown(rows)
    assert (table.groupby("by").n.sum() == 3).all()
    assert table[(table["by"] == "noun") & (table.group == "dog")].hit.item() == 0.5


def _on_tokens(mask):
    return mask.reshape(16, 8, 16, 8).mean((1, 3))


def test_a_killed_training_goes_on_where_it_was(tmp_path):
    call = "import sys; from tools.train_tiny.train import train; train(0.4, out=sys.argv[1])"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", call, str(tmp_path)], stderr=subprocess.DEVNULL
    )
    checkpoint = tmp_path / CHECKPOINT
    deadline = time.monotonic() + 300
    while not checkpoint.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = torch.load(checkpoint, weights_only=True)
    with pytest.raises(InputError, match="--resume"):
        train(0.4, out=tmp_path)
    train(0.4, out=tmp_path, resume=True)
    after = torch.load(checkpoint, weights_only=True)
    assert after["step"] > before["step"] and after["elapsed"] >= 24
    assert after["editor_from"] == before["editor_from"]
    vae = [name for name in before["modules"]["vae"]]
    assert all(torch.equal(before["modules"]["vae"][n], after["modules"]["vae"][n]) for n in vae)
    assert (tmp_path / "model_index.json").exists()


def test_nothing_to_resume_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no training run to resume"):
        train(0.1, out=tmp_path, resume=True)


@pytest.mark.long
def test_two_minutes_of_training_lower_the_loss(tmp_path):
    train(2, out=tmp_path)
    with (Path(tmp_path) / CURVE).open() as file:
        rows = [row for row in csv.DictReader(file) if row["kept"]]
    kept = [float(row["kept"]) for row in rows]
    assert len(kept) > 1 and kept[-1] < 0.7 * kept[0]  # a row every ten steps
