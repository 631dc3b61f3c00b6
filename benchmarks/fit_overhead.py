"""The training of `kgen run` beside Keras's own `fit` of the same network: the cost of all that kgen adds.

    python benchmarks/fit_overhead.py [--networks unet dit-4] [--blocks 12] [--output benchmarks/RESULTS.md]

The networks are those of `diffusers_speed.py`. Keras's side is a `keras.Model` that adds noise to arrays of images and
returns the mean squared error, with Keras's AdamW, which clips gradients and keeps an EMA. kgen's side is a whole
training with its defaults: the loader, all callbacks, the log with its loss by noise level, gradient norm and speed,
and a check of the loss. Checkpoints, validation and samples are left out, because Keras's side has none.

Each side has a process of its own. They take turns, with `--steps` steps in each turn. The numbers are medians over the
turns in milliseconds per step, after the first turn, which compiles. The exit status is 1 if kgen takes more than 3%
longer. Needs kgen-plugin-diffusion.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from diffusers_speed import NETWORKS, SIZE, TEXT_WIDTH, TOKENS, Settings, kgen_network, kgen_pipeline, processor

LIMIT = 1.03
"""The largest ratio of the two times."""


def network_of(arguments: argparse.Namespace, name: str) -> Any:
    return kgen_network(Settings(name, arguments.batch, "float32", 0, False, 0, 0, 0))


def take_turns(conn: Connection, steps: int) -> None:
    """Makes each `fit` wait for leave before `steps` steps, and report the seconds that these took with callbacks."""
    import keras

    end = keras.callbacks.CallbackList.on_train_batch_end
    done, start = 0, 0.0

    def on_train_batch_end(callbacks: Any, batch: int, logs: Any = None) -> None:
        nonlocal done, start
        end(callbacks, batch, logs)
        done += 1
        if done % steps == 0:
            float(logs["loss"])  # type: ignore[index]  # waits for the device
            conn.send(time.perf_counter() - start)
            conn.recv()
            start = time.perf_counter()

    keras.callbacks.CallbackList.on_train_batch_end = on_train_batch_end
    conn.recv()
    start = time.perf_counter()


def work_keras(conn: Connection, arguments: argparse.Namespace, name: str) -> None:
    from kgen.backend.selection import load_backend

    load_backend()  # quietly
    import keras
    from keras import ops

    from kgen import ConditionSpace, Space
    from kgen.backend.devices import compile_training

    class Denoiser(keras.Model):  # type: ignore[misc]
        """Predicts the noise in images, and returns its error."""

        def __init__(self, network: Any) -> None:
            super().__init__()
            self.network, self.seed = network, keras.random.SeedGenerator(0)

        def call(self, batch: dict[str, Any], training: bool = False) -> Any:
            images = ops.cast(batch["image"], "float32") / 127.5 - 1
            noise = keras.random.normal(ops.shape(images), seed=self.seed)
            t = keras.random.uniform((ops.shape(images)[0],), seed=self.seed)
            alpha = ops.square(ops.cos(t * np.pi / 2))[:, None, None, None]
            noisy = ops.sqrt(alpha) * images + ops.sqrt(1 - alpha) * noise
            sequence = batch["sequence"]
            text = {"sequence": sequence, "mask": ops.ones_like(sequence[..., 0]), "pooled": ops.mean(sequence, 1)}
            return ops.square(self.network(noisy, 1000 * t, text, training=training) - noise)

        def compute_loss(self, x: Any, y: Any, y_pred: Any, *args: Any, **kwargs: Any) -> Any:
            return ops.mean(y_pred)

    options = network_of(arguments, name)
    space, texts = Space("continuous", (SIZE, SIZE, 3)), ConditionSpace(TOKENS, TEXT_WIDTH)
    model = Denoiser(options.build(space, texts, out_channels=3))
    optimizer = keras.optimizers.AdamW(1e-3, global_clipnorm=1.0, use_ema=True, ema_momentum=0.999)
    model.compile(optimizer, jit_compile=compile_training())
    count = arguments.batch * 64
    rng = np.random.default_rng(0)
    data = {
        "image": rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8),
        "sequence": rng.standard_normal((count, TOKENS, TEXT_WIDTH), np.float32),
    }
    take_turns(conn, arguments.steps)
    steps = arguments.steps * (arguments.blocks + 1)
    model.fit(data, batch_size=arguments.batch, epochs=-(-steps // 64), verbose=0)


def work_kgen(conn: Connection, arguments: argparse.Namespace, name: str) -> None:
    from kgen.backend.selection import load_backend

    load_backend()  # quietly
    import kgen
    from kgen.config import FitConfig
    from kgen.contracts.dataset import Split
    from kgen.data.loader import Loader
    from kgen.training.distribution.base import Distribution
    from kgen.training.fit import compile_model, train

    class Noise(kgen.Dataset):
        """Random images in memory."""

        image_space = kgen.Space("continuous", (SIZE, SIZE, 3))
        images = np.random.default_rng(0).integers(0, 256, (arguments.batch * 64, SIZE, SIZE, 3), np.uint8)

        def captions(self, split: Split) -> list[str]:
            return [f"image {i}" for i in range(len(self.images))] if split == "train" else []

        def image(self, split: Split, index: int) -> np.ndarray:
            return self.images[index]  # type: ignore[no-any-return]

    pipeline = kgen_pipeline(network_of(arguments, name))
    steps = arguments.steps * (arguments.blocks + 1)
    fit = FitConfig(steps=steps + 1, batch_size=arguments.batch, checkpoint_every=10**6, workers=0)
    compile_model(pipeline, fit)
    data = Loader(Noise(), pipeline.encoder, batch_size=arguments.batch)
    take_turns(conn, arguments.steps)
    with tempfile.TemporaryDirectory() as folder:
        options = {"validation": None, "distribution": Distribution(), "seed": 0}
        train(pipeline, fit, Path(folder), data=data, **options)


def measure(arguments: argparse.Namespace, name: str) -> tuple[float, float]:
    """Milliseconds per step of Keras and of kgen."""
    context = multiprocessing.get_context("spawn")
    connections, processes = [], []
    for work in (work_keras, work_kgen):
        here, there = context.Pipe()
        processes.append(context.Process(target=work, args=(there, arguments, name), daemon=True))
        processes[-1].start()
        connections.append(here)
    times: list[list[float]] = [[], []]
    for _ in range(arguments.blocks + 1):
        for conn, seconds in zip(connections, times, strict=True):
            conn.send("go")
            seconds.append(conn.recv())
    for process in processes:
        process.kill()  # a training would end with a checkpoint
        process.join()
    bare, ours = (1000 * median(seconds[1:]) / arguments.steps for seconds in times)
    return bare, ours


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["unet", "dit-4"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10, help="steps per turn")
    parser.add_argument("--blocks", type=int, default=12, help="turns of each side that are measured")
    parser.add_argument("--output", type=Path, help="append the table to this file")
    arguments = parser.parse_args()
    table = ["| network | Keras, ms per step | kgen, ms per step | ratio |", "|---|---|---|---|"]
    print(f"Batches of {arguments.batch} images of {SIZE}x{SIZE}x3 on {processor()}.\n", *table, sep="\n", flush=True)
    ratios = []
    for name in arguments.networks:
        bare, ours = measure(arguments, name)
        ratios.append(ours / bare)
        table.append(f"| {name} | {bare:.1f} | {ours:.1f} | {ours / bare:.3f} |")
        print(table[-1], flush=True)
    if arguments.output:
        with arguments.output.open("a") as file:
            file.write("\n" + "\n".join(table) + "\n")
    return int(max(ratios) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
