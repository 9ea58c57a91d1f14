"""Attention to the phrase over a whole image, to look at."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ground_probe.capture import trace
from ground_probe.datasets.example import RefExample
from ground_probe.editors import Editor, fill
from ground_probe.study.spec import Spec


def attention_map(
    editor: Editor, example: RefExample, spec: Spec, block: str, step: int = 0
) -> Float[np.ndarray, "height width"]:
    """How much each place attends to the expression, from 0 to 1 between its least and its most.

    Args:
        editor: from `load_editor`.
        example: what to look at.
        spec: of the study.
        block: whose attention; the mean of its heads.
        step: denoising step, from 0.
    """
    traced = trace(
        editor,
        example.image,
        *fill(spec.template, example.expression),
        blocks=[block],
        steps=(step,),
        streams=(),
        attention="mean",
        num_steps=spec.num_steps,
        seed=spec.noise_seed(example.key),
    )
    stream = "reference" if "reference" in traced.layout.grids else "noise"
    mass = traced.attention[block, step][0, traced.image_tokens(stream)].sum(-1)
    geometry = traced.grid(stream, block)
    found = geometry.to_pixels(mass.reshape(geometry.grid).numpy())
    return (found - found.min()) / max(float(np.ptp(found)), 1e-12)
