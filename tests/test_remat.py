"""Rematerialization: the gradients are the same, also with dropout, and blocks change their states once."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from parts import Painter, Patterns, Words
from test_training import batch_of

import kgen
from kgen.backend.precision import precision
from kgen.config import FitConfig
from kgen.nn import Dropout, RematLayer
from kgen.testing.replicas import mirrored
from kgen.training.checkpoint import training_state
from kgen.training.fit import compile_model

WIDTH = 16


class Noisy(RematLayer):
    """A residual block with dropout, by kgen's layer and by Keras's, and a count of its calls in training."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.drop, self.of_keras = Dropout(0.3), keras.layers.Dropout(0.3, seed=1)
        self.dense = keras.layers.Dense(WIDTH)
        self.computed = 0

    def build(self, x_shape: Any, scale_shape: Any) -> None:
        self.dense.build(x_shape)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x: Any, scale: Any, training: bool = False) -> Any:
        self.computed += 1
        if training:
            self.calls.assign(self.calls + 1)
        y = self.drop(ops.tanh(self.dense(x)), training=training)
        return x + scale * self.of_keras(y, training=training)


class Deep(Painter):
    """A `Painter` whose network begins with blocks."""

    def __init__(self, space: kgen.Space, condition_space: kgen.ConditionSpace, **kwargs: Any) -> None:
        super().__init__(space, condition_space, **kwargs)
        self.inwards = keras.layers.Dense(WIDTH)
        self.blocks = [Noisy(name=f"block{i}") for i in range(2)]

    def compute_losses(self, x: Any, condition: dict[str, Any], training: bool) -> dict[str, Any]:
        h = self.inwards(condition["pooled"])
        for block in self.blocks:
            h = block(h, condition["mask"], training=training)
        return super().compute_losses(x, {**condition, "pooled": h}, training)


def after(remat: bool, micro_batches: int = 1) -> tuple[dict[str, np.ndarray], int]:
    """Trains two steps: everything that a checkpoint has, and how often a block was computed, or traced."""
    keras.utils.set_random_seed(0)
    dataset, encoder = Patterns(), Words()
    encoder.adapt(dataset.captions("train"))
    generator = Deep(dataset.image_space, encoder.condition_space)
    pipeline = kgen.assemble(encoder=encoder, generator=generator, dataset=dataset)
    settings = {"optimizer": {"name": "adamw", "options": {"epsilon": 1e-3}}, "gradient_accumulation": micro_batches}
    compile_model(pipeline, FitConfig(steps=2, remat=remat, warmup_steps=0, **settings))
    generator.blocks[0].computed = 0
    pipeline.fit(batch_of(pipeline, dataset, 8), batch_size=4, shuffle=False, verbose=0)
    state = {name: np.array(ops.convert_to_numpy(v)) for name, v in training_state(pipeline).items()}
    return state, generator.blocks[0].computed


@pytest.mark.backends
def test_rematerialized_blocks_have_the_same_gradients() -> None:
    kept, computed = after(False)
    again, computed_again = after(True)
    if keras.backend.backend() != "jax":  # which traces a block once, and differentiates its program
        assert computed_again == 2 * computed
    assert [value for name, value in kept.items() if name.endswith("/calls")] == [2, 2]
    assert kept.keys() == again.keys()
    for name, value in kept.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.portable
def test_rematerialized_blocks_in_micro_batches() -> None:
    kept, again = after(False, 2)[0], after(True, 2)[0]
    for name, value in kept.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-6, atol=1e-6, err_msg=name)


def gradient(remat: bool, policy: str = "float32", strategy: Any = None) -> tuple[dict[str, np.ndarray], int]:
    """The gradient of each weight, which one step of gradient descent shows, and how often a block was computed."""
    with precision(policy), strategy.scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(0)
        dataset, encoder = Patterns(), Words()
        encoder.adapt(dataset.captions("train"))
        generator = Deep(dataset.image_space, encoder.condition_space)
        pipeline = kgen.assemble(encoder=encoder, generator=generator, dataset=dataset)
        settings = {"optimizer": {"name": "sgd"}, "learning_rate": 1.0, "schedule": "constant", "ema": None}
        compile_model(pipeline, FitConfig(steps=1, remat=remat, warmup_steps=0, clip_norm=None, **settings))
        weights = kgen.weight_paths(pipeline, pipeline.trainable_variables)
        before = {path: np.array(weight.numpy()) for path, weight in weights.items()}
        generator.blocks[0].computed = 0
        pipeline.fit(batch_of(pipeline, dataset, 8), batch_size=8, shuffle=False, verbose=0)
    return {path: before[path] - weight.numpy() for path, weight in weights.items()}, generator.blocks[0].computed


def are_close(kept: dict[str, np.ndarray], again: dict[str, np.ndarray], tolerance: float) -> None:
    for name, value in kept.items():
        assert np.abs(value).max() > 0, name
        np.testing.assert_allclose(again[name], value, rtol=0, atol=tolerance * np.abs(value).max(), err_msg=name)


@pytest.mark.backends
def test_rematerialized_blocks_in_mixed_precision() -> None:
    (kept, computed), (again, computed_again) = (gradient(remat, "mixed_bfloat16") for remat in (False, True))
    if keras.backend.backend() != "jax":
        assert computed_again == 2 * computed
    are_close(
        kept, again, 0.02
    )  # a program may round other numbers to 8 bits; another dropout would change them by half


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute is TensorFlow's")
def test_rematerialized_blocks_on_two_replicas() -> None:
    (kept, computed), (again, computed_again) = (gradient(remat, strategy=mirrored()) for remat in (False, True))
    assert computed_again == 2 * computed
    are_close(kept, again, 1e-5)


@pytest.mark.portable
def test_remat_without_blocks_is_refused() -> None:
    dataset, encoder = Patterns(), Words()
    encoder.adapt(dataset.captions("train"))
    pipeline = kgen.assemble(
        encoder=encoder, generator=Painter(dataset.image_space, encoder.condition_space), dataset=dataset
    )
    with pytest.raises(kgen.ConfigError, match=r"remat: no part that is trained has a layer .*RematLayer"):
        compile_model(pipeline, FitConfig(steps=2, remat=True))
