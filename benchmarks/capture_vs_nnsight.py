"""The same captures from the same tiny Kontext: ground_probe beside nnsight.

    pip install --no-deps nnsight greenlet zstandard    # nnsight is no dependency of this project
    python benchmarks/capture_vs_nnsight.py

Each capture is tried by both on freshly loaded weights, and what comes back is held against plain
forward hooks and a full softmax in float64. nnsight is told by hand what it has no name for: which
rows are noise, which keys the phrase has, where the attention processor has its queries and keys.
Then both are timed, in turns.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import sys
import tempfile
import time
import warnings
import weakref
from functools import partial
from pathlib import Path

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.overrides import TorchFunctionMode

sys.path.insert(0, str(Path(__file__).parents[1]))

import ground_probe as gp
from ground_probe import testing

INSTRUCTION, PHRASE = "make the red circle blue", "red circle"
STEPS, TEXT, NOISE, KEYS = 4, 24, 64, (2, 3)
LARGE_PX = 256
NAME = re.compile(r"^(single_)?transformer_blocks\.\d+$")
GUIDED = {"negative_prompt": "cat", "true_cfg_scale": 2.0}


def arguments(pipeline):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    given = gp.load_editor(pipeline).arguments(image, INSTRUCTION)
    return given | {"num_inference_steps": STEPS, "output_type": "latent"}


def blocks_of(denoiser):
    return (*denoiser.transformer_blocks, *denoiser.single_transformer_blocks)


def attention(query, key):
    """The full softmax of (batch, heads, tokens, dim): image rows, the phrase's keys."""
    logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return logits.softmax(-1)[0, :, TEXT:][..., list(KEYS)].float()


class Plain(TorchFunctionMode):
    """The truth, in the order in which blocks run: states of the noise, attention to the phrase."""

    def __init__(self, pipeline, **more) -> None:
        super().__init__()
        self.states, self.maps = [], []
        blocks = blocks_of(pipeline.transformer)
        handles = [block.register_forward_hook(self.remember) for block in blocks]
        with self:
            pipeline(**arguments(pipeline) | more)
        for handle in handles:
            handle.remove()

    def remember(self, block, args, output) -> None:
        self.states.append(output[1][0, :NOISE])

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key = kwargs.get("query", args[:1]), kwargs.get("key", args[1:2])
            query, key = (x if torch.is_tensor(x) else x[0] for x in (query, key))
            if query.shape[2] == TEXT + 2 * NOISE:
                self.maps.append(attention(query.double(), key.double()))
        return func(*args, **kwargs)


class GroundProbe:
    """gp.capture around the pipeline's own call."""

    def __init__(self, folder: str) -> None:
        self.pipeline = gp.load_editor(folder, device="cpu").pipeline
        self.pipeline.set_progress_bar_config(disable=True)

    def states(self, steps=(0,), order=1, **more):
        names = [name for name, _ in self.pipeline.transformer.named_modules() if NAME.search(name)]
        with gp.capture(self.pipeline, names[::order], steps=steps) as captured:
            self.pipeline(**arguments(self.pipeline) | more)
        return [captured.hidden[name, s, "noise"] for s in steps for name in names[::order]]

    def maps(self):
        words = INSTRUCTION, PHRASE
        with gp.capture(self.pipeline, streams=(), attention_to=words) as captured:
            self.pipeline(**arguments(self.pipeline))
        return list(captured.attention.values())


class NNsight:
    """nnsight's class for diffusers pipelines, stopped once all is there."""

    def __init__(self, folder: str) -> None:
        from nnsight.modeling.diffusion import DiffusionModel

        self.model = DiffusionModel(folder, dispatch=True)
        self.pipeline = self.model.pipeline
        self.pipeline.set_progress_bar_config(disable=True)

    def states(self, steps=(0,), order=1, **more):
        model, saved = self.model, []
        given = arguments(self.pipeline) | more
        with model.generate(**given) as tracer:
            for _ in tracer.iter[list(steps)]:
                for block in blocks_of(model.transformer)[::order]:
                    saved.append(block.output[1].save())
            tracer.stop()
        return [states[0, :NOISE] for states in saved]

    def maps(self):
        model, saved = self.model, []
        given = arguments(self.pipeline)
        with model.generate(**given) as tracer:
            for block in blocks_of(model.transformer):
                inside = block.attn.source.self_processor_0.source
                saved.append(inside.dispatch_attention_fn_0.inputs.save())
            tracer.stop()
        return [attention(*(x.transpose(1, 2) for x in args[:2])) for args, _ in saved]


def fuse(pipeline):
    pipeline.transformer.fuse_qkv_projections()


def compile_blocks(pipeline):
    pipeline.transformer.compile_repeated_blocks(backend="eager")


def freed(tool):
    tool.states()
    denoiser = weakref.ref(tool.pipeline.transformer)
    vars(tool).clear()
    gc.collect()
    if denoiser() is not None:
        raise RuntimeError("something holds the denoiser")
    return []


# What is asked for: the capture, the truth in the calls of the denoiser, and what is done before.
TRIALS = {
    "states of every block, step 0": (lambda tool: tool.states(), lambda seen: seen.states[:4]),
    "states of every block, steps 0 and 2": (
        lambda tool: tool.states((0, 2)),
        lambda seen: seen.states[:4] + seen.states[8:12],
    ),
    "conditional states of step 1 of a guided run": (
        lambda tool: tool.states((1,), **GUIDED),
        lambda seen: seen.states[8:12],
        {"more": GUIDED},
    ),
    "attention to the phrase, every block": (
        lambda tool: tool.maps(),
        lambda seen: seen.maps[:4],
    ),
    "attention, projections fused": (
        lambda tool: tool.maps(),
        lambda seen: seen.maps[:4],
        {"before": fuse},
    ),
    "states, blocks compiled": (
        lambda tool: tool.states(),
        lambda seen: seen.states[:4],
        {"before": compile_blocks},
    ),
    "attention, blocks compiled": (
        lambda tool: tool.maps(),
        lambda seen: seen.maps[:4],
        {"before": compile_blocks},
    ),
    "states, the last block asked for first": (
        lambda tool: tool.states(order=-1),
        lambda seen: seen.states[3::-1],
    ),
    "states of a step that does not run": (lambda tool: tool.states((STEPS,)), lambda seen: None),
    "the model can be freed afterwards": (freed, lambda seen: []),
}


def verdict(tool, trial, folder, before=None, more=None):
    """Whether a capture is the truth; for one that cannot be, whether that is said."""
    capture, truth = trial
    tool = tool(folder)
    expected = truth(Plain(tool.pipeline, **(more or {})))
    if before:
        before(tool.pipeline)
        tool.pipeline(**arguments(tool.pipeline))
    try:
        found = capture(tool)
    except Exception as error:
        words = " ".join(str(error).split())[:90]
        return "refused" if expected is None else f"no: {type(error).__name__}: {words}"
    if expected is None:
        return f"no: {len(found)} states and no error"
    if len(found) != len(expected):
        return f"no: {len(found)} of {len(expected)}"
    off = [(a - b).abs().max().item() for a, b in zip(found, expected, strict=True)]
    return "yes" if max(off, default=0) < 1e-5 else f"no: other values, off by {max(off):.1e}"


def compare_times(folder: str, turns: int) -> None:
    """Print the processor's time of both, for pipelines of one size of images."""
    ours, theirs = GroundProbe(folder), NNsight(folder)
    tokens = (ours.pipeline.vae.config.sample_size // 8) ** 2
    print(f"{TEXT + 2 * tokens} keys:")
    for name in ("states", "maps"):
        seconds = []
        for _ in range(turns + 1):
            at = [time.process_time()]
            for tool in (ours, theirs):
                getattr(tool, name)()
                at.append(time.process_time())
            seconds.append(np.diff(at))
        ours_s, theirs_s = np.array(seconds[1:]).T
        low, middle, high = np.percentile(theirs_s / ours_s, [25, 50, 75])
        print(
            f"    {name}: ground_probe {np.median(ours_s) * 1e3:.1f} ms, nnsight "
            f"{np.median(theirs_s) * 1e3:.1f} ms, ratio {middle:.2f} [{low:.2f}, {high:.2f}]"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--turns", type=int, default=9)
    turns = parser.parse_args().turns
    import nnsight

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    print(f"nnsight {nnsight.__version__}, torch {torch.__version__}, {turns} turns, 1 thread")
    with tempfile.TemporaryDirectory() as folder:
        testing.kontext().save_pretrained(folder)
        for name, (capture, truth, *options) in TRIALS.items():
            tried = partial(verdict, trial=(capture, truth), folder=folder, **dict(*options))
            print(f"{name}\n    ground_probe  {tried(GroundProbe)}", flush=True)
            print(f"    nnsight       {tried(NNsight)}", flush=True)
        compare_times(folder, turns)
    with tempfile.TemporaryDirectory() as folder:
        testing.kontext(sample_size=LARGE_PX).save_pretrained(folder)
        compare_times(folder, turns)


if __name__ == "__main__":
    main()
