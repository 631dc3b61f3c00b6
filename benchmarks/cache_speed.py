"""The cache of latents: the time to the first step, and the speed and cost of the first and of later passes.

    KERAS_BACKEND=torch python benchmarks/cache_speed.py [--images 5000] [--output benchmarks/RESULTS.md]

A diffusion transformer trains on the latents of JPEG files of 64x64 pixels. The autoencoder has a KL penalty and a
factor of 4. It is not trained, because this does not change its speed. The same training runs four times, each time in
a process of its own, with the loader and the distribution of `kgen run`:

- empty: the cache is empty, and is filled while the model trains. The first pass encodes the images.
- full: the cache holds all latents.
- filled first: the cache is empty, and is filled before the first step, as a run with several devices does.
- none: there is no cache. The decoder encodes the images in every step.

The time to the first step begins when the libraries are imported and the parts exist. It ends after the first step, and
contains its compilation. The speed of a pass is in images per second of the wall clock, so that nothing else should run
on the machine. Its cost is the CPU time of all threads, which depends less on other processes; PyTorch uses one thread
per operation. Needs kgen-plugin-diffusion, -codecs and -text.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BATCH, SIZE, PASSES = 25, 64, 2
WAYS = ("filled first", "empty", "full", "none")


def write_images(folder: Path, count: int) -> None:
    """Writes smooth random images, and their captions."""
    random = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
        small.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=90)
        (folder / f"{number:05}.txt").write_text(f"image {number % 100}", encoding="utf-8")


def measure(way: str, folder: Path, cache: Path) -> dict[str, float]:
    """Trains, and returns the seconds to the first step, and for each pass the images per second, and ms of CPU."""
    import keras
    from kgen_plugin_diffusion.networks import DiT

    import kgen
    from kgen.config import FitConfig
    from kgen.data.frozen.filling import Filling
    from kgen.data.frozen.latents import cached_latents
    from kgen.data.loader import Loader
    from kgen.parts.construction import make_dataset
    from kgen.training.distribution.opening import open_distribution
    from kgen.training.fit import compile_model

    keras.utils.set_random_seed(0)
    dataset = make_dataset({"name": "imagefolder", "path": str(folder), "size": SIZE})
    pipeline = kgen.assemble(
        encoder={"name": "text/bag", "dim": 32},
        generator={"name": "diffusion/diffusion", "network": DiT(patch=2, width=64, depth=2, heads=2)},
        decoder={"name": "codecs/kl-autoencoder", "network": {"width": 32, "multipliers": [1, 2], "patch": 2}},
        dataset=dataset,
    )
    compile_model(pipeline, FitConfig(steps=1000))
    ended: list[float] = []
    spent: list[float] = []

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            float(logs["loss"])  # waits for the device
            ended.append(time.perf_counter())
            spent.append(time.process_time())

    steps = len(dataset.captions("train")) // BATCH
    began = time.perf_counter()
    filling = Filling(lambda line: print(line, file=sys.stderr), training=way != "filled first")
    latents = None if way == "none" else cached_latents(pipeline.decoder, dataset, "train", cache, filling=filling)
    loader = Loader(dataset, pipeline.encoder, batch_size=BATCH, latents=latents)
    feed = open_distribution("none").feed(loader.training())
    pipeline.fit(feed, steps_per_epoch=PASSES * steps, epochs=1, verbose=0, shuffle=False, callbacks=[Clock()])
    found = {"first step": ended[0] - began}
    for number in range(PASSES):  # the first step of all compiles the program
        first, last = max(1, number * steps), (number + 1) * steps - 1
        images = BATCH * (last - first)
        found[f"speed {number + 1}"] = images / (ended[last] - ended[first])
        found[f"cost {number + 1}"] = 1000 * (spent[last] - spent[first]) / images
    return found


def worker(way: str, folder: Path, cache: Path) -> dict[str, float]:
    """Calls `measure` in a new process."""
    command = [sys.executable, __file__, "--way", way, "--folder", folder, "--cache", cache]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # several would spend CPU time on waiting for each other
    done = subprocess.run(list(map(str, command)), env=one_thread, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000, help="number of images")
    parser.add_argument("--output", type=Path, help="append the table to this file")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        from kgen.backend.selection import load_backend

        load_backend()  # quietly
        print(json.dumps(measure(args.way, args.folder, args.cache)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        (images := Path(temporary) / "images").mkdir()
        write_images(images, args.images)
        caches = {"filled first": "first", "empty": "later", "full": "later", "none": "none"}
        measured = {way: worker(way, images, Path(temporary) / cache) for way, cache in caches.items()}
    speed, cost = measured["none"]["speed 2"], measured["none"]["cost 2"]
    lines = [
        f"| cache ({args.images:,} images) | seconds to the first step | images per second: pass 1 | pass 2 "
        "| ms of CPU per image: pass 1 | pass 2 |",
        "|---|---|---|---|---|---|",
        *(
            f"| {way} | {found['first step']:.1f} | {found['speed 1']:.1f} ({found['speed 1'] / speed:.2f}) "
            f"| {found['speed 2']:.1f} ({found['speed 2'] / speed:.2f}) "
            f"| {found['cost 1']:.1f} ({found['cost 1'] / cost:.2f}) | {found['cost 2']:.1f} "
            f"({found['cost 2'] / cost:.2f}) |"
            for way, found in measured.items()
        ),
        "",
        "In parentheses: the multiple of the second pass without a cache.",
    ]
    print(text := "\n".join(lines))
    if args.output:
        with args.output.open("a") as file:
            file.write(f"\n{text}\n")


if __name__ == "__main__":
    main()
