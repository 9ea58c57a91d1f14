"""How often 95 % intervals hold the truth, and how often p <= .05 where nothing differs.

    python benchmarks/coverage.py intervals    # a minute
    python benchmarks/coverage.py fitted       # three minutes
    python benchmarks/coverage.py claim        # five minutes

`intervals`: the mean per-image AUC over 10, 20, 40 and 100 images, each simulated 2,000 times.
Measured, of a nominal .95: AUC .75 .938, .946, .950, .947; AUC .98 .888, .916, .931, .941; AUC .997
.817, .863, .904, .929; one object token of 48, AUC .92 .849, .893, .921, .930, AUC .997 .427, .682,
.744, .801. So near 1, and where objects are tiny, 95 % is not reached with few images.
`fitted`: two probes of equal worth, fitted on the same images and compared on others; what is
compared is conditional on the fit, and this is what that costs. `claim`: the study's own claim on
features that know nothing of the referent, 200 times.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
import torch

from ground_probe import study
from ground_probe.probes import held_out_scores, per_image
from ground_probe.stats import bootstrap, compare

IMAGES = (10, 20, 40, 100)
KINDS = {  # shift of the object's scores, their share of 48 tokens, spread of the shift over images
    "AUC .75": (1.0, 0.3, 0.5),
    "AUC .98": (3.0, 0.3, 0.5),
    "AUC .997": (4.0, 0.3, 0.5),
    "one object token of 48, AUC .92": (2.0, 1 / 48, 0.0),
    "one object token of 48, AUC .997": (4.0, 1 / 48, 0.0),
}


def intervals(replicates: int) -> None:
    rng = np.random.default_rng(0)
    for kind, (shift, share, spread) in KINDS.items():
        positives = max(1, round(48 * share))
        labels = np.tile(np.arange(48) < positives, 20_000)
        groups = np.repeat(np.arange(20_000), 48)
        own = shift + spread * rng.normal(size=20_000)
        scores = rng.normal(size=len(labels)) + labels * own[groups]
        population = per_image(scores, labels, groups)
        truth, held = population.mean(), []
        for n in IMAGES:
            drawn = population[rng.integers(0, len(population), (n, replicates))]
            _, low, high = bootstrap(drawn, resamples=1000)
            held.append(np.mean((low <= truth) & (truth <= high)))
        line = ", ".join(f"{n} images {share:.3f}" for n, share in zip(IMAGES, held, strict=True))
        print(f"{kind}: {line}", flush=True)


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


def fitted(replicates: int) -> None:
    for fit, test in ((40, 300), (120, 300), (120, 1000)):
        rng, p, held = np.random.default_rng(1), [], []
        for _ in range(replicates):
            direction = np.eye(32)[0]
            groups, labels, features = cells(rng, fit + test, direction, direction)
            values = []
            for feature in features:
                beyond = np.arange(fit, fit + test)
                scores = held_out_scores(feature, labels, groups, test_groups=beyond)
                known = ~np.isnan(scores)
                values.append(per_image(scores[known], labels[known], groups[known]))
            difference = compare(*values)
            p.append(difference.p)
            held.append(difference.low <= 0 <= difference.high)
        wrong = np.mean(np.less_equal(p, 0.05))
        print(
            f"{fit} images to fit on, {test} to compare on: p <= .05 in {wrong:.3f}, "
            f"intervals hold 0 in {np.mean(held):.3f}",
            flush=True,
        )


def claim(replicates: int, images: int = 40) -> None:
    rng, shown, later = np.random.default_rng(2), [], []
    controls = study.RIVALS["grounding"]
    for _ in range(replicates):
        scores = pd.concat(
            _scores(rng, images, control, step)
            for control in ("none", *controls)
            for step in (0, 5)
        )
        verdict = study.claim(scores, study.summarise(scores))
        shown.append(verdict.shown)
        later.append(verdict.later.p.iloc[0] <= 0.05)
    print(
        f"{replicates} studies of features that know nothing, {images} images to fit on and to "
        f"report: shown in {np.mean(shown):.3f}, a later step differs (p <= .05) in "
        f"{np.mean(later):.3f}",
        flush=True,
    )


def _scores(rng: np.random.Generator, images: int, control: str, step: int) -> pd.DataFrame:
    groups, labels, (features,) = cells(rng, 2 * images, np.zeros(16))
    beyond = np.arange(images, 2 * images)
    scores = held_out_scores(features, labels, groups, test_groups=beyond, inside=True)
    given = control in ("rgb", "vae_latent", "position")
    return pd.DataFrame(
        {
            "labels": "grounding",
            "control": control,
            "split": np.where(np.arange(2 * images) < images, "val", "test"),
            "seed": 0,
            "block": "input" if given else "block",
            "stream": "reference",
            "step": pd.NA if given else step,
            "sigma": np.nan if given else 1.0 - step / 28,
            "probe": "linear",
            "image_id": np.arange(2 * images).astype(str),
            "n_expressions": 1,
            "value": per_image(scores, labels, groups),
        }
    )[: None if step == 0 or not given else 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("intervals", "fitted", "claim"))
    parser.add_argument("--replicates", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = {"intervals": intervals, "fitted": fitted, "claim": claim}[arguments.what]
    run(arguments.replicates or {"intervals": 2000, "fitted": 300, "claim": 200}[arguments.what])


if __name__ == "__main__":
    main()
