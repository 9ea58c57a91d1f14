"""Say what an evaluation would cost: FLOPs, hours, memory; nothing is downloaded."""

from __future__ import annotations

import argparse

from ground_probe.cli import loading
from ground_probe.cli.options import Answer, positive

EXAMPLE = "--model FLUX.1-Kontext-dev --dataset refcoco_unc --split val --gpu A100"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="as of `models`, a hub id or a folder"
    )
    parser.add_argument("--dataset", default="refcoco_unc", help="default: refcoco_unc")
    parser.add_argument("--split", default="val", help="default: val")
    parser.add_argument(
        "--config", metavar="DIR", help="configurations to use where the model's are not here"
    )
    parser.add_argument("--gpu", default="H200", help="H200, H100, A100, L40S or RTX4090")
    parser.add_argument(
        "--utilisation",
        type=float,
        default=0.4,
        metavar="SHARE",
        help="of the GPU's peak that is assumed, default: 0.4",
    )
    parser.add_argument(
        "--calibrate", type=positive, metavar="N", help="also what `calibrate` on N examples costs"
    )
    loading.add_weights(parser)
    loading.add_smaller(parser)


def run(arguments: argparse.Namespace) -> Answer:
    """Plan."""
    from ground_probe.study.plan import plan
    from ground_probe.study.plan.plan import sweep_cost

    planned = plan(
        arguments.model,
        arguments.dataset,
        arguments.split,
        config=arguments.config,
        device=arguments.gpu,
        utilisation=arguments.utilisation,
        dtype=arguments.dtype,
        offload=arguments.offload,
        quantize=arguments.quantize,
        drop=arguments.drop,
        encode_ahead=arguments.encode_ahead,
    )
    if arguments.calibrate is None:
        return Answer(str(planned), planned.data())
    cost = sweep_cost(planned, arguments.calibrate)
    return Answer(
        f"{planned}\n\nCalibration on {arguments.calibrate} examples: {cost['hours']:.1f} hours of "
        f"the GPU for forward passes, and {cost['states_gib']:.1f} GiB of memory for the states of "
        "one",
        planned.data() | {"calibration": cost},
    )
