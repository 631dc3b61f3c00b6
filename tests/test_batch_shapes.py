"""Training and evaluation on batches that differ in height and width: one program per shape, and the right means."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from kgen import ConditionSpace, Space
from kgen.backend.stream import Watched, stream
from kgen.pipeline.loss_model import LossModel

SHAPES = [(4, 6), (6, 4), (4, 6), (5, 5), (6, 4), (4, 6)]


class Level(LossModel):
    """Learns the mean of the pixels. It multiplies heights and widths, which are None in a graph of unknown shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.set_untracked("seen", Counter())
        self.level = self.add_weight(shape=(), initializer="zeros")
        self.built = True
        self.track({"loss": 0.0}, self)

    def call(self, batch: dict[str, Any], training: bool = False) -> dict[str, Any]:
        _, height, width, _ = batch["image"].shape
        self.seen[height, width] += 1
        pixels = ops.reshape(batch["image"], (-1, height * width * 3))
        return {"loss": ops.mean(ops.square(pixels - self.level), axis=1)}


def batches(weights: bool = False) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    made = [{"image": random.normal(1.0, 1.0, (2, *shape, 3)).astype(np.float32)} for shape in SHAPES]
    if weights:
        made = [{**batch, "weight": np.array([1, number % 2], np.float32)} for number, batch in enumerate(made)]
    return made


@pytest.mark.backends
def test_each_shape_is_compiled_once() -> None:
    model = Level()
    model.compile(optimizer=keras.optimizers.SGD(0.25))
    model.fit(stream(Watched(batches(), several_shapes=True)), steps_per_epoch=6, verbose=0)
    level = 0.0
    for batch in batches():  # gradient descent on (pixel - level)^2
        level -= 0.25 * 2 * (level - float(batch["image"].mean()))
    assert float(ops.convert_to_numpy(model.level)) == pytest.approx(level, abs=1e-5)
    eager = keras.backend.backend() == "torch"
    assert model.seen == (Counter(SHAPES) if eager else dict.fromkeys(SHAPES, 1))


def test_several_steps_per_execution_use_every_batch() -> None:
    """Keras counts these steps, so that each call must take them all. The last call takes the batches that are left."""
    one, several = Level(), Level()
    for model, steps in ((one, 1), (several, 4)):
        model.compile(optimizer=keras.optimizers.SGD(0.25), steps_per_execution=steps)
        model.fit(stream(Watched(batches(), several_shapes=True)), steps_per_epoch=len(SHAPES), verbose=0)
    assert float(several.level) == pytest.approx(float(one.level), abs=1e-6) and float(one.level) != 0
    assert int(several.optimizer.iterations) == int(one.optimizer.iterations) == len(SHAPES)


@pytest.mark.backends
def test_the_validation_loss_is_the_mean_over_images_of_all_shapes() -> None:
    model = Level()
    model.compile(optimizer="sgd")
    data = batches(weights=True)
    found = model.evaluate(stream(Watched(data, several_shapes=True)), steps=6, verbose=0, return_dict=True)
    losses = [(batch["image"][row] ** 2).mean() for batch in data for row in (0, 1) if batch["weight"][row]]
    assert len(losses) == 9 and found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def _network(kind: str) -> dict[str, Any]:
    if kind == "dit":
        return {"kind": "dit", "width": 16, "depth": 1, "heads": 2, "patch": 4}
    return {"kind": "unet", "width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "head_dim": 8}


@pytest.mark.portable
@pytest.mark.parametrize("kind", ["dit", "unet"])
def test_a_resized_generator_is_one_that_was_made_for_the_shape(kind: str) -> None:
    """With the same weights, the losses and samples are those of a generator of the other space."""
    from kgen_plugin_diffusion.generator import Diffusion

    here, there = Space("continuous", (16, 16, 3)), Space("continuous", (12, 20, 3))
    condition = {
        name: ops.convert_to_tensor(np.random.default_rng(1).normal(size=shape).astype(np.float32))
        for name, shape in {"sequence": (2, 1, 8), "mask": (2, 1), "pooled": (2, 8)}.items()
    }
    condition["mask"] = ops.ones_like(condition["mask"])
    one, other = (Diffusion(space, ConditionSpace(1, 8), network=_network(kind)) for space in (here, there))
    for generator in (one, other):
        generator.compute_losses(ops.zeros((2, *generator.space.shape)), condition, training=False)
        generator.seed_generator.state.assign([3, 4])
    random = np.random.default_rng(0)
    for mine, its in zip(one.weights, other.weights, strict=True):
        if "seed" not in mine.path:
            mine.assign(random.normal(0, 0.1, mine.shape))
            its.assign(mine)
    resized = one.resized(there)
    assert resized.space == there and one.space == here and resized.weights is not one.weights
    x = ops.convert_to_tensor(random.normal(size=(2, *there.shape)).astype(np.float32))
    losses = [ops.convert_to_numpy(g.compute_losses(x, condition, training=False)["loss"]) for g in (one, other)]
    np.testing.assert_allclose(*losses, rtol=1e-6)
    spec = resized.noise_spec()
    assert spec["start"].shape == there.shape
    noise = {"start": x, "steps": ops.convert_to_tensor(np.array([[1, 2], [3, 4]], np.int32))}
    made = [g.generate(condition, condition, noise, steps=2, sampler="ddpm") for g in (resized, other)]
    np.testing.assert_allclose(*map(ops.convert_to_numpy, made), rtol=1e-5, atol=1e-6)
