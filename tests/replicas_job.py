"""One process of test_distribution.py: trains 10 steps and writes what it ended with.

Usage: python replicas_job.py DISTRIBUTION DEVICES NOISE OUT.npz
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

mode, devices, noise, out = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])
if os.environ["KERAS_BACKEND"] == "jax":
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
else:
    import tensorflow as tf

    if mode == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)

import keras  # noqa: E402
import numpy as np  # noqa: E402

from kgen import assemble  # noqa: E402
from kgen.config import FitConfig  # noqa: E402
from kgen.data.loader import Loader  # noqa: E402
from kgen.training.distribution import open_distribution  # noqa: E402
from kgen.training.fit import compile_model, train  # noqa: E402
from kgen.training.journal import read_rows  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from parts import Painter, Patterns, Words  # noqa: E402

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

distribution = open_distribution(mode)  # type: ignore[arg-type]
keras.utils.set_random_seed(0)
dataset, encoder = Patterns(), Words()
encoder.adapt(dataset.captions("train"))
with distribution.scope():
    painter = Painter(dataset.image_space, encoder.condition_space, noise=noise)
    pipeline = assemble(encoder=encoder, generator=painter, dataset=dataset, condition_dropout=0.0)
    compile_model(pipeline, FIT)
loader = Loader(dataset, encoder, batch_size=8, shard=distribution.worker, shards=distribution.workers)
folder = out.with_suffix("")
folder.mkdir(exist_ok=True)
unseen = Loader(dataset, encoder, batch_size=8, split="holdout") if distribution.workers == 1 else None  # one image
train(pipeline, FIT, folder, data=loader, validation=unseen, distribution=distribution, seed=0)
losses = [float(row["val_loss"]) for row in read_rows(folder / "metrics.csv") if row["val_loss"]]
images = pipeline.generate(dataset.prompts("train")[:3]) if distribution.workers == 1 else []

arrays = {f"w{i}": np.asarray(v.numpy()) for i, v in enumerate(pipeline.trainable_variables)}
averages = {f"a{i}": np.asarray(v.numpy()) for i, v in enumerate(pipeline.optimizer.averages)}
seen = []
if mode == "mirrored":
    drawn = distribution.strategy.run(lambda: keras.random.normal((4,), seed=painter.seed_generator))
    seen = [value.numpy() for value in distribution.strategy.experimental_local_results(drawn)]
elif mode == "multi_worker":
    drawn = distribution.strategy.run(lambda: keras.random.normal((4,), seed=painter.seed_generator))
    seen = [distribution.strategy.experimental_local_results(drawn)[0].numpy()]
np.savez(out, replicas=distribution.replicas, drawn=np.array(seen), losses=losses, images=images, **arrays, **averages)
