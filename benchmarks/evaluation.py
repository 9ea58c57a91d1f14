"""What an evaluation costs beside the forward pass, what workers gain, and how memory grows.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py             # all four
    OMP_NUM_THREADS=1 python benchmarks/evaluation.py overhead --limit 48

One thread a process, and the embedded editor unless another is named; numbers are median, least and
most of rounds.

overhead: milliseconds of processor time a sentence, so that neighbors do not count. `forward` is
the pipeline's call, what is captured in it included; `segmenter` the rest of `segment`, from
attention and features to the mask;
`evaluation` the rest of `evaluate`, from drawing the scene to writing its row; `once` what a run
spends before its first sentence and after its last. `beside_forward` is the share of all but the
forward (target: at most 0.08), `beside_segmenter` that of `evaluation` and `once` alone.
large: the same with FLUX.1 Kontext's recipe and geometry, untrained: images of 1024 px, 4096 noise,
4096 reference and 512 text tokens, but half its width (1536) and 6 blocks, of which 4 run, for its
57, of which 34 run. `segmenter` grows with tokens, pixels and the channels compared, that is width
x feature blocks (1 here, 2 there); `forward` with width x (width + a sixth of the tokens) x blocks
that run (4 here, 34 there), and encoders of the real size only add to it. So the real editor spends
a smaller share beside the forward, as long as both run on the same processor. `once` weighs on two
sentences here, in `beside_forward` and `beside_segmenter` as well.
workers: an evaluation by one process and by two of `Processes`, in turns, in seconds of processor
time: `all` of it, and the `longest` way through, the driver's and half of the workers', which is
the wall time on two cores that nobody else uses. `begin` of it is spent on imports and weights.
`gain` is one process's time over the longest way of two, `gain_running` (target: at least 1.8) the
same after `begin`.
memory: MiB resident, and at most so far, after each tenth of 5,000 sentences (target: flat). The
recipe looks at the first blocks only, which takes half the time.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from functools import wraps
from statistics import median

import psutil
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel

import ground_probe as gp
from ground_probe.datasets.scenes import ScenesSplit
from ground_probe.segmentation import recipe_for
from tools.train_tiny.build import POOLED_WIDTH, WIDTH, build_pipeline, build_tokenizer

ROUNDS = 5
SIDE_PX = 1024


class Clock:
    """Processor time inside functions, and when the first call began and the last one ended."""

    def __init__(self) -> None:
        self.inside: Counter[str] = Counter()
        self.first, self.last = 0.0, 0.0

    def timed(self, name, function):
        @wraps(function)
        def call(*positional, **named):
            begun = time.process_time()
            self.first = self.first or begun
            try:
                return function(*positional, **named)
            finally:
                self.last = time.process_time()
                self.inside[name] += self.last - begun

        return call


def spread(values):
    return [median(values), min(values), max(values)]


def overhead(limit: int) -> dict[str, list[float]]:
    editor, split = (
        gp.load_editor("tiny", device="cpu"),
        gp.load_split("scenes", "test", limit=limit),
    )
    return _rounds(editor, split, ROUNDS)


def large(limit: int) -> dict[str, list[float]]:
    drawn = gp.load_split("scenes", "test", limit=limit)
    editor = gp.load_editor(_kontext())
    split = Enlarged(drawn.dataset, drawn.split, drawn.seed, drawn.indices)
    return _rounds(editor, split, 3)


class Enlarged(ScenesSplit):
    """Scenes at FLUX.1 Kontext's own size."""

    def __getitem__(self, position):
        drawn = super().__getitem__(position)
        mask = drawn.mask.repeat(SIDE_PX // drawn.image.height, 0)
        mask = mask.repeat(SIDE_PX // drawn.image.width, 1)
        image = drawn.image.resize((SIDE_PX, SIDE_PX))
        return replace(drawn, image=image, mask=mask, distractors=(), others=())


def _kontext():
    """FLUX.1 Kontext's grids and lengths; the encoders are the embedded editor's, untrained."""
    torch.manual_seed(0)
    pipeline, tokenizer = build_pipeline(), build_tokenizer()
    tokenizer.model_max_length = 512
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4,
        norm_num_groups=4,
        latent_channels=16,
        sample_size=SIDE_PX,
        shift_factor=0.0,
        scaling_factor=1.0,
    )
    transformer = FluxTransformer2DModel(
        num_layers=2,
        num_single_layers=4,
        num_attention_heads=12,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=True,
    )
    parts = {"vae": vae.eval(), "transformer": transformer.eval(), "tokenizer_2": tokenizer}
    return type(pipeline)(**pipeline.components | parts)


def _rounds(editor, split, count: int) -> dict[str, list[float]]:
    gp.segment(editor, split[0].image, split[0].expression)  # the first call is slower
    rounds = [_round(editor, split) for _ in range(count)]
    return {name: spread([each[name] for each in rounds]) for name in rounds[0]}


def _round(editor, split) -> dict[str, float]:
    clock, kind = Clock(), type(editor.pipeline)
    timed = {"__call__": clock.timed("forward", kind.__call__)}
    editor.pipeline.__class__ = type(kind.__name__, (kind,), timed)
    with tempfile.TemporaryDirectory() as out:
        segment = clock.timed("segment", gp.segment)
        start = time.process_time()
        counts = gp.evaluate(editor, split, out, segment=segment).counts
        end = time.process_time()
    editor.pipeline.__class__ = kind
    assert counts.ok == len(split)
    spent, once = end - start, (clock.first - start) + (end - clock.last)
    inside = clock.inside
    parts = {
        "forward": inside["forward"],
        "segmenter": inside["segment"] - inside["forward"],
        "evaluation": spent - once - inside["segment"],
        "once": once,
    }
    return {
        **{f"{name}_ms": 1000 * seconds / len(split) for name, seconds in parts.items()},
        "beside_forward": 1 - inside["forward"] / spent,
        "beside_segmenter": 1 - inside["segment"] / spent,
    }


_WORK = """
import resource, sys, tempfile
import torch
import ground_probe as gp
from ground_probe.evaluation import InProcess, Processes
limit, count = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
editor = gp.load_editor("tiny", device="cpu")
split = gp.load_split("scenes", "test", limit=limit)
gp.segment(editor, split[0].image, split[0].expression)
def spent(whose):
    return sum(resource.getrusage(whose)[:2])
before = spent(resource.RUSAGE_SELF)
with tempfile.TemporaryDirectory() as out:
    gp.evaluate(editor, split, out, engine=Processes(count) if count > 1 else InProcess)
print(before, spent(resource.RUSAGE_SELF) - before, spent(resource.RUSAGE_CHILDREN))
"""


def workers(limit: int) -> dict[str, list[float]]:
    rounds = []
    for _ in range(3):
        (begin, one, _), (again, driver, children) = (
            map(float, subprocess.check_output(
                [sys.executable, "-c", _WORK, str(limit), str(count)], text=True,
                stderr=subprocess.DEVNULL,
            ).split())
            for count in (1, 2)
        )  # fmt: skip
        longest = driver + children / 2
        rounds.append({
            "begin": begin,
            "all_1": begin + one,
            "all_2": again + driver + children,
            "longest_2": again + longest,
            "gain": (begin + one) / (again + longest),
            "gain_running": one / longest,
        })  # fmt: skip
    return {name: spread([each[name] for each in rounds]) for name in rounds[0]}


def memory(limit: int) -> dict[str, list[int]]:
    editor, split = (
        gp.load_editor("tiny", device="cpu"),
        gp.load_split("scenes", "train", limit=limit),
    )
    early = {"prior_depth": (0.0, 0.3), "feature_depth": (0.0, 0.3), "heads": ()}
    process, seen = psutil.Process(), []

    @wraps(gp.segment)
    def measured(*positional, **named):
        found = gp.segment(*positional, **named)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # KiB on Linux
        seen.append((round(process.memory_info().rss / 2**20), round(most)))
        return found

    with tempfile.TemporaryDirectory() as out:
        gp.evaluate(editor, split, out, replace(recipe_for(editor), **early), segment=measured)
    tenths = [round(len(seen) * n / 10) for n in range(1, 11)]
    resident, most = zip(*(seen[n - 1] for n in tenths), strict=True)
    return {"sentences": tenths, "resident_mib": list(resident), "most_mib": list(most)}


SENTENCES = {overhead: 200, large: 2, workers: 200, memory: 5000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    runs = {run.__name__: run for run in SENTENCES}
    parser.add_argument("what", nargs="?", choices=runs, help="default: all")
    parser.add_argument("--limit", type=int, help="sentences")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in [arguments.what] if arguments.what else runs:
        sentences = arguments.limit or SENTENCES[runs[name]]
        print(f"{name}, {sentences} sentences", flush=True)
        for what, values in runs[name](sentences).items():
            print(f"    {what:24}{'  '.join(f'{each:9.5g}' for each in values)}", flush=True)


if __name__ == "__main__":
    main()
