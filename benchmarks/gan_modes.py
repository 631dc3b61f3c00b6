"""How many of 25 Gaussians on a grid in the plane a GAN finds, and how sharply (Srivastava et al. 2017, 4.1).

    KERAS_BACKEND=jax python benchmarks/gan_modes.py [--steps 8000]

An image is one pixel of two channels: a point. The modes lie 0.4 apart, with a standard deviation of 0.02. A point is
good if it is within 3 deviations of a mode; a mode is found if 20 of 5,000 points are good and nearest to it (with
uniform points of the square, about 15 would be). The exit status is 1 unless all modes are found.

The script needs kgen-plugin-gan. Its steps are so small that TensorFlow takes five times as long as JAX.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

BATCH, DEVIATION, CODE, SAMPLES = 256, 0.02, 8, 5000
MODES = np.stack(np.meshgrid(*[np.linspace(-0.8, 0.8, 5)] * 2), axis=-1).reshape(25, 2)


def points(count: int) -> np.ndarray:
    """(count, 1, 1, 2) float32."""
    random = np.random.default_rng(0)
    found = MODES[random.integers(25, size=count)] + DEVIATION * random.normal(size=(count, 2))
    return found.astype("float32").reshape(count, 1, 1, 2)


def train(steps: int) -> np.ndarray:
    """Trains the GAN and samples (SAMPLES, 2) points."""
    from kgen.backend.selection import load_backend

    load_backend()  # quietly
    import keras
    from kgen_plugin_gan.generator import GAN
    from kgen_plugin_text.unconditional import Unconditional

    import kgen
    from kgen.config import ComponentConfig, FitConfig
    from kgen.training.fit import compile_model

    keras.utils.set_random_seed(0)
    encoder, space = Unconditional(), kgen.Space("continuous", (1, 1, 2))
    gan = GAN(
        space, encoder.condition_space, width=64, multipliers=(1,), patch=1, latent_dim=CODE, features=64, penalty=0.001
    )
    data = points(steps * BATCH)
    pipeline = kgen.assemble(encoder=encoder, generator=gan, image_space=space, condition_dropout=0.0)
    fit = FitConfig(
        steps=steps,
        batch_size=BATCH,
        learning_rate=1e-3,
        optimizer=ComponentConfig(name="adamw", options={"beta_1": 0.0, "beta_2": 0.99}),
        clip_norm=None,
        ema=0.99,
    )
    compile_model(pipeline, fit)
    pipeline.fit(pipeline.inputs(data, [""] * len(data)), batch_size=BATCH, shuffle=False, verbose=0)
    for weight, average in zip(pipeline.trainable_variables, pipeline.optimizer.averages, strict=True):
        weight.assign(average)
    condition = encoder(encoder.tokenize([""] * SAMPLES))
    z = np.random.default_rng(1).normal(size=(SAMPLES, CODE)).astype("float32")
    return keras.ops.convert_to_numpy(gan.generate(condition, condition, {"z": keras.ops.convert_to_tensor(z)}))[
        :, 0, 0
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8000)
    generated = train(parser.parse_args().steps)
    distance = np.linalg.norm(generated[:, None] - MODES, axis=-1)  # (SAMPLES, 25)
    good = distance.min(1) < 3 * DEVIATION
    counts = np.bincount(distance.argmin(1)[good], minlength=len(MODES))
    found = int((counts >= 20).sum())
    per_mode = f"{counts.min()} to {counts.max()} per mode"
    print(f"{found} of 25 modes; {good.mean():.0%} of {SAMPLES} points are good, {per_mode}")
    sys.exit(found < len(MODES))


if __name__ == "__main__":
    main()
