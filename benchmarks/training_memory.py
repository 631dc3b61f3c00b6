"""The peak memory of a training step of a deep DiT: plain, with gradient accumulation, with remat, and with both.

    KERAS_BACKEND=torch python benchmarks/training_memory.py [--depth 24] [--width 192] [--output benchmarks/RESULTS.md]

Each variant is trained in a process of its own, on random images of 32x32 pixels (256 tokens). "Activations" is the
peak of three steps minus the memory before the first one, in which the weights, the optimizer's moments and the EMA are
allocated already; it contains gradients, and what the backend compiles. Without an accelerator, memory is that of the
process; with one, the backend's own count. Needs kgen-plugin-diffusion and -text.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gradient_accumulation: 4": {"gradient_accumulation": 4},
    "remat: true": {"remat": True},
    "both": {"gradient_accumulation": 4, "remat": True},
}


def memory(peak: bool) -> float:
    """The memory of the accelerator, if there is one, or else of this process, in MiB; now, or its peak."""
    import psutil

    from kgen.backend.memory import accelerator_memory, peak_memory

    if (found := accelerator_memory(peak)) is not None:
        return found
    return float(peak_memory() if peak else psutil.Process().memory_info().rss / 2**20)


def measure(variant: str, args: argparse.Namespace) -> None:
    """Trains three steps, and prints the weights in millions, the two memories in MiB, and the seconds of a step."""
    import keras
    import numpy as np
    from kgen_plugin_diffusion.networks import DiT

    import kgen
    from kgen.backend.stream import stream
    from kgen.config import FitConfig
    from kgen.training.fit import compile_model

    captions = ["a red star", "a blue circle"]
    network = DiT(patch=2, width=args.width, depth=args.depth, heads=args.width // 32)
    pipeline = kgen.assemble(
        encoder={"name": "text/bag", "dim": 64},
        generator={"name": "diffusion/diffusion", "network": network},
        captions=captions,
        image_space=kgen.Space("continuous", (32, 32, 3)),
    )
    compile_model(pipeline, FitConfig(steps=100, batch_size=args.batch, **VARIANTS[variant]))
    images = np.random.default_rng(0).integers(0, 256, (args.batch, 32, 32, 3)).astype(np.uint8)
    batch = pipeline.inputs(images, captions * (args.batch // 2))
    times: list[float] = []

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, step: int, logs: Any = None) -> None:
            float(logs["loss"])  # waits for the device
            times.append(time.perf_counter())

    before = memory(peak=False)
    pipeline.fit(stream([batch] * 3), epochs=1, verbose=0, shuffle=False, callbacks=[Clock()])
    weights = sum(int(np.prod(v.shape)) for v in pipeline.trainable_variables)
    print(weights / 1e6, before, memory(peak=True) - before, min(b - a for a, b in itertools.pairwise(times)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=24)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--output", type=Path, help="append the table to this file")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        measure(args.variant, args)
        return
    lines = [
        f"| {os.environ.get('KERAS_BACKEND', 'tensorflow')} | weights, millions | before, MiB | activations, MiB | "
        "of plain | seconds per step |",
        "|---|---|---|---|---|---|",
    ]
    plain = None
    for variant in VARIANTS:
        command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        weights, before, activations, seconds = map(float, output.split()[-4:])
        plain = plain or activations
        numbers = f"{weights:.1f} | {before:.0f} | {activations:.0f} | {activations / plain:.2f} | {seconds:.2f}"
        lines.append(f"| {variant} | {numbers} |")
        print(lines[-1], flush=True)
    if args.output:
        with args.output.open("a", encoding="utf-8") as file:
            print("", *lines, sep="\n", file=file)
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
