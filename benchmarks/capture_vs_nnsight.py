"""The same hidden states from the same tiny Kontext: ground_probe beside nnsight.

    pip install --no-deps nnsight greenlet zstandard    # nnsight is no dependency of this project
    python benchmarks/capture_vs_nnsight.py

The noise tokens of every block in the first denoising step, from the call of the pipeline on. The
ways take turns, and their hidden states are compared.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path[:0] = [str(Path(__file__).parents[1] / part) for part in ("tests", ".")]

import tiny_pipelines  # noqa: E402

import ground_probe as gp  # noqa: E402
from ground_probe.capture.sites import blocks_of  # noqa: E402

INSTRUCTION = "make the red circle blue"


def by_ground_probe(editor, arguments):
    with gp.capture(editor.pipeline) as captured:
        editor.pipeline(**arguments(), num_inference_steps=4)
    return [captured.hidden[block, 0, "noise"] for block in captured.blocks]


def by_nnsight(editor, arguments, tokens):
    """nnsight wraps a module, so the denoiser's first call is recorded and repeated under it."""
    from nnsight import NNsight

    given = {}

    class Enough(Exception):
        pass

    def remember(module, args, kwargs):
        given.update(kwargs)
        raise Enough

    handle = editor.denoiser.register_forward_pre_hook(remember, with_kwargs=True)
    try:
        editor.pipeline(**arguments(), num_inference_steps=4)
    except Enough:
        pass
    finally:
        handle.remove()
    model = NNsight(editor.denoiser)
    saved = []
    with torch.no_grad(), model.trace(**given):
        for block in (*model.transformer_blocks, *model.single_transformer_blocks):
            saved.append(block.output[1].save())
    return [states[0, :tokens] for states in saved]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--turns", type=int, default=9)
    turns = parser.parse_args().turns
    import nnsight

    torch.set_num_threads(1)
    editor = gp.load_editor(tiny_pipelines.kontext())
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    ours_seconds, theirs_seconds = [], []
    for _ in range(turns + 1):
        start = time.perf_counter()
        ours = by_ground_probe(editor, lambda: editor.arguments(image, INSTRUCTION))
        middle = time.perf_counter()
        theirs = by_nnsight(editor, lambda: editor.arguments(image, INSTRUCTION), 64)
        ours_seconds.append(middle - start)
        theirs_seconds.append(time.perf_counter() - middle)
    assert len(ours) == len(theirs) == len(blocks_of(editor.denoiser))
    equal = all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    ratio = np.percentile(np.array(theirs_seconds[1:]) / ours_seconds[1:], [25, 50, 75])
    print(f"nnsight {nnsight.__version__}, torch {torch.__version__}, {turns} turns, 1 thread")
    print(f"ground_probe {np.median(ours_seconds[1:]) * 1e3:.1f} ms a capture")
    print(f"nnsight      {np.median(theirs_seconds[1:]) * 1e3:.1f} ms a capture")
    print(f"nnsight / ground_probe: {ratio[1]:.2f} [{ratio[0]:.2f}, {ratio[2]:.2f}]")
    print(f"the same hidden states: {equal}")


if __name__ == "__main__":
    main()
