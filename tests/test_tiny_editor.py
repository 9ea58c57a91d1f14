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
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import ground_probe as gp
from ground_probe.datasets import cartoons, scenes
from ground_probe.errors import InputError
from tools.train_tiny import build, failures, rules, score
from tools.train_tiny.build import (
    LATENT_CHANNELS,
    POOLED_WIDTH,
    TEXT_TOKENS,
    WIDTH,
    build_pipeline,
    build_tokenizer,
    build_vae,
)
from tools.train_tiny.edits import TEMPLATES, by_legend, edit, sample_edits
from tools.train_tiny.examples import EDITS_A_SCENE, SCENES_A_CHUNK, EditChunks
from tools.train_tiny.losses import (
    even_weights,
    is_changed,
    mean_where,
    token_weights,
    velocity_error,
)
from tools.train_tiny.optimizers import Muon, orthogonalized
from tools.train_tiny.pool import Ahead, LatentPool, encode, pixels
from tools.train_tiny.schedule import GOING_ON, SCALES, STAGES, Scale
from tools.train_tiny.step import EditorStep
from tools.train_tiny.train import CHECKPOINT, CURVE, train


@pytest.fixture
def drawn():
    return scenes.load("scenes+", "test", limit=1).scene(0)


def test_every_instruction_fits_and_every_word_is_known():
    tokenizer, rng, longest = build_tokenizer(), np.random.default_rng(0), 0
    for _ in range(300):
        scene = scenes.sample_scene(rng)
        for each in sample_edits(rng, scene, 4):
            ids = tokenizer(each.instruction).input_ids
            assert tokenizer.unk_token_id not in ids, each.instruction
            longest = max(longest, len(ids))
    assert 12 < longest <= TEXT_TOKENS


def test_every_instruction_of_cartoons_fits_and_every_word_is_known():
    tokenizer, rng, longest, kinds = build_tokenizer(), np.random.default_rng(0), 0, set()
    for _ in range(60):
        scene = cartoons.sample_scene(rng)
        for asked in sample_edits(rng, scene, 4):
            ids = tokenizer(asked.instruction).input_ids
            assert tokenizer.unk_token_id not in ids, asked.instruction
            longest = max(longest, len(ids))
            kinds.add(asked.kind)
            assert not cartoons.is_held_out(scene.objects[asked.target])
            before, after = scene.render(), asked.edited.render()
            assert (before != after).any(-1)[scene.mask(asked.target)].any()
    assert 12 < longest <= TEXT_TOKENS and kinds == set(TEMPLATES)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_an_edit_changes_its_object_and_nothing_else(drawn, kind):
    asked = edit(np.random.default_rng(0), drawn.scene, drawn.target, drawn.expression, kind)
    kept = [o for i, o in enumerate(drawn.scene.objects) if i != drawn.target]
    assert set(kept) <= set(asked.edited.objects)
    assert drawn.scene.objects[drawn.target] not in asked.edited.objects
    assert drawn.expression in asked.instruction


def test_chunks_are_pure_functions_of_seed_and_number():
    once, again = (EditChunks(seed=0)[5] for _ in range(2))
    later = EditChunks(seed=0)[6]
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    before, after, ids = once
    assert not torch.equal(before, later[0])
    assert after.shape[:2] == ids.shape[:2] == (SCENES_A_CHUNK, EDITS_A_SCENE)
    assert (after != before[:, None]).flatten(2).any(-1).float().mean() > 0.9  # a legend may be met


@pytest.mark.parametrize("world", [scenes, cartoons])
def test_a_legend_colors_every_object_by_its_kind(world):
    tokenizer, rng = build_tokenizer(), np.random.default_rng(0)
    colors_of = {}
    for _ in range(20):
        scene = world.sample_scene(rng)
        instruction, edited = by_legend(scene)
        assert tokenizer.unk_token_id not in tokenizer(instruction).input_ids
        for thing in edited.objects:
            kind = thing.shape if world is scenes else thing.noun
            assert f"{kind} {thing.color}" in instruction
            colors_of.setdefault(kind, set()).add(thing.color)
    assert all(len(colors) == 1 for colors in colors_of.values())


def test_the_pool_keeps_the_newest_and_draws_scenes_whole():
    vae = build_vae()
    chunks = [EditChunks(seed=0)[number] for number in range(3)]
    pool = LatentPool(vae, capacity=8, device="cpu")
    pool.add(chunks[:1])
    assert len(pool) == 4
    pool.add(chunks[1:2])
    pool.add(chunks[2:])
    assert len(pool) == 8
    newest = torch.cat([chunk[2] for chunk in chunks[1:]])
    places = pool.sample(64, torch.Generator().manual_seed(0))
    assert set(places.tolist()) == set(range(8))
    reference, edited, ids = pool.at(places)
    for drawn in range(64):
        (scene,) = (i for i in range(8) if torch.equal(newest[i], ids[drawn]))
        chunk = chunks[1 + scene // 4]
        for latents, images in (
            (reference[drawn, None], chunk[0][scene % 4, None]),
            (edited[drawn], chunk[1][scene % 4]),
        ):
            assert torch.allclose(latents, encode(vae, pixels(images)), atol=5e-3)


@pytest.mark.parametrize("stage", [*STAGES, *GOING_ON], ids=lambda stage: stage.name)
def test_a_step_never_waits_for_the_device(stage, monkeypatch):
    """Tensors without values tell: they cannot be read."""
    schedule = build.FlowMatchEulerDiscreteScheduler()  # made ahead, for it reads its own
    monkeypatch.setattr(build, "FlowMatchEulerDiscreteScheduler", lambda **_: schedule)
    with FakeTensorMode():
        pipeline = build_pipeline()
        pool = LatentPool(pipeline.vae, capacity=8, device="cpu")
        pool.add([(torch.zeros(4, 3, 128, 128), torch.zeros(4, 4, 3, 128, 128), _ids(4, 4))])
        step = EditorStep(pipeline, [], pool, scenes=2, generator=None)
        loss = step.losses(stage)[0]
        loss.backward()
        with pytest.raises(DataDependentOutputException):
            loss.item()
    gradients = [weight.grad for weight in pipeline.transformer.parameters()]
    assert all(gradient is not None for gradient in gradients)


def _ids(*shape):
    return torch.ones(*shape, TEXT_TOKENS, dtype=torch.long)


def test_what_fails_beside_the_training_stops_it():
    def chunks():
        yield EditChunks(seed=0)[0]
        raise RuntimeError("no more scenes")

    ahead = Ahead(chunks(), most=2)
    assert len(ahead.take(at_least=1)) == 1
    with pytest.raises(RuntimeError, match="no more scenes"):
        ahead.take(at_least=1)


def test_muon_steps_as_torch_s_own_does():
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in [(24, 24), (24, 72), (24, 24), (72, 24)]]
    ours, theirs = ([torch.nn.Parameter(value.clone()) for value in start] for _ in range(2))
    optimizers = (
        Muon(ours, lr=0.01, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1),
    )
    for _ in range(3):
        for mine, its in zip(ours, theirs, strict=True):
            mine.grad = its.grad = torch.randn(mine.shape)
        for optimizer in optimizers:
            optimizer.step()
    for mine, its, value in zip(ours, theirs, start, strict=True):
        assert (mine - its).norm() < 0.02 * (its - value).norm()  # torch rounds to bfloat16
        singular = torch.linalg.svdvals(orthogonalized(mine.grad[None]))
        assert singular.median() > 0.6 and singular.max() < 1.3


def test_the_error_of_the_edited_region_is_told_from_that_of_the_rest():
    torch.manual_seed(0)
    pipeline = build_pipeline()
    reference = torch.randn(2, 64, 4 * LATENT_CHANNELS)
    hidden, pooled = torch.randn(2, TEXT_TOKENS, WIDTH), torch.randn(2, POOLED_WIDTH)

    def errors(edited, pure_noise=1.0, noise_tokens=1.0):
        shares = pure_noise, noise_tokens, torch.Generator().manual_seed(7)
        with torch.no_grad():
            error, there, sigma = velocity_error(
                pipeline.transformer, reference, edited, hidden, pooled, *shares
            )
        assert (sigma == 1).all() == (pure_noise == 1)
        changed = is_changed(reference, edited[:, None])[:, 0, there]
        return mean_where(error, changed).item(), mean_where(error, ~changed).item()

    changed, kept = errors(reference)
    assert changed == 0 and kept > 0
    changed, kept = errors(reference + 1)
    assert changed > 0 and kept == 0
    elsewhere = torch.roll(reference, 1, 1)
    assert errors(elsewhere, pure_noise=0.0, noise_tokens=0.3)[0] > 0


def test_a_token_counts_the_same_whichever_edit_changes_it_and_every_region_as_much():
    changed = torch.zeros(1, 2, 20, dtype=torch.bool)
    changed[0, 0, :4] = True  # a house
    changed[0, 1, 4:14] = True  # a tree
    weights = even_weights(changed)
    assert weights.shape == (1, 1, 20)
    house, tree, rest = weights[0, 0, :4], weights[0, 0, 4:14], weights[0, 0, 14:]
    assert house.sum().item() == pytest.approx(0.5) and tree.sum().item() == pytest.approx(0.5)
    assert rest.sum().item() == pytest.approx(0.3)
    one_token = torch.eye(2, 20, dtype=torch.bool)[None]
    assert even_weights(one_token)[0, 0, 0].item() == pytest.approx(0.5 / 3)
    everything = torch.ones(1, 1, 20, dtype=torch.bool)
    assert even_weights(everything).sum().item() == pytest.approx(1)


def test_only_even_examples_are_weighed_evenly():
    changed = torch.zeros(1, 2, 20, dtype=torch.bool)
    changed[0, 0, :4] = True
    changed[0, 1, 4:14] = True
    weights = token_weights(changed, torch.tensor([[True, False]]), ramp=0.5)
    torch.testing.assert_close(weights[0, 0], even_weights(changed)[0, 0])
    torch.testing.assert_close(weights[0, 1, 4:14], torch.full((10,), 0.05))
    torch.testing.assert_close(weights[0, 1, :4], torch.full((4,), 0.1))


def test_in_doubt_even_weights_draw_a_change_as_far_as_it_is_likely():
    """Words that do not tell two objects apart: each is meant in half of the examples."""
    changed = torch.tensor([[[True, False, False], [False, True, False]]])
    drawn = torch.full((3,), 0.5, requires_grad=True)
    error = (drawn - changed.float()).square()
    (error * even_weights(changed)).sum().backward()
    torch.testing.assert_close(drawn.grad[:2], torch.zeros(2))


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


def test_failures_are_pooled_over_the_styles_of_cartoons():
    rows = [("cartoons", 30, 0.9), ("cartoons+", 10, 0.5), ("scenes", 99, 1.0), ("cartoonsg", 5, 0)]
    table = pd.DataFrame(
        [("objects", "2", style, n, hit) for style, n, hit in rows]
        + [("objects", "3", "cartoons", failures.FEWEST - 1, 1.0)],
        columns=["by", "group", "style", "n", "hit"],
    )
    (row,) = failures.pooled(table).itertuples()
    assert (row.n, row.hits) == (45, 32) and row.low < row.hit == 32 / 45 < row.high
    assert (row.low, row.high) == pytest.approx((0.566, 0.823), abs=0.001)  # Wilson, by hand


def test_the_first_step_is_the_same_forward_on_every_schedule():
    editor, example = gp.load_editor("tiny", device="cpu"), gp.load_split("cartoons", "test")[0]
    asked = f"remove {example.expression}", example.expression
    states = [
        gp.trace(editor, example.image, *asked, num_steps=steps).hidden for steps in (28, 4, 50)
    ]
    assert len(states[0]) > 8
    for other in states[1:]:
        assert all(torch.equal(state, other[site]) for site, state in states[0].items())


def _on_tokens(mask):
    return mask.reshape(16, 8, 16, 8).mean((1, 3))


@pytest.fixture
def soon(monkeypatch):
    """Training on few scenes at a time, soon begun; what a process needs for it, too."""
    monkeypatch.setitem(SCALES, "cpu", Scale(scenes=4, pool=2**13, first=16, workers=1))
    return f"from tools.train_tiny.schedule import *; SCALES['cpu'] = {SCALES['cpu']}; "


def test_a_killed_training_goes_on_where_it_was(tmp_path, soon):
    call = soon + "import sys; from tools.train_tiny.train import *; train(0.4, out=sys.argv[1])"
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


def test_a_training_goes_on_from_weights_and_keeps_their_autoencoder(tmp_path, soon):
    train(0.3, out=tmp_path, start=score.WEIGHTS)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    earlier = FluxKontextPipeline.from_pretrained(score.WEIGHTS)
    kept = earlier.vae.state_dict()
    assert state["step"] > 0 and all(
        torch.equal(kept[name], value) for name, value in state["modules"]["vae"].items()
    )
    assert state["scaling"]["scaling_factor"] == earlier.vae.config.scaling_factor
    before = earlier.transformer.state_dict()
    moved = [(before[n] - v).norm() / v.norm() for n, v in state["modules"]["transformer"].items()]
    assert 0 < max(moved) < 0.5, "it goes on from there, not from nothing"


def test_nothing_to_resume_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no training run to resume"):
        train(0.1, out=tmp_path, resume=True)


@pytest.mark.long
def test_two_minutes_of_training_lower_the_loss(tmp_path, soon):
    train(2, out=tmp_path)
    with (Path(tmp_path) / CURVE).open() as file:
        rows = [row for row in csv.DictReader(file) if row["kept"]]
    kept = [float(row["kept"]) for row in rows]
    assert len(kept) > 1 and kept[-1] < 0.7 * kept[0]  # a row every ten steps
