"""How an editor's weights are held, and what is said before they are downloaded."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ground_probe.errors import InputError

if TYPE_CHECKING:
    from ground_probe.study.plan import Plan

DTYPES = ("bfloat16", "float16", "float32")
OFFLOADS = ("model", "sequential")
QUANTIZERS = ("bnb4", "bnb8", "torchao8")
_SMALL_BYTES = 400_000_000


def add_weights(parser: argparse._ActionsContainer) -> None:
    """`--dtype`, `--offload` and `--quantize`: how the weights are held."""
    parser.add_argument("--dtype", choices=DTYPES, help="default: bfloat16, on a CPU float32")
    parser.add_argument("--offload", choices=OFFLOADS, help="keep weights on the CPU between uses")
    parser.add_argument(
        "--quantize", choices=QUANTIZERS, help="by bitsandbytes (bnb) or torchao, when loaded"
    )


def add_smaller(parser: argparse._ActionsContainer) -> None:
    """`--drop` and `--encode-ahead`: what an evaluation can do without."""
    parser.add_argument("--drop", action="store_true", help="drop blocks that are never reached")
    parser.add_argument(
        "--encode-ahead", action="store_true", help="free the text encoders after all prompts"
    )


def loading(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options as `load_editor` takes them."""
    names = ("device", "dtype", "offload", "quantize", "download")
    return {name: getattr(arguments, name) for name in names}


def check_weights(arguments: argparse.Namespace, **more: Any) -> None:
    """Before anything is read: can the device be used, are the weights here, may they be fetched?

    Before a download the plan is printed, and checked against the device. `more` is for `plan`: the
    data set and what makes the model smaller.
    """
    from ground_probe.editors.hub import absent, fetch

    if is_small(arguments):
        _one_thread()
    name = absent(arguments.model, arguments.download)
    if name is None:
        return
    fetch(name, ["*.json"])
    from ground_probe.study.plan import plan

    weights = {key: getattr(arguments, key) for key in ("dtype", "offload", "quantize")}
    planned = plan(name, **weights, **more)
    print(planned, file=sys.stderr)
    _check_room(planned, arguments.device)
    fetch(name)


def is_small(arguments: argparse.Namespace) -> bool:
    """Whether one thread is faster than several, which wait for one another; by the files' size."""
    from ground_probe.editors.weights import usable_device

    device, folder = usable_device(arguments.device), Path(arguments.model).expanduser()
    sizes = (path.stat().st_size for path in folder.rglob("*.safetensors"))
    small = arguments.model == "tiny" or (folder.is_dir() and sum(sizes) < _SMALL_BYTES)
    return small and device.type == "cpu"


def _one_thread() -> None:
    """Here and in the processes that are started from here, unless the user said otherwise."""
    import torch

    threads = os.environ.setdefault("OMP_NUM_THREADS", "1")
    if threads.isdecimal():
        torch.set_num_threads(max(1, int(threads)))


def _check_room(planned: Plan, device: str | None) -> None:
    import psutil
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        room, where = psutil.virtual_memory().available, "of memory are free"
    else:
        room, where = torch.cuda.mem_get_info(device)[0], "of the device are free"
    peak = planned.memory.peak
    if peak > 0.9 * room / 2**30:
        raise InputError(
            f"{planned.model} needs {peak:.1f} GiB at once and {room / 2**30:.1f} GiB {where}: "
            f"{planned.advice()}"
        )
