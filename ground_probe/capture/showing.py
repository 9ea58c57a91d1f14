"""A trace as a reader is shown it: what it holds in a few lines, and its attention as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

from ground_probe.capture.layout import carrier_of

if TYPE_CHECKING:
    from ground_probe.capture.traces import Trace

_KINDS = ("hidden", "attention_output", "attention", "attention_from_text", "propagated",
          "affinity", "key_mass")  # fmt: skip
_MOST = 12  # blocks, and heads, in a picture
_SIDE_PX = 72
_GAP_PX = 4


def in_words(trace: Trace) -> str:
    """A line for each kind of tensor: how many sites, and the shapes of the first."""
    blocks = ", ".join(dict.fromkeys((*trace.blocks[:1], *trace.blocks[-1:])))
    lines = [f"Trace of {len(trace.blocks)} blocks ({blocks}), steps {_listed(trace.steps)}"]
    if trace.phrase_tokens:
        lines.append(f"  phrase: {' '.join(trace.phrase_tokens)}")
    for kind in _KINDS:
        if sites := getattr(trace, kind):
            shapes = dict.fromkeys(tuple(tensor.shape) for tensor in sites.values())
            shown = " or ".join(map(str, list(shapes)[:2])) + ", ..." * (len(shapes) > 2)
            lines.append(f"  {kind}: {shown} at {len(sites)} sites like {next(iter(sites))}")
    if trace.prediction:
        lines.append(f"  prediction: of steps {_listed(list(trace.prediction))}")
    return "\n".join(lines)


def picture(trace: Trace) -> Image.Image | None:
    """Attention to the phrase at the first step; None where no attention was kept.

    A column a block, evenly spaced where there are many, a row a head, each on its own scale.
    """
    from matplotlib import colormaps

    sites = {site[0]: maps for site, maps in trace.attention.items() if site[1] == trace.steps[0]}
    if not sites:
        return None
    blocks = list(sites)[:: -(-len(sites) // _MOST)]
    heads = min(_MOST, max(len(sites[block]) for block in blocks))
    step_px = _SIDE_PX + _GAP_PX
    sheet = Image.new("RGB", (step_px * len(blocks) - _GAP_PX, step_px * heads - _GAP_PX), "white")
    stream = carrier_of(trace.layout.grids)
    for column, block in enumerate(blocks):
        maps = sites[block][:heads, trace.image_tokens(stream)].float().sum(-1)
        there = trace.layout.grids[stream][0] if trace.layout.joint else None
        rows, cols = there or trace.layout.grid_of(maps.shape[1])
        for row, values in enumerate(maps.view(-1, rows, cols)):
            low, high = values.aminmax()
            share = (values - low) / (high - low).clamp_min(1e-30)
            colors = colormaps["viridis"](torch.nan_to_num(share).numpy(), bytes=True)
            small = Image.fromarray(colors)
            large = small.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.NEAREST)
            sheet.paste(large, (column * step_px, row * step_px))
    return sheet


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps)) if len(steps) <= 8 else f"{steps[0]} to {steps[-1]}"
