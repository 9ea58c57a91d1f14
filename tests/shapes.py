"""The library's main paths with every annotation checked at run time, shapes included."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do for a float


def main(out: Path) -> None:
    import ground_probe as gp
    from ground_probe import testing
    from ground_probe.study import Spec, collect
    from ground_probe.study.score import score, score_inputs
    from ground_probe.study.table import summarize

    split = gp.load_split("scenes", "test", limit=3)
    image, words, phrase = split[0].image, "make the red circle blue", "the red circle"
    editor = gp.load_editor(testing.kontext())
    gp.trace(editor, image, words, phrase, steps=(0, 1), num_steps=2, attention_output=True,
             propagate=1, mass=True, reduce=gp.keep_tokens(16))  # fmt: skip
    gp.trace(editor, image, words, phrase, prediction=True)
    lda = gp.Recipe(classifier="lda", edges=1.0)
    soft = gp.Recipe(classifier="none", cut="half", seeds="soft")
    for recipe in (None, lda, soft):
        gp.images.overlay(image, gp.segment(editor, image, phrase, recipe=recipe).mask)
    methods = ("full", "ceiling", "ceiling_with_edges", "whole_image")
    gp.evaluate(editor, split, out / "evaluation", methods=methods)
    for name in ("InstructPix2Pix", "Flux2Klein", "QwenImageEdit"):
        other = gp.load_editor(testing.BUILDERS[name]())
        gp.trace(other, image, words, phrase, pipeline_kwargs=testing.ARGUMENTS.get(name))

    rng, groups = np.random.default_rng(0), np.repeat(np.arange(64), 6)
    features, labels = rng.normal(size=(384, 4)), rng.random(384) > 0.5
    for probe in (gp.linear_probe_auc, gp.fisher_ratio):
        probe(features, labels, groups)
    spec = Spec(steps=(0,), num_steps=2, tokens=24, heads=True, visible=True)
    val = gp.load_split("scenes", "val", limit=20)
    samples = collect(editor, val, spec, out / "samples", workers=1)
    summarize(score(samples))
    score_inputs(samples)


if __name__ == "__main__":
    install_import_hook("ground_probe", "shapes.checked")
    main(Path(sys.argv[1]))
