"""Train the embedded editor on edits of generated scenes.

    python -m tools.train_tiny --device cuda --minutes 12 --out runs/tiny

An interrupted run goes on with `--resume`.
"""

from __future__ import annotations

import argparse
import sys

from ground_probe.errors import GroundProbeError
from tools.train_tiny.train import train


def main() -> int:
    """Train; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=12.0, help="of training, default: 12")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--out", default="runs/tiny", metavar="DIR", help="default: runs/tiny")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    help_ = "weights of this shape to go on from; with another --seed, for other scenes"
    parser.add_argument("--start", metavar="DIR", help=help_)
    arguments = parser.parse_args()
    try:
        print(f"Results: {train(**vars(arguments))}")
    except GroundProbeError as error:
        print(f"train_tiny: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train_tiny: interrupted; repeat the command with --resume to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
