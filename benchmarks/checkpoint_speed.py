"""The steps of a training around its checkpoints, which are written while it goes on, and for comparison before it.

    KERAS_BACKEND=torch python benchmarks/checkpoint_speed.py [--width 512] [--depth 5] [--output benchmarks/RESULTS.md]

A DiT of 100 MB of weights in float32 (with the moments of AdamW and the EMA, a checkpoint has 400 MB) is trained on
random images, with a checkpoint every `--every` steps. "At the boundary" is the time that the training stands still for
a checkpoint; "the step after it" is a whole step, in which the file is being written. The numbers are medians over the
checkpoints, and the ratio is that to the median of the steps during which nothing is written. The variant "waits"
writes each file before the next step. The exit status is 1 if the ratio is above 1.2. Needs kgen-plugin-diffusion and
-text.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import keras
import numpy as np

import kgen
from kgen.config import FitConfig
from kgen.contracts.dataset import Split
from kgen.data.loader import Loader
from kgen.storage.background import BackgroundWriter
from kgen.training.callbacks import SaveCheckpoint
from kgen.training.distribution.base import Distribution
from kgen.training.fit import compile_model, train

WARM_UP, LIMIT = 3, 1.2
"""Steps that are not measured, and the largest ratio of the step after a checkpoint to a usual one."""


class Noise(kgen.Dataset):
    """Random images."""

    image_space = kgen.Space("continuous", (32, 32, 3))

    def captions(self, split: Split) -> list[str]:
        return ["a red star", "a blue circle"] * 32 if split == "train" else []

    def image(self, split: Split, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (32, 32, 3)).astype(np.uint8)


class Clock:
    """Measures each step of a training, its checkpoints, and whether a file is being written."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, bool]] = []
        self.pauses: dict[int, float] = {}
        self.last = 0.0

    def around(self, end: Callable[..., None]) -> Callable[..., None]:
        """The callback that saves checkpoints, with this clock."""

        def on_train_batch_end(saver: SaveCheckpoint, batch: int, logs: Any = None) -> None:
            float(logs["loss"])  # type: ignore[index]  # waits for the device
            begin = time.perf_counter()
            writing = any(not future.done() for future in saver.checkpoints.writer._pending)
            self.steps.append((begin - self.last, writing))
            end(saver, batch, logs)
            self.last = time.perf_counter()
            if (batch + 1) % saver.every == 0:
                self.pauses[batch + 1] = self.last - begin

        return on_train_batch_end


def measure(args: argparse.Namespace, waits: bool) -> list[float]:
    """The seconds of a usual step, at the boundary, and of the step after a checkpoint; and the steps of a write."""
    from kgen_plugin_diffusion.networks import DiT

    keras.utils.set_random_seed(0)
    dataset, clock = Noise(), Clock()
    pipeline = kgen.assemble(
        encoder={"name": "text/bag", "dim": 64},
        generator={
            "name": "diffusion/diffusion",
            "network": DiT(patch=args.patch, width=args.width, depth=args.depth, heads=args.width // 64),
        },
        dataset=dataset,
    )
    steps = args.every * args.checkpoints + args.every - 1
    fit = FitConfig(steps=steps, batch_size=args.batch, checkpoint_every=args.every, keep=1, workers=0, log_every=10**6)
    compile_model(pipeline, fit)
    size = sum(int(np.prod(v.shape)) for v in pipeline.trainable_variables) * 4 / 1e6
    print(f"{size:.0f} MB of weights, {'waits' if waits else 'goes on'}", flush=True)
    end, submit = SaveCheckpoint.on_train_batch_end, BackgroundWriter.submit

    def submit_and_wait(writer: BackgroundWriter, write: Callable[[], None]) -> None:
        submit(writer, write)
        writer.wait()

    SaveCheckpoint.on_train_batch_end = clock.around(end)  # type: ignore[method-assign]
    if waits:
        BackgroundWriter.submit = submit_and_wait  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            data = Loader(dataset, pipeline.encoder, batch_size=args.batch)
            options = {"validation": None, "distribution": Distribution(), "seed": 0}
            train(pipeline, fit, Path(folder), data=data, **options)
    finally:
        SaveCheckpoint.on_train_batch_end = end  # type: ignore[method-assign]
        BackgroundWriter.submit = submit  # type: ignore[method-assign]
    return summary(clock, args.every, steps)


def summary(clock: Clock, every: int, steps: int) -> list[float]:
    saved = [step for step in clock.pauses if step < steps - 1]
    usual = [
        seconds
        for step, (seconds, writing) in enumerate(clock.steps, start=1)
        if step > WARM_UP and not writing and step - 1 not in clock.pauses
    ]
    writing = [sum(flag for _, flag in clock.steps[step : step + every]) for step in saved]
    pause, after = median(clock.pauses[step] for step in saved), median(clock.steps[step][0] for step in saved)
    return [median(usual), pause, after, after / median(usual), median(writing)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--patch", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--checkpoints", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the checkpoints are written; default: the temporary folder")
    parser.add_argument("--output", type=Path, help="append the table to this file")
    args = parser.parse_args()
    lines = [
        f"| {keras.backend.backend()} | usual step, s | at the boundary, s | the step after it, s | ratio | "
        "steps in which it is written |",
        "|---|---|---|---|---|---|",
    ]
    ratio = 0.0
    for name, waits in (("goes on", False), ("waits", True)):
        usual, pause, after, found, writing = measure(args, waits)
        lines.append(f"| {name} | {usual:.3f} | {pause:.3f} | {after:.3f} | {found:.2f} | {writing:.0f} |")
        ratio = ratio or found
    print(*lines, sep="\n")
    if args.output:
        with args.output.open("a", encoding="utf-8") as file:
            print("", *lines, sep="\n", file=file)
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
