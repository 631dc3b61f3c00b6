"""The time of a training step of tiny networks, with one and with several steps in a call of the training function.

    KERAS_BACKEND=jax python benchmarks/execution_speed.py [--networks dit] [--output benchmarks/RESULTS.md]

Each row is a run with all callbacks, on images of 16x16 pixels, eight at a time. Times are medians over the rows of
`metrics.csv` after the first one, in which the step is compiled. The table also says how many values in the last
checkpoint differ from those of the first count; the exit status is 1 if any does.
Needs kgen-plugin-diffusion and -text.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors.numpy import load_file

from kgen.config import RunConfig
from kgen.runs.run import run
from kgen.training.journal import read_rows

NETWORKS: dict[str, dict[str, Any]] = {
    "dit": {"kind": "dit", "patch": 4, "width": 16, "depth": 1, "heads": 1},
    "unet": {"kind": "unet", "width": 8, "multipliers": [1, 2], "blocks": 1, "attention": [1], "head_dim": 8},
}
BATCH = 8


def measure(network: str, count: int, steps: int, folder: Path) -> tuple[float, dict[str, np.ndarray]]:
    """Trains a network, `count` steps per call: the seconds per step, and the last checkpoint."""
    every = math.lcm(count, steps // 10)
    intervals = dict.fromkeys(("log_every", "checkpoint_every", "validate_every"), every)
    config = RunConfig.from_dict(
        {
            "data": {"name": "shapes", "size": 16, "count": 256},
            "encoder": {"name": "text/bag", "dim": 8},
            "generator": {"name": "diffusion/diffusion", "network": NETWORKS[network]},
            "fit": {"steps": every * 10, "batch_size": BATCH, "steps_per_execution": count, **intervals},
            "sample": {"every": 0, "options": {"steps": 1}},
            "loggers": [],
        }
    )
    run(config, folder, log=lambda line: None)
    rows = [row for row in read_rows(folder / "metrics.csv") if row["loss"]]
    seconds = statistics.median(BATCH / float(row["images_per_second"]) for row in rows[1:])
    return seconds, load_file(max((folder / "checkpoints").glob("step-*")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 8], help="steps per call")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--output", type=Path, help="append the table to this file")
    args = parser.parse_args()
    lines = [f"| {keras.backend.backend()} | steps per call | ms per step | values that differ |", "|---|---|---|---|"]
    differing = 0
    for network in args.networks:
        first: dict[str, np.ndarray] = {}
        for count in args.counts:
            with tempfile.TemporaryDirectory() as folder:
                seconds, state = measure(network, count, args.steps, Path(folder) / "run")
            first = first or state
            different = sum(int((state[name] != value).sum()) for name, value in first.items())
            differing += different
            lines.append(f"| {network} | {count} | {seconds * 1000:.2f} | {different} |")
            print(lines[-1], flush=True)
    if args.output:
        with args.output.open("a", encoding="utf-8") as file:
            print("", *lines, sep="\n", file=file)
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
