"""Sparse gradients (tf.IndexedSlices, of tables whose rows are looked up) are summed before anything else sees them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from parts import Painter, Patterns, Words

import kgen
from kgen.parts.construction import make_encoder
from kgen.pipeline import assembly
from kgen.testing.inputs import random_conditions, random_latents
from kgen.testing.replicas import copies, mirrored
from kgen.training.optimizers.averaging import averaging
from kgen.training.optimizers.of_keras import AdamW

AveragingAdamW = averaging(AdamW)

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the others have no sparse gradients")

SPACE, TOKENS = kgen.Space("continuous", (4, 4, 3)), kgen.Space("tokens", (4, 4), vocabulary=7)
CONDITIONS = kgen.ConditionSpace(3, 8)
TRANSFORMER = {"width": 8, "depth": 1, "heads": 2}
TEXTS = ["red red heart", "red blue circle", "red red heart", "blue circle"]
NUMBERS = [np.array(row) for row in ([3, 1], [0, 2, 2], [3, 1], [1, 1, 1, 1])]

ENCODERS: dict[str, dict[str, Any]] = {
    "text/bag": {"dim": 8},
    "text/class": {"dim": 8},
    "text/transformer": {"dim": 8, "depth": 1, "heads": 2, "vocabulary": 300, "length": 8},
    "captioning/tokens": {"dim": 8, "depth": 1, "heads": 1},
}
GENERATORS: dict[str, dict[str, Any]] = {
    "tokens/ar": {"network": {**TRANSFORMER, "text": "prefix", "positions": "learned"}, "order": "random"},
    "tokens/nar": {"network": TRANSFORMER},
    "tokens/ar-nar": {"network": TRANSFORMER, "draft": TRANSFORMER},
}
WITH_TABLES = [*ENCODERS, *GENERATORS]
VAE = {"network": {"width": 4, "multipliers": [1], "attention": []}}


class Recorder(AveragingAdamW):
    """Keeps, in place of its average, the gradient of each weight that its step would take."""

    def __init__(self, clip_norm: float | None) -> None:
        super().__init__(0.0, weight_decay=0.0, clip_norm=clip_norm)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.assign(self.averages[self._get_variable_index(variable)], gradient)


def loss_of(name: str) -> tuple[keras.layers.Layer, Callable[[Any, int], Any]]:
    """A component with a table, and the sum of its losses over some of four examples: from which on, and how many."""
    keras.utils.set_random_seed(0)
    if name not in ENCODERS:
        generator = make_generator(name)
        latents, conditions = random_latents(generator.space, 4, 0), random_conditions(CONDITIONS, 4, 0)

        def losses(start: Any, count: int) -> Any:
            condition = {key: rows(value, start, count) for key, value in conditions.items()}
            return tf.reduce_sum(generator.compute_losses(rows(latents, start, count), condition, True)["loss"])

        losses(0, 4)
        return generator, losses
    texts = NUMBERS if name == "captioning/tokens" else TEXTS
    encoder = make_encoder({"name": name, **ENCODERS[name]}, texts)
    tokens = encoder.tokenize(texts)
    signs = (
        np.random.default_rng(0).normal(size=encoder(tokens)["pooled"].shape).astype(np.float32)
    )  # so that rows cancel partly

    def sums(start: Any, count: int) -> Any:
        pooled = encoder({key: rows(value, start, count) for key, value in tokens.items()}, training=True)["pooled"]
        return tf.reduce_sum(pooled * rows(signs, start, count))

    return encoder, sums


def rows(array: np.ndarray, start: Any, count: int) -> Any:
    return tf.ensure_shape(tf.constant(array)[start : start + count], (count, *array.shape[1:]))


def make_generator(name: str) -> Any:
    decoder = type("Latents", (), {"latent_space": SPACE if name == "vae/vae" else TOKENS})()
    encoder = type("Texts", (), {"condition_space": CONDITIONS})()
    return assembly.generator_for({"name": name, **GENERATORS.get(name, VAE)}, decoder, encoder)


def summed(gradient: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Converts a sparse gradient to a dense array by numpy; a missing gradient is zeros."""
    table = np.zeros(shape, np.float32)
    if isinstance(gradient, tf.IndexedSlices):
        np.add.at(table, gradient.indices.numpy(), gradient.values.numpy())
    elif gradient is not None:
        table += gradient.numpy()
    return table


def norm(arrays: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays)))


@pytest.mark.parametrize("name", WITH_TABLES)
def test_every_table_takes_the_whole_gradient_and_is_clipped_by_its_norm(name: str) -> None:
    component, losses = loss_of(name)
    weights = component.trainable_variables
    with tf.GradientTape() as tape:
        loss = losses(0, 4)
    gradients = tape.gradient(loss, [variable.value for variable in weights])
    assert any(isinstance(gradient, tf.IndexedSlices) for gradient in gradients)
    expected = [summed(gradient, variable.shape) for gradient, variable in zip(gradients, weights, strict=True)]
    for limit in (None, 0.01):
        optimizer = Recorder(limit)
        optimizer.build(weights)
        for average in optimizer.averages:
            average.assign(average * 0.0)
        optimizer.apply(gradients, weights)
        found = [average.numpy() for average in optimizer.averages]
        scale = 1.0 if limit is None else limit / norm(expected)
        assert norm(found) == pytest.approx(limit or norm(expected), rel=1e-5)
        for variable, one, other in zip(weights, found, expected, strict=True):
            np.testing.assert_allclose(one, scale * other, rtol=1e-4, atol=1e-7, err_msg=variable.path)


@pytest.mark.parametrize("name", WITH_TABLES)
def test_two_replicas_are_clipped_by_the_norm_of_their_sum(name: str) -> None:
    with mirrored().scope():
        component, losses = loss_of(name)
        weights = component.trainable_variables
        optimizers = {limit: Recorder(limit) for limit in (None, 0.01)}
        for optimizer in optimizers.values():
            optimizer.build(weights)
            for average in optimizer.averages:
                average.assign(average * 0.0)

    def step() -> list[Any]:
        start = 2 * tf.distribute.get_replica_context().replica_id_in_sync_group
        with tf.GradientTape() as tape:
            loss = losses(start, 2) / 2.0
        gradients = tape.gradient(loss, [variable.value for variable in weights])
        for optimizer in optimizers.values():
            optimizer.apply(gradients, weights)
        return [tf.zeros(()) if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]

    parts = [mirrored().experimental_local_results(gradient) for gradient in mirrored().run(step)]
    expected = [sum(part.numpy() for part in both) for both in parts]
    for limit, optimizer in optimizers.items():
        found = [copies(mirrored(), average) for average in optimizer.averages]
        scale = 1.0 if limit is None else limit / norm(expected)
        assert norm([first for first, _ in found]) == pytest.approx(limit or norm(expected), rel=1e-5)
        for (first, second), whole in zip(found, expected, strict=True):
            np.testing.assert_array_equal(first, second)
            np.testing.assert_allclose(first, scale * whole, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["tokens/ar", pytest.param("vae/vae", marks=pytest.mark.slow)])
def test_two_replicas_compute_what_one_device_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps of AdamW with clipping. The order of the tokens, and the noise, are the same for all."""
    monkeypatch.setitem(GENERATORS, "tokens/ar", {"network": TRANSFORMER})
    monkeypatch.setattr(keras.random, "normal", lambda shape, **_: keras.ops.zeros(shape))
    one, two = (trained(name, strategy) for strategy in (None, mirrored()))
    for number, (alone, shared) in enumerate(zip(one, two, strict=True)):
        np.testing.assert_allclose(shared, alone, rtol=0, atol=1e-6, err_msg=str(number))


def trained(name: str, strategy: Any) -> list[np.ndarray]:
    """Weights and averages after four steps on the same four examples."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        component, losses = loss_of(name)
        weights = component.trainable_variables
        optimizer = AveragingAdamW(1e-4, clip_norm=0.05, average=0.9)
        optimizer.build(weights)

    def step() -> None:
        start = 2 * tf.distribute.get_replica_context().replica_id_in_sync_group
        with tf.GradientTape() as tape:
            loss = losses(start, 2 if strategy else 4) / 4.0
        optimizer.apply(tape.gradient(loss, [variable.value for variable in weights]), weights)

    for _ in range(4):
        strategy.run(step) if strategy else step()
    return [np.array(variable.numpy()) for variable in [*weights, *optimizer.averages]]


def test_a_replica_without_examples_changes_nothing() -> None:
    """One example, two replicas: what the second has no share of is no NaN."""
    with mirrored().scope():
        pipeline = compiled(keras.optimizers.SGD(0.1))
        before = np.array(pipeline.encoder.table.numpy())
        batch = pipeline.inputs(np.zeros((1, 8, 8, 3), np.uint8), ["pattern 0"])
        expected = float(pipeline(batch)["loss"][0])
        pipeline.fit(batch, batch_size=1, verbose=0)
        found = pipeline.evaluate(batch, batch_size=1, verbose=0)[0]
    after = pipeline.encoder.table.numpy()
    assert np.isfinite(after).all() and (after != before).any()
    assert found == pytest.approx(expected, rel=0.2)


ADAMS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "kgen": lambda: AveragingAdamW(0.1, weight_decay=0.0, clip_norm=None, average=None),
    "keras": lambda: keras.optimizers.AdamW(0.1, weight_decay=0.0),
    "keras with a loss scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1)),
    "accumulating": lambda: keras.optimizers.Adam(0.1, gradient_accumulation_steps=2),
}


@pytest.mark.parametrize("optimizer", ADAMS)
def test_adam_squares_the_sum_of_a_row(optimizer: str) -> None:
    """The first step of Adam moves every number by the learning rate, whatever its gradient."""
    pipeline = compiled(ADAMS[optimizer]())
    table = pipeline.encoder.table
    before = np.array(table.numpy())
    with tf.GradientTape() as tape:
        rows = keras.ops.take(table, np.array([0, 0, 1]), axis=0)  # (3, D)
        loss = tf.reduce_sum(rows * tf.constant([[3.0], [-1.0], [1.0]]))
        loss = pipeline.optimizer.scale_loss(loss)
    gradient = tape.gradient(loss, table.value)
    assert isinstance(gradient, tf.IndexedSlices)
    for _ in range(pipeline.optimizer.gradient_accumulation_steps or 1):
        pipeline.optimizer.apply([gradient], [table])
    moved = before - table.numpy()
    np.testing.assert_allclose(moved[:2], 0.1, rtol=1e-4)
    np.testing.assert_array_equal(moved[2:], 0.0)


def compiled(optimizer: keras.optimizers.Optimizer) -> kgen.Pipeline:
    dataset, encoder = Patterns(), Words()
    encoder.adapt(dataset.captions("train"))
    painter = Painter(dataset.image_space, encoder.condition_space)
    painter.trainable = False
    pipeline = kgen.assemble(encoder=encoder, generator=painter, dataset=dataset)
    pipeline.compile(optimizer)
    return pipeline


def test_a_clipped_row_that_was_used_twice() -> None:
    table = keras.Variable(np.zeros((2, 1), "float32"))
    gradient = tf.IndexedSlices(tf.constant([[3.0], [4.0]]), tf.constant([0, 0]), tf.constant([2, 1]))
    np.testing.assert_allclose(clipped([gradient], table), [[1.0], [0.0]], rtol=1e-6)


def test_a_token_that_is_repeated_128_times() -> None:
    ones = tf.IndexedSlices(tf.ones((128, 1)), tf.zeros(128, tf.int32), tf.constant([2, 1]))
    table = keras.Variable(np.zeros((2, 1), "float32"))
    assert norm([clipped([ones], table)]) == pytest.approx(1.0, rel=1e-6)
    canceled = tf.IndexedSlices(tf.constant([[5.0], [-5.0], [0.5]]), tf.constant([0, 0, 1]), tf.constant([2, 1]))
    np.testing.assert_allclose(clipped([canceled], table), [[0.0], [0.5]], atol=1e-6)  # of norm 0.5: below the limit


def clipped(gradients: list[Any], table: keras.Variable) -> np.ndarray:
    optimizer = Recorder(1.0)
    optimizer.apply(gradients, [table])
    return np.array(optimizer.averages[0].numpy())


def test_the_averages_follow_a_table_too() -> None:
    table = keras.Variable(np.zeros((2, 1), "float32"))
    optimizer = AveragingAdamW(0.1, weight_decay=0.0, clip_norm=None, average=0.5)
    for _ in range(2):  # the first average starts at the weights, with decay 0
        gradient = tf.IndexedSlices(tf.constant([[3.0], [-1.0]]), tf.constant([0, 0]), tf.constant([2, 1]))
        optimizer.apply([gradient], [table])
    decay = 1.0 / 11.0
    np.testing.assert_allclose(table.numpy()[:, 0], [-0.2, 0.0], rtol=1e-4)
    np.testing.assert_allclose(optimizer.averages[0].numpy()[:, 0], [-0.1 * decay - 0.2 * (1 - decay), 0.0], rtol=1e-4)


def test_some_of_the_weights_can_be_updated() -> None:
    tables = [keras.Variable(np.zeros((2, 1), "float32")) for _ in range(2)]
    optimizer = AveragingAdamW(0.1, weight_decay=0.0, clip_norm=1.0)
    optimizer.build(tables)
    gradient = tf.IndexedSlices(tf.constant([[3.0], [-1.0]]), tf.constant([0, 0]), tf.constant([2, 1]))
    optimizer.apply([gradient], [tables[1]])
    np.testing.assert_allclose(tables[1].numpy()[:, 0], [-0.1, 0.0], rtol=1e-4)
    np.testing.assert_array_equal(tables[0].numpy(), 0.0)


def test_accumulated_parts_are_not_clipped_one_by_one() -> None:
    with pytest.raises(ValueError, match="clip_norm=None"):
        AveragingAdamW(0.1, clip_norm=1.0, gradient_accumulation_steps=2)


def test_clipping_changes_no_gradient_below_the_limit() -> None:
    variables = [keras.Variable([0.0]) for _ in range(3)]
    optimizer = averaging(keras.optimizers.SGD)(1.0, clip_norm=1.0, average=None)
    optimizer.apply([tf.constant([0.3]), None, tf.constant([0.4])], variables)
    np.testing.assert_allclose(np.ravel(variables), [-0.3, 0.0, -0.4], rtol=1e-6)
    np.testing.assert_allclose(optimizer.gradient_norm, 0.5, rtol=1e-6)
