"""How often 95 % intervals hold the truth, and how often p <= .05 where nothing differs.

    python benchmarks/coverage.py intervals    # a minute
    python benchmarks/coverage.py fitted       # two minutes
    python benchmarks/coverage.py claim        # four minutes

`intervals`: the mean per-image AUC over 10, 20, 40 and 100 images. `fitted`: two probes of equal
worth, fitted on the same images and compared on others, given the fit and with refits on resampled
fitting images. `claim`: the study's own claim under two nulls, 200 studies each, with refits and
without: features that know nothing of the referent, where nothing should be shown, and features
that know it equally well at both steps, where no later step should differ. To be cheap, a study has
one block and stream, two steps (every control at the first alone, none for the second null), 12
tokens an image, 16 features, and as many images to fit on as to test on, 40.
Written are `coverage_<name>.csv` and `.txt`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ground_probe import study
from ground_probe.probes import held_out_scores, per_image, refit_scores
from ground_probe.stats import bootstrap, compare
from ground_probe.study.samples import INPUTS

IMAGES = (10, 20, 40, 100)
KINDS = {  # shift of the object's scores, their share of 48 tokens, spread of the shift over images
    "AUC .75": (1.0, 0.3, 0.5),
    "AUC .98": (3.0, 0.3, 0.5),
    "AUC .997": (4.0, 0.3, 0.5),
    "one object token of 48, AUC .92": (2.0, 1 / 48, 0.0),
    "one object token of 48, AUC .997": (4.0, 1 / 48, 0.0),
}


def intervals(replicates: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for kind, (shift, share, spread) in KINDS.items():
        positives = max(1, round(48 * share))
        labels = np.tile(np.arange(48) < positives, 20_000)
        groups = np.repeat(np.arange(20_000), 48)
        own = shift + spread * rng.normal(size=20_000)
        scores = rng.normal(size=len(labels)) + labels * own[groups]
        population = per_image(scores, labels, groups)
        truth = population.mean()
        for n in IMAGES:
            drawn = population[rng.integers(0, len(population), (n, replicates))]
            _, low, high = bootstrap(drawn, resamples=1000)
            held = np.mean((low <= truth) & (truth <= high))
            yield {"kind": kind, "images": n, "replicates": replicates, "held": held}


def cells(rng: np.random.Generator, images: int, *directions: np.ndarray) -> tuple:
    """Features of 12 tokens an image: those of one object are alike."""
    groups = np.repeat(np.arange(images), 12)
    labels = np.tile(np.arange(12) < 4, images)
    objects = np.arange(images * 12) // 4
    features = []
    for direction in directions:
        alike = rng.normal(size=(images * 3, len(direction)))[objects]
        own = rng.normal(size=(len(labels), len(direction)))
        features.append(np.sqrt(0.5) * (alike + own) + np.outer(labels, direction))
    return groups, labels, features


def fitted(replicates: int) -> Iterator[dict[str, Any]]:
    for fit, test in ((40, 300), (120, 300), (120, 1000)):
        rng, rows = np.random.default_rng(1), []
        for _ in range(replicates):
            direction = np.eye(32)[0]
            groups, labels, features = cells(rng, fit + test, direction, direction)
            sides = [_probe(feature, labels, groups, fit) for feature in features]
            (first, _), (second, _) = sides
            moves = (sides[0][1].mean(1) - sides[1][1].mean(1)).var(ddof=1)
            for way, variance in (("given the fit", 0.0), ("with refits", moves)):
                found = compare(first, second, fit_variance=variance)
                rows.append((way, found.p <= 0.05, found.low <= 0 <= found.high))
        table = pd.DataFrame(rows, columns=["way", "p <= .05", "held"])
        for way, of in table.groupby("way")[["p <= .05", "held"]].mean().iterrows():
            yield {"fit": fit, "test": test, "replicates": replicates, "way": way, **of}


def claim(replicates: int, images: int = 40) -> Iterator[dict[str, Any]]:
    every = ("none", *study.RIVALS["grounding"])
    for null, controls in (("nothing", every), ("the same at both steps", ("none",))):
        rng, rows = np.random.default_rng(2), []
        for _ in range(replicates):
            cells = [("none", 5), *((control, 0) for control in controls)]
            parts = [_study(rng, images, *cell, null) for cell in cells]
            scores, refits = (pd.concat(of, ignore_index=True) for of in zip(*parts, strict=True))
            table = study.summarize(scores)
            for way, given in (("given the fit", None), ("with refits", refits)):
                verdict = study.claim(scores, table, refits=given)
                (p,) = verdict.later.p
                rows.append((way, verdict.shown, p <= 0.05))
        told = pd.DataFrame(rows, columns=["way", "shown", "later step p <= .05"])
        if controls == ("none",):
            told["shown"] = np.nan
        for way, of in told.groupby("way")[["shown", "later step p <= .05"]].mean().iterrows():
            about = {"features know": null, "images": images, "replicates": replicates}
            yield {**about, "way": way, **of}


def _probe(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, fit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Values of the images beyond `fit`, and of the same images under refits."""
    beyond = np.unique(groups[groups >= fit])
    scores = held_out_scores(features, labels, groups, test_groups=beyond)
    known = groups >= fit
    drawn = refit_scores(features, labels, groups, beyond)
    image = np.arange(len(drawn))[:, None] * (groups.max() + 1) + groups[known]
    values = per_image(drawn.ravel(), np.tile(labels[known], len(drawn)), image.ravel())
    return per_image(scores[known], labels[known], groups[known]), values.reshape(len(drawn), -1)


def _study(
    rng: np.random.Generator, images: int, control: str, step: int, null: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores and refits of one cell; every control has features and a probe of its own."""
    direction = np.zeros(16)
    direction[0] = null != "nothing" and control == "none"
    groups, labels, (features,) = cells(rng, 2 * images, direction)
    values, drawn = _probe(features, labels, groups, images)
    given = control in INPUTS
    about = {
        "labels": "grounding", "control": control, "block": "input" if given else "block",
        "stream": "reference", "step": pd.NA if given else step, "probe": "linear",
    }  # fmt: skip
    rows = pd.DataFrame({
        "split": np.repeat(["val", "test"], images), "image_id": np.arange(2 * images).astype(str),
        "value": np.tile(values, 2), "n_expressions": 1, "seed": 0,
        "sigma": np.nan if given else 1.0 - step / 28,
    })  # fmt: skip
    refits = pd.DataFrame({"draw": np.arange(len(drawn)), "value": drawn.mean(axis=1)})
    return rows.assign(**about), refits.assign(**about)


RUNS = {"intervals": (intervals, 2000), "fitted": (fitted, 100), "claim": (claim, 200)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=RUNS)
    parser.add_argument("--replicates", type=int)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    run, usual = RUNS[given.what]
    table = pd.DataFrame(run(given.replicates or usual))
    text = table.to_string(index=False, float_format="{:.3f}".format)
    given.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(given.out / f"coverage_{given.what}.csv", index=False, float_format="%.4f")
    (given.out / f"coverage_{given.what}.txt").write_text(f"{text}\n")
    print(text)


if __name__ == "__main__":
    main()
