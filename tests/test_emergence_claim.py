"""The claim: planted false claims are caught, and a true one is shown, by the study's own code."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file
from sklearn.linear_model import Ridge

from ground_probe import study as em
from ground_probe.errors import IncompleteError
from ground_probe.probes import per_image
from ground_probe.probes.linear import PENALTIES
from ground_probe.stats import compare, estimate
from ground_probe.study import table as tables

IMAGES, PER_KIND, WIDTH, GRID = 20, 6, 6, (8, 8)
BLOCKS, STEPS = ("first", "second"), (0, 5)
KINDS = np.repeat(["target", "distractor", "background"], PER_KIND)

Plant = Callable[[np.random.Generator, str, np.ndarray, str], np.ndarray]


def noise(rng, condition, place, block):
    return np.zeros(len(place))


def position(rng, condition, place, block):
    return place % GRID[1] - GRID[1] / 2


def objectness(rng, condition, place, block):
    return 3.0 * (KINDS != "background") * (condition != "random_weights")


def language(rng, condition, place, block):
    """What an editor should do: mark the object that it was told of."""
    told = {"none": "target", "other_expression": "distractor"}.get(condition)
    return objectness(rng, condition, place, block) + 3.0 * (told == KINDS)


def late(rng, condition, place, block):
    """Language in one block only."""
    return language(rng, condition, place, block) if block == "second" else 0 * place


def plant(folder, feature: Plant, condition: str, split: str) -> em.Samples:
    """Files as `collect` leaves them, with a feature of our own in place of hidden states."""
    files = []
    for i in range(IMAGES):
        # Referents lie on the left more often than not, as they may in a data set.
        own = np.random.default_rng([i, split == "val"])
        place = own.integers(0, GRID[0], len(KINDS)) * GRID[1]
        place += np.where(
            KINDS == "target", own.integers(0, 5, len(KINDS)), own.integers(0, GRID[1], len(KINDS))
        )
        rng = np.random.default_rng([i, *condition.encode(), *split.encode()])
        blocks = BLOCKS if feature is late else BLOCKS[:1]
        shape = (len(blocks), 1, len(STEPS), len(KINDS))
        hidden = rng.normal(size=(*shape, WIDTH))
        for b, block in enumerate(blocks):
            hidden[b, ..., 0] += feature(rng, condition, place, block)
        arrays = {
            "place": place,
            "target": KINDS == "target",
            "distractor": KINDS == "distractor",
            "rest": KINDS == "background",
            "hidden": hidden.astype(np.float16),
            "attention": rng.random((2, *shape[:3], 1, shape[3])).astype(np.float32),
            "rgb": rng.random((len(KINDS), 4)).astype(np.float32),
            "vae_latent": rng.random((len(KINDS), 4)).astype(np.float32),
        }
        about = {
            "key": f"{split}/{i}",
            "image_id": f"{split}/{i}",
            "grid": GRID,
            "blocks": blocks,
            "streams": ["reference"],
            "steps": STEPS,
            "sigmas": [1.0, 0.8],
        }
        path = folder / f"{split}-{condition}-{i}.safetensors"
        save_file(arrays, path, metadata={"about": json.dumps(about)})
        files.append(path)
    return em.Samples.open(files, split=split, control=condition)


def collected(folder, feature: Plant) -> tuple:
    conditions = ("none", "other_expression", "no_expression", "shuffled")
    fit = plant(folder, feature, "none", "val")
    tests = [plant(folder, feature, name, "test") for name in conditions]
    random = [plant(folder, feature, "random_weights", split) for split in ("val", "test")]
    return fit, tests, random


def study(folder, feature: Plant) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the notebook does with what it collected."""
    fit, tests, random = collected(folder, feature)
    scores = pd.concat(
        [
            em.score(fit, tests),
            em.score(random[0], random[1:]),
            em.score_inputs(fit, tests[0]),
            em.score_control_labels(fit, tests[0]),
        ],
        ignore_index=True,
    )
    return scores, em.summarize(scores)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    made = {}

    def of(feature):
        if feature not in made:
            made[feature] = study(tmp_path_factory.mktemp(feature.__name__), feature)
        return made[feature]

    return of


@pytest.mark.parametrize("feature", [noise, position])
@pytest.mark.parametrize("labels", em.LABELS)
def test_noise_and_position_alone_show_nothing(planted, feature, labels):
    claim = em.claim(*planted(feature), labels=labels)
    assert not claim.shown and claim.sentence().startswith("Not shown: at none of the steps 0, 5")


def test_a_position_prior_is_there_to_be_caught(planted):
    _, table = planted(position)
    of = table.query("control == 'none' and labels == 'grounding' and split == 'test'")
    assert of.query("probe == 'linear'").low.min() > 0.5  # above chance, and yet not shown


def test_objectness_alone_is_separability_and_never_grounding(planted):
    separability = em.claim(*planted(objectness), labels="separability")
    grounding = em.claim(*planted(objectness), labels="grounding")
    assert separability.shown and separability.step == 0
    assert not grounding.shown


def test_language_is_shown_and_points_away_with_another_expression(planted):
    scores, table = planted(language)
    claim = em.claim(scores, table)
    assert claim.shown and claim.step == 0
    assert claim.sentence().startswith("Shown: at step 0 (sigma 1.00) the reference stream of")
    other = claim.rivals.query("control == 'other_expression'")
    assert (other.high < 0.5).all()


@pytest.mark.parametrize("missing", em.RIVALS["grounding"])
def test_no_claim_without_every_control(planted, missing):
    scores, table = planted(language)
    claim = em.claim(scores, table[table.control != missing])
    assert not claim.shown
    assert claim.sentence() == f"Not shown: no step has every control, {missing} are missing."


def test_a_control_that_keeps_up_defeats_the_claim(planted):
    """The test of the test: with the editor's own values as a control, nothing is shown."""
    scores, table = planted(language)
    for frame in (scores, table):
        assert (frame.control == "shuffled").any()

    def forged(frame):
        own = frame[frame.control == "none"].assign(control="shuffled")
        return pd.concat([frame[frame.control != "shuffled"], own], ignore_index=True)

    assert not em.claim(forged(scores), forged(table)).shown


def test_blocks_are_chosen_on_val_and_reported_on_test(planted):
    _, table = planted(late)
    assert set(em.best_blocks(table, "grounding").block) == {"second"}
    flattered = table.copy()
    at = (flattered.split == "test") & (flattered.block == "first")
    flattered.loc[at, "value"] = 1.0
    assert set(em.best_blocks(flattered, "grounding").block) == {"second"}
    assert set(em.best_blocks(flattered, "grounding").split) == {"test"}


def shifted(scores, by):
    """Scores with something added to the editor's test images at step 0, and their table."""
    early = (scores.step == 0) & (scores.control == "none") & (scores.split == "test")
    scores = scores.copy()
    scores.loc[early, "value"] += np.resize(by, early.sum())
    return scores, em.summarize(scores)


def test_the_earliest_step_must_be_near_the_best(planted):
    worse = shifted(planted(language)[0], -0.15)
    assert em.claim(*worse).step == 5
    assert em.claim(*worse, delta=0.3).step == 0


def test_a_mean_that_happens_to_be_near_the_best_is_not_enough(planted):
    """A step that is much worse on half of the images, much better on the others."""
    scores, _ = planted(language)
    steady, erratic = shifted(scores, -0.02), shifted(scores, [0.28, -0.32])
    assert em.claim(*steady).step == 0
    claim = em.claim(*erratic)
    row = claim.steps.iloc[0]
    assert row.above > -0.05 > row.above_low and not row.within_delta
    assert claim.step == 5
    claim = em.claim(*steady)
    assert f"step 0 less it is {claim.steps.above[0]:+.3f}" in claim.sentence()


def test_the_first_step_is_compared_with_later_ones_pairwise(planted):
    scores, table = planted(language)
    claim = em.claim(scores, table)
    row = claim.later.iloc[0]
    cells = [
        scores.query(
            "labels == 'grounding' and control == 'none' and split == 'test' and probe == 'linear'"
            f" and step == {step} and block == '{block}'"
        ).set_index("image_id")["value"]
        for step, block in zip(claim.steps.step, claim.steps.block, strict=True)
    ]
    expected = compare(cells[0].to_numpy(), cells[1].reindex(cells[0].index).to_numpy())
    assert (row.difference, row.low, row.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    assert row.p == pytest.approx(expected.p, abs=0.02)


def test_with_refits_differences_see_other_images_to_fit_on(planted, tmp_path):
    scores, table = planted(language)
    fit, tests, random = collected(tmp_path, language)
    refits = em.refit(table, fit, tests, untrained=random, draws=20)
    given, both = em.claim(scores, table), em.claim(scores, table, refits=refits)
    assert given.shown and both.shown
    assert "p 0.0002 given the fitted probes;" in given.sentence()
    assert " over other images to fit and to test on;" in both.sentence()
    width = [each.later.high - each.later.low for each in (given, both)]
    assert (width[1] > width[0]).all() and (both.later.p >= given.later.p).all()
    assert given.later.over.eq("test images, given the fit").all()
    assert both.later.over.eq("images to fit and to test on").all()
    selective = em.selectivity(scores, table, refits=refits)
    plain = em.selectivity(scores, table)
    assert (selective.high - selective.low > plain.high - plain.low).all()
    pairs = em.paired_probes(
        scores, table, "linear", ["attention", "prototype"], stream="reference", refits=refits
    )
    assert set(pairs[pairs.less == "attention"].over) == {"images to fit and to test on"}
    assert set(pairs[pairs.less == "prototype"].over) == {"test images, given the fit"}
    with pytest.raises(IncompleteError, match=r"no refits of linear at .* control random_weights"):
        em.claim(scores, table, refits=refits[refits.control != "random_weights"])


def test_a_refit_is_a_fit_on_images_that_count_as_often_as_they_were_drawn(planted, tmp_path):
    _, table = planted(language)
    fit, tests, _ = collected(tmp_path, language)
    refits = em.refit(table, fit, tests, probes=("linear",), draws=3)
    own = refits.query("labels == 'grounding' and control == 'none' and step == 0")
    drawn = np.random.default_rng(0).multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), size=3)
    rows, tested = fit.rows, tests[0].rows
    cell = (own.block.iloc[0], "reference", 0)
    asked, of = (r.target | r.distractor for r in (rows, tested))
    image = rows.image_id.map({name: i for i, name in enumerate(rows.image_id.unique())})
    for draw, value in zip(own.draw, own.value, strict=True):
        times = drawn[draw][image[asked]]
        x, y = fit.hidden(cell)[asked].astype(float), rows.target[asked].to_numpy()
        mean = np.average(x, axis=0, weights=times)
        scale = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=times))
        values = []
        half = np.where(y, 0.5 / times[y].sum(), 0.5 / times[~y].sum())
        for penalty in PENALTIES:  # one of these was chosen
            model = Ridge(penalty).fit((x - mean) / scale, 2 * y - 1, sample_weight=times * half)
            scores = model.predict((tests[0].hidden(cell)[of] - mean) / scale)
            values.append(
                per_image(scores, tested.target[of], tested.image_id[of].to_numpy(str)).mean()
            )
        assert min(abs(value - other) for other in values) < 4e-3


def test_the_table_is_estimate_row_by_row(planted):
    scores, table = planted(position)
    assert list(table.columns) == list(em.COLUMNS)
    scores = scores.assign(value=scores.value.where(scores.index % 7 > 0))  # some miss a value
    table = em.summarize(scores)
    names = [*tables._SET, *tables._CELL]
    found = {
        key: estimate(of["value"].to_numpy())
        for key, of in scores.fillna({"step": -1, "sigma": -1}).groupby(names)
    }
    assert len(found) == len(table)
    for key, of in table.fillna({"step": -1, "sigma": -1}).groupby(names):
        one = found[key]
        assert of[["value", "low", "high"]].iloc[0].tolist() == pytest.approx(
            [one.value, one.low, one.high]
        )
        assert of.n_images.iloc[0] == of.n_expressions.iloc[0] == one.n


def test_selectivity_is_paired_with_the_control_labels(planted):
    scores, table = planted(language)
    found = em.selectivity(scores, table)
    assert list(found.step) == list(STEPS) and (found.low > 0.2).all()
    row = found.iloc[0]
    cells = [
        scores.query(
            f"labels == 'grounding' and control == '{control}' and split == 'test' and "
            f"probe == 'linear' and step == 0 and block == '{row.block}'"
        ).set_index("image_id")["value"]
        for control in ("none", "control_labels")
    ]
    expected = compare(cells[0].to_numpy(), cells[1].reindex(cells[0].index).to_numpy())
    assert (row.selectivity, row.low, row.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    noisy = em.selectivity(*planted(noise))
    assert (noisy.low < 0).all()


def test_a_probe_is_compared_with_others_on_the_same_images(planted):
    scores, table = planted(language)
    found = em.paired_probes(scores, table, "linear", ["attention"], stream="reference")
    of = found[(found.labels == "grounding") & (found.step == 0)].iloc[0]
    assert of.low > 0.2 and of.n == IMAGES


def test_a_table_survives_its_file(planted, tmp_path):
    _, table = planted(noise)
    table.to_csv(tmp_path / "emergence.csv", index=False)
    back = em.read_table(tmp_path / "emergence.csv")
    pd.testing.assert_frame_equal(back, table, check_dtype=False)
    assert back.step.dtype == "Int64" and back.step.isna().any()


def test_a_claim_needs_cells(planted):
    scores, table = planted(noise)
    with pytest.raises(IncompleteError, match="no linear of the text stream"):
        em.claim(scores, table, stream="text")
