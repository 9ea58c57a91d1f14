"""What a capture costs: time and peak memory beside the bare forward, as ratios with their spread.

    python benchmarks/capture.py                  # blocks of Kontext's width on the CPU, 2,080 keys
    python benchmarks/capture.py --device cuda    # all of Kontext, 8,704 keys: seconds and GiB

Random weights, one denoising step, timed from the denoiser's call on: on the CPU in seconds of the
processor, which a busy machine disturbs less than those of the clock. The ways take turns; a ratio
is to the bare forward of the same turn.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.overrides import TorchFunctionMode

sys.path.insert(0, str(Path(__file__).parents[1]))

import ground_probe as gp
from ground_probe import testing
from ground_probe.capture.kernel import Attention
from ground_probe.capture.sites import blocks_of

INSTRUCTION = "make the small red circle left of the big dog blue"
PHRASE = "the small red circle left of the big"  # eight tokens of the word-level tokenizer
WAYS = (
    "bare", "hidden", "attention", "propagated", "reference", "both", "full maps", "middle block",
)  # fmt: skip
MEASURED_PEAKS = ("bare", "both", "propagated", "full maps")
RESET_PEAK = Path("/proc/self/clear_refs")


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
    """Kontext with random blocks of its real width: all 57, or one of each kind on the CPU."""
    cuda = device == "cuda"
    double, single, side_px = (19, 38, 1024) if cuda else (1, 1, 448)
    torch.set_default_dtype(torch.bfloat16 if cuda else torch.float32)
    with torch.device(device):
        pipeline = testing.kontext(
            levels=4,
            sample_size=side_px,
            num_layers=double,
            num_single_layers=single,
            num_attention_heads=24,
            attention_head_dim=128,
            axes_dims_rope=(16, 56, 56),
        )
    torch.set_default_dtype(torch.float32)
    pipeline.tokenizer_2.model_max_length = 512
    return gp.load_editor(pipeline)


def way_of(editor, way: str):
    """The context manager that captures in a way."""
    blocks = list(blocks_of(editor.denoiser))
    phrase = {"attention_to": (INSTRUCTION, PHRASE)}
    reduce = {"reduce": gp.keep_tokens(256)}
    wanted = {
        "hidden": reduce,
        "attention": {"streams": (), **phrase},
        "propagated": {"streams": (), "propagate": 1, **phrase},
        "reference": {"streams": ("reference",), "propagate": 1, **reduce, **phrase},
        "both": reduce | phrase,
        "middle block": {"blocks": blocks[len(blocks) // 2 - 1], **reduce},
    }
    if way in wanted:
        return gp.capture(editor.pipeline, **wanted[way])
    return FullMaps() if way == "full maps" else nullcontext()


def run(editor, way: str) -> float:
    """Seconds from the denoiser's call to the end of its step."""
    arguments = editor.arguments(Image.new("RGB", (1024, 1024)), INSTRUCTION)
    cuda = editor.device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    at = []

    def start(*_):
        forget_peak(cuda)
        at.append(clock())

    handle = editor.denoiser.register_forward_pre_hook(start)
    try:
        with way_of(editor, way) as captured:
            editor.pipeline(**arguments, num_inference_steps=1, output_type="latent")
        if cuda:
            torch.cuda.synchronize()
        seconds = clock() - at[0]
    finally:
        handle.remove()
    if way in ("attention", "both", "propagated"):
        assert len(captured.phrase_keys) == 8 and captured.attention
        assert bool(captured.propagated) == (way == "propagated")
    return seconds


def forget_peak(cuda: bool) -> None:
    """Building the model takes more memory than running it."""
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    elif RESET_PEAK.exists():
        RESET_PEAK.write_text("5")


def peak_gib(editor, way: str) -> float:
    """The peak of a forward on an accelerator; of the resident memory of the process on Linux."""
    run(editor, way)
    if editor.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="beside bare")
    parser.add_argument("--peak", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_grad_enabled(False)
    editor = build(given.device)
    if given.peak:
        print(json.dumps(peak_gib(editor, given.peak)))
        return
    ways = tuple(way for way in WAYS if way == "bare" or way in given.ways)
    seconds = {way: [] for way in ways}
    for way in ways:
        run(editor, way)
    for turn in range(given.turns):
        first = turn % len(ways)
        for way in ways[first:] + ways[:first]:
            seconds[way].append(run(editor, way))
    bare = np.array(seconds["bare"])
    print(
        f"{given.device}, {given.threads} threads, {given.turns} turns, torch {torch.__version__}"
    )
    print(f"{'':14}{'seconds':>9}   ratio to bare: median [quartiles]", flush=True)
    for way in ways:
        low, median, high = np.percentile(np.array(seconds[way]) / bare, [25, 50, 75])
        spread = f"{median:.3f} [{low:.3f}, {high:.3f}]"
        print(f"{way:14}{np.median(seconds[way]):9.3f}   {spread}", flush=True)
    print(f"{'':14}{'peak GiB':>9}   ratio to bare")
    peaks = {}
    for way in (way for way in MEASURED_PEAKS if way in ways):
        if given.device == "cuda":
            peaks[way] = peak_gib(editor, way)
        else:
            # A process for each: the peak of one would hide that of the next.
            command = [sys.executable, __file__, "--peak", way, "--threads", str(given.threads)]
            peaks[way] = json.loads(subprocess.check_output(command).splitlines()[-1])
        print(f"{way:14}{peaks[way]:9.3f}   {peaks[way] / peaks['bare']:.4f}", flush=True)


if __name__ == "__main__":
    main()
