"""Trains 10 steps on one device, or on several: for test_distribution.py, in its process or in one of its own.

Usage: python replicas_job.py DEVICES NOISE FOLDER JOB...

Writes FOLDER/JOB.npz for each job: a mode ("none", "data_parallel" or "multi_worker"), and an optimizer if it is not
AdamW, as in "none-lion", or a number of micro-batches, as in "none-2".
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__" and os.environ["KERAS_BACKEND"] == "jax":
    devices = f"--xla_force_host_platform_device_count={sys.argv[1]}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {devices}"

import keras
import numpy as np
from parts import Painter, Patterns, Words

from kgen import assemble
from kgen.config import ComponentConfig, FitConfig
from kgen.config.sections import LoraConfig
from kgen.data.loader import Loader
from kgen.parts.trained import select_trained
from kgen.random import seed_everything
from kgen.training.distribution import open_distribution
from kgen.training.fit import compile_model, train
from kgen.training.journal import read_rows

FIT = FitConfig(
    steps=10,
    batch_size=8,
    learning_rate=1e-2,
    warmup_steps=2,
    clip_norm=0.05,
    ema=0.99,
    log_every=5,
    keep=1,
    validate_every=5,
)

OPTIONS = {"adafactor": {"epsilon_2": 1.0}}
"""Options of optimizers. With its default, Adafactor changes biases, which are 0 at first, by 1e-5 per step or less."""


def trained(
    mode: Any, noise: float, folder: Path, optimizer: str = "adamw", micro_batches: int = 1, lora: bool = False
) -> dict[str, Any]:
    """The results of the training: weights, their averages, validation losses, images, and noise by replica."""
    distribution = open_distribution(mode)
    chosen = ComponentConfig(name=optimizer, options=OPTIONS.get(optimizer, {}))
    fit = FIT.model_copy(update={"optimizer": chosen, "gradient_accumulation": micro_batches})
    fit = fit.model_copy(update={"lora": LoraConfig(rank=2, targets=("generator/*",)) if lora else None})
    seed_everything(0)
    dataset, encoder = Patterns(), Words()
    encoder.adapt(dataset.captions("train"))
    with distribution.scope():
        painter = Painter(dataset.image_space, encoder.condition_space, noise=noise)
        pipeline = assemble(encoder=encoder, generator=painter, dataset=dataset, condition_dropout=0.0)
        select_trained(pipeline, fit)
        compile_model(pipeline, fit)
    loader = Loader(dataset, encoder, batch_size=8, shard=distribution.worker, shards=distribution.workers)
    alone = distribution.workers == 1
    unseen = Loader(dataset, encoder, batch_size=8, split="holdout") if alone else None  # one image
    folder.mkdir(exist_ok=True)
    train(pipeline, fit, folder, data=loader, validation=unseen, distribution=distribution, seed=0)
    return {
        "replicas": distribution.replicas,
        "losses": [float(row["val_loss"]) for row in read_rows(folder / "metrics.csv") if row["val_loss"]],
        "images": pipeline.generate(dataset.prompts("train")[:3]) if alone else [],
        "sampled": sampled(distribution.strategy, painter),
        **{f"w{i}": np.asarray(v.numpy()) for i, v in enumerate(pipeline.trainable_variables)},
        **{f"a{i}": np.asarray(v.numpy()) for i, v in enumerate(pipeline.optimizer.averages)},
    }


def sampled(strategy: Any, painter: Painter) -> list[np.ndarray]:
    """The noise that each replica of this process samples next."""
    if strategy is None:
        return []
    values = strategy.run(lambda: keras.random.normal((4,), seed=painter.seed_generator))
    return [value.numpy() for value in strategy.experimental_local_results(values)]


if __name__ == "__main__":
    for job in sys.argv[4:]:
        mode, _, rest = job.partition("-")
        folder = Path(sys.argv[3]) / job
        optimizer, count = ("adamw", int(rest)) if rest.isdigit() else (rest or "adamw", 1)
        found = trained(mode, float(sys.argv[2]), folder, optimizer, count)
        np.savez(folder.with_suffix(".npz"), tensorflow="tensorflow" in sys.modules, **found)
