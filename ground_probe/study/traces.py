"""The study's table for traces that somebody already has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import save_file

from ground_probe.capture import Trace, keep_half
from ground_probe.capture.sites import Captured
from ground_probe.datasets.example import Mask
from ground_probe.errors import InputError
from ground_probe.probes import hard_labels
from ground_probe.study.reduced import packed
from ground_probe.study.samples import Samples
from ground_probe.study.score import score, score_control_labels, score_inputs
from ground_probe.study.table import summarise
from ground_probe.study.tokens import Tokens


def probe_table(
    traces: Sequence[Trace],
    masks: Sequence[Mask],
    *,
    distractors: Sequence[Sequence[Mask]] | None = None,
    image_ids: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Every probe on every cell of some traces, in folds over their images.

    ```python
    traces = [gp.trace(editor, e.image, f"remove {e.expression}", e.expression) for e in examples]
    gp.probe_table(traces, [e.mask for e in examples])
    ```

    Args:
        traces: one an example, of the same blocks and steps, with attention; without `reduce`.
        masks: the referent of each, at its image's size.
        distractors: the other objects of each; without them there is no grounding.
        image_ids: of each; by default every trace is of an image of its own.

    Returns:
        the rows of `emergence.csv`, with position and control labels as controls; all of split
        "val", since nothing is held out to report on.

    Raises:
        InputError: not one mask a trace, or fewer than five images.
    """
    others = distractors or [()] * len(traces)
    images = image_ids or [str(i) for i in range(len(traces))]
    if not len(traces) == len(masks) == len(others) == len(images):
        raise InputError(
            f"{len(traces)} traces, {len(masks)} masks, {len(others)} lists of distractors and "
            f"{len(images)} image ids: give one of each an example"
        )
    with TemporaryDirectory() as folder:
        files = []
        for i, (traced, mask, around) in enumerate(zip(traces, masks, others, strict=True)):
            tokens = _tokens(traced, mask, around)
            arrays, about = packed(_at(traced, tokens), tokens, str(i), images[i])
            files.append(Path(folder) / f"{i}.safetensors")
            arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            save_file(arrays, files[-1], metadata={"about": json.dumps(about)})
        samples = Samples.open(files, split="val", control="none")
        found = [score(samples), score_inputs(samples), score_control_labels(samples)]
        return summarise(pd.concat(found, ignore_index=True))


def _tokens(traced: Trace, mask: Mask, around: Sequence[Mask]) -> Tokens:
    """All tokens that are decided, unsampled."""
    geometry = traced.grid("noise")
    target, decided = (each.ravel() for each in hard_labels(geometry.soft_labels(mask)))
    other = [hard_labels(geometry.soft_labels(each))[0].ravel() for each in around]
    distractor = np.any([np.zeros_like(target), *other], axis=0) & ~target
    place = np.flatnonzero(decided)
    return Tokens(place, target[place], distractor[place], ~target[place], geometry.grid)


def _at(traced: Trace, tokens: Tokens) -> Trace:
    kept = Captured()
    for site, states in traced.hidden.items():
        kept[site] = keep_half(states[torch.from_numpy(tokens.on(len(states)))])
    return replace(traced, hidden=kept)
