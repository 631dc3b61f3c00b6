"""Diffusion of latents beside diffusion of pixels: the same images, transformer and batch; training steps in turn.

    python benchmarks/latent_speed.py [--rounds 3] [--output benchmarks/RESULTS.md]

OpenMoji at 64x64. Latents are those of an autoencoder with factor 4 (16x16x4), which is not trained (that takes no part
in a step), and whose outputs are cached, as `kgen run` does. The transformer cuts either into squares of 2x2: 64 tokens
or 1,024. A round is a few steps of one and then of the other; what is given is the median of all steps, but for the
first two of a round. Needs kgen-plugin-diffusion, -codecs, -text and -openmoji.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH, STEPS = 16, 8


def prepare(decoder: Any, cache: Path) -> tuple[Any, Any]:
    """A compiled pipeline, and batches for it, read as `kgen run` reads them."""
    from kgen_plugin_diffusion.networks import DiT

    import kgen
    from kgen.config import FitConfig
    from kgen.data.frozen.latents import cached_latents
    from kgen.data.loader import Loader
    from kgen.parts.construction import make_dataset
    from kgen.training.fit import compile_model

    dataset = make_dataset({"name": "openmoji", "size": 64, "match": ("^(red|blue|green) ",)})
    pipeline = kgen.assemble(
        encoder={"name": "text/bag", "dim": 128},
        generator={"name": "diffusion/diffusion", "network": DiT(patch=2, width=128, depth=4, heads=4)},
        decoder=decoder,
        dataset=dataset,
    )
    compile_model(pipeline, FitConfig(steps=1000))
    latents = None if pipeline.decoder.lossless else cached_latents(pipeline.decoder, dataset, "train", cache)
    loader = Loader(dataset, pipeline.encoder, batch_size=BATCH, latents=latents)
    return pipeline, loader.training()


def steps(pipeline: Any, batches: Any) -> list[float]:
    """Seconds of each step but the first two."""
    import keras

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.times: list[float] = []

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            float(logs["loss"])  # waits for the device
            self.times.append(time.perf_counter() - self.start)

    from kgen.training.distribution.opening import open_distribution

    clock = Clock()
    feed = open_distribution("none").feed(batches)
    pipeline.fit(feed, steps_per_epoch=STEPS, epochs=1, verbose=0, shuffle=False, callbacks=[clock])
    return clock.times[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="append the table to this file")
    args = parser.parse_args()
    from kgen.backend.selection import load_backend

    load_backend()  # quietly
    decoders = {
        "pixels": "identity",
        "latents": {"name": "codecs/kl-autoencoder", "network": {"width": 32, "multipliers": [1, 2], "patch": 2}},
    }
    with tempfile.TemporaryDirectory() as cache:
        prepared = {name: prepare(decoder, Path(cache)) for name, decoder in decoders.items()}
        times: dict[str, list[float]] = {name: [] for name in decoders}
        for _ in range(args.rounds):
            for name, (pipeline, batches) in prepared.items():
                times[name] += steps(pipeline, batches)
    seconds = {name: statistics.median(found) for name, found in times.items()}
    lines = ["| diffusion of | milliseconds a step | times faster |", "|---|---|---|"]
    lines += [f"| {name} | {1000 * value:.0f} | {seconds['pixels'] / value:.1f} |" for name, value in seconds.items()]
    text = "\n".join(lines)
    print(text)
    if args.output:
        with args.output.open("a") as file:
            file.write(f"\n{text}\n")


if __name__ == "__main__":
    main()
