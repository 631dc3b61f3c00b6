"""Trains 10 steps on one device, or on several: for test_distribution.py, in its process or in one of its own.

Usage: python replicas_job.py DEVICES NOISE FOLDER JOB...

Writes FOLDER/JOB.npz for each job, or FOLDER/JOB.1.npz if this is worker 1. A job is a mode ("none", "data_parallel",
"model_parallel" or "multi_worker"), and one of:

- an optimizer, if it is not AdamW, as in "none-lion";
- a number of micro-batches, as in "none-2", with five steps in a call;
- another job, whose checkpoint of step 5 is continued, as in "none-from_model_parallel".
"""

from __future__ import annotations

import os
import shutil
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
from kgen.training.distribution import meshes
from kgen.training.distribution.opening import open_distribution
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
    checkpoint_every=5,
    keep=2,
    validate_every=5,
)

OPTIONS = {"adafactor": {"epsilon_2": 1.0}}
"""Options of optimizers. With its default, Adafactor changes biases, which are 0 at first, by 1e-5 per step or less."""


def trained(
    mode: Any,
    noise: float,
    folder: Path,
    optimizer: str = "adamw",
    micro_batches: int = 1,
    lora: bool = False,
    steps_per_execution: int = 1,
) -> dict[str, Any]:
    """The results of the training: weights, their averages, validation losses, images, and noise by replica."""
    devices = open_distribution(mode)
    chosen = ComponentConfig(name=optimizer, options=OPTIONS.get(optimizer, {}))
    fit = FIT.model_copy(update={"optimizer": chosen, "gradient_accumulation": micro_batches})
    fit = fit.model_copy(update={"steps_per_execution": steps_per_execution})
    fit = fit.model_copy(update={"lora": LoraConfig(rank=2, targets=("generator/*",)) if lora else None})
    seed_everything(0)
    dataset, encoder = Patterns(), Words()
    encoder.adapt(dataset.captions("train"))
    with devices.scope():
        painter = Painter(dataset.image_space, encoder.condition_space, noise=noise)
        pipeline = assemble(encoder=encoder, generator=painter, dataset=dataset, condition_dropout=0.0)
        select_trained(pipeline, fit)
        compile_model(pipeline, fit)
    share = {"shard": devices.worker, "shards": devices.workers}
    unseen = Loader(dataset, encoder, batch_size=8, split="holdout", **share)  # one image
    loader = Loader(dataset, encoder, batch_size=8, **share)
    folder.mkdir(parents=True, exist_ok=True)
    train(pipeline, fit, folder, data=loader, validation=unseen, distribution=devices, seed=0)
    own = folder if devices.is_chief else folder / f"worker-{devices.worker}"
    return {
        "worker": devices.worker,
        "replicas": devices.replicas,
        "losses": [float(row["val_loss"]) for row in read_rows(own / "metrics.csv") if row["val_loss"]],
        "images": pipeline.generate(dataset.prompts("train")[:3]) if devices.workers == 1 else [],
        "parts": parts([*pipeline.trainable_variables, *pipeline.optimizer.variables]),
        "sampled": sampled(devices.strategy, painter),
        **{f"w{i}": np.asarray(v.numpy()) for i, v in enumerate(pipeline.trainable_variables)},
        **{f"a{i}": np.asarray(v.numpy()) for i, v in enumerate(pipeline.optimizer.averages)},
    }


def parts(variables: list[Any]) -> list[float]:
    """The part of each weight, moment and average of at least 8 values that a device holds, on JAX."""
    if keras.backend.backend() != "jax":
        return []
    large = [variable.value for variable in variables if variable.value.size >= 8]
    return [value.addressable_shards[0].data.size / value.size for value in large]


def sampled(strategy: Any, painter: Painter) -> list[np.ndarray]:
    """The noise that each replica of this process samples next."""
    if strategy is None:
        return []
    values = strategy.run(lambda: keras.random.normal((4,), seed=painter.seed_generator))
    return [value.numpy() for value in strategy.experimental_local_results(values)]


if __name__ == "__main__":
    meshes.MIN_SPLIT = 8  # so that `model_parallel` splits small weights
    for job in sys.argv[4:]:
        mode, _, rest = job.partition("-")
        folder = Path(sys.argv[3]) / job
        optimizer, count = ("adamw", int(rest)) if rest.isdigit() else (rest or "adamw", 1)
        steps = 5 if rest.isdigit() else 1
        if rest.startswith("from_"):
            optimizer, before = "adamw", Path(sys.argv[3], rest.removeprefix("from_"), "checkpoints")
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            for file in before.glob("step-00000005*.safetensors"):
                copy = Path(shutil.copy(file, folder / f"{os.getpid()}"))
                copy.replace(folder / "checkpoints" / file.name)  # all workers do this at the same time
        if keras.backend.backend() == "jax":
            keras.distribution.set_distribution(None)
        found = trained(mode, float(sys.argv[2]), folder, optimizer, count, steps_per_execution=steps)
        name = f"{job}.{found['worker']}.npz" if found["worker"] else f"{job}.npz"
        np.savez(folder.parent / name, tensorflow="tensorflow" in sys.modules, **found)
