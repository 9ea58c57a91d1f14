"""What a capture costs: time and peak memory beside the bare forward, as ratios with their spread.

    python benchmarks/capture.py                  # a small Kontext on the CPU, 2,560 keys, 8 x 128
    python benchmarks/capture.py --device cuda    # Kontext's own size, 8,704 keys: seconds and GiB

Random weights, one denoising step, timed from the denoiser's call on: on the CPU in seconds of the
processor, which a busy machine disturbs less than those of the clock. The ways take turns; a ratio
is to the bare forward of the same turn.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.overrides import TorchFunctionMode

sys.path[:0] = [str(Path(__file__).parents[1] / part) for part in ("tests", ".")]

import tiny_pipelines  # noqa: E402

import ground_probe as gp  # noqa: E402
from ground_probe.capture.attention import Attention  # noqa: E402
from ground_probe.capture.sites import blocks_of  # noqa: E402

INSTRUCTION = "make the small red circle left of the big dog blue"
PHRASE = "the small red circle left of the big"  # eight tokens of the word-level tokenizer
WAYS = ("bare", "hidden", "attention", "both", "full maps", "middle block")


class FullMaps(TorchFunctionMode):
    """What capturing costs where S x S maps are made of every attention."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            call = Attention(*args, **kwargs)
            query, key = call.query, call.key
            if query.shape[2] > 600:  # not the text encoders'
                (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        return output


def build(device: str):
    cuda = device == "cuda"
    size = (
        {"num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24}
        if cuda
        else {"num_layers": 2, "num_single_layers": 2, "num_attention_heads": 8}
    )
    pipeline = tiny_pipelines.kontext(
        levels=4,
        sample_size=1024 if cuda else 512,
        attention_head_dim=128,
        axes_dims_rope=(16, 56, 56),
        **size,
    )
    pipeline.tokenizer_2.model_max_length = 512
    return gp.load_editor(pipeline.to(device, torch.bfloat16 if cuda else torch.float32))


def way_of(editor, way: str):
    """The context manager that captures in a way."""
    blocks = list(blocks_of(editor.denoiser))
    phrase = {"attention": True, "instruction": INSTRUCTION, "phrase": PHRASE}
    wanted = {
        "hidden": {"keep": gp.keep_tokens(256)},
        "attention": {"streams": (), **phrase},
        "both": {"keep": gp.keep_tokens(256), **phrase},
        "middle block": {
            "sites": blocks[len(blocks) // 2 - 1],
            "keep": gp.keep_tokens(256),
        },
    }
    if way in wanted:
        return gp.capture(editor.pipeline, **wanted[way])
    return FullMaps() if way == "full maps" else nullcontext()


def run(editor, way: str) -> float:
    """Seconds from the denoiser's call to the end of its step."""
    image = Image.new("RGB", (1024, 1024))
    arguments = editor.arguments(image, INSTRUCTION)
    at = []
    clock = time.perf_counter if editor.device.type == "cuda" else time.process_time

    def start(*_):
        if editor.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        at.append(clock())

    handle = editor.denoiser.register_forward_pre_hook(start)
    try:
        with way_of(editor, way) as captured:
            editor.pipeline(**arguments, num_inference_steps=1, output_type="latent")
        if editor.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = clock() - at[0]
    finally:
        handle.remove()
    if way in ("attention", "both"):
        assert captured.keys.phrase.numel() == 8 and captured.attention
    return seconds


def peak_gib(editor, device: str, way: str) -> float:
    run(editor, way)
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_grad_enabled(False)
    editor = build(given.device)
    if given.peak:
        print(json.dumps(peak_gib(editor, given.device, given.peak)))
        return
    seconds = {way: [] for way in WAYS}
    for way in WAYS:
        run(editor, way)
    for _ in range(given.turns):
        for way in WAYS:
            seconds[way].append(run(editor, way))
    bare = np.array(seconds["bare"])
    print(
        f"{given.device}, {given.threads} threads, {given.turns} turns, torch {torch.__version__}"
    )
    print(f"{'':14}{'seconds':>9}   ratio to bare: median [quartiles]", flush=True)
    for way in WAYS:
        low, median, high = np.percentile(np.array(seconds[way]) / bare, [25, 50, 75])
        spread = f"{median:.3f} [{low:.3f}, {high:.3f}]"
        print(f"{way:14}{np.median(seconds[way]):9.3f}   {spread}", flush=True)
    print(f"{'':14}{'peak GiB':>9}   ratio to bare")
    peaks = {}
    for way in WAYS:
        # A process for each: the peak of one would hide that of the next.
        command = [sys.executable, __file__, "--device", given.device, "--peak", way]
        peaks[way] = json.loads(subprocess.check_output(command).splitlines()[-1])
        print(f"{way:14}{peaks[way]:9.2f}   {peaks[way] / peaks['bare']:.3f}", flush=True)


if __name__ == "__main__":
    main()
