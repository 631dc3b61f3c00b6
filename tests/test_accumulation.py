"""Gradient accumulation: a step in micro-batches is the step with the whole batch, also in its noise and its states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from parts import Painter, Patterns, Words
from test_training import Vanishing, Whole, batch_of, run, whole  # noqa: F401 (a fixture)

import kgen
from kgen.backend.steps.micro_batch import MicroBatch, computing
from kgen.backend.steps.states import Changes
from kgen.config import FitConfig
from kgen.nn import Dropout
from kgen.random import SeedGenerator, per_example
from kgen.training.checkpoint import training_state
from kgen.training.distribution.base import Distribution
from kgen.training.fit import compile_model
from kgen.training.journal import read_rows

SPEED = ("seconds", "images_per_second", "input_wait", "input_images_per_second")
WEIGHT = np.array([1, 0, 2, 0.5, 3, 0, 1, 1, 1, 0, 0, 4], np.float32)


class Counter(Painter):
    """Its loss depends on the number of steps and on a running mean of its images, and it has an unused weight."""

    def __init__(self, space: kgen.Space, condition_space: kgen.ConditionSpace, **kwargs: Any) -> None:
        super().__init__(space, condition_space, **kwargs)
        self.rows: list[int] = []
        self.step = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="step")
        self.running = self.add_weight(shape=(), initializer="zeros", trainable=False, name="running")
        self.unused = self.add_weight(shape=(2, 2), initializer="ones", name="unused")

    def compute_losses(self, x: Any, condition: dict[str, Any], training: bool) -> dict[str, Any]:
        losses = super().compute_losses(x, condition, training)
        step, running = ops.cast(self.step, "float32"), ops.copy(self.running)
        if training and self.trainable:
            self.rows.append(x.shape[0])
            self.step.assign(self.step + 1)
            self.running.assign(0.9 * running + 0.1 * ops.mean(x))
        return {**losses, "loss": losses["loss"] * (1.0 + 0.3 * step) + running}


def after(micro_batches: int, weight: np.ndarray | None, **options: Any) -> tuple[dict[str, np.ndarray], Any, set[int]]:
    """Trains two batches of 6 examples: everything that a checkpoint has, the losses, and the sizes of parts."""
    keras.utils.set_random_seed(0)
    dataset, encoder = Patterns(), Words()
    encoder.adapt(dataset.captions("train"))
    painter = Counter(dataset.image_space, encoder.condition_space)
    pipeline = kgen.assemble(encoder=encoder, generator=painter, dataset=dataset, condition_dropout=0.4)
    settings = {"optimizer": {"name": "adamw", "options": {"epsilon": 1e-3}}, "clip_norm": 0.5, "warmup_steps": 2}
    compile_model(pipeline, FitConfig(steps=2, gradient_accumulation=micro_batches, **settings, **options))
    painter.rows.clear()
    fitted = pipeline.fit(batch_of(pipeline, dataset, 12), sample_weight=weight, batch_size=6, shuffle=False, verbose=0)
    state = {name: np.array(ops.convert_to_numpy(v)) for name, v in training_state(pipeline).items()}
    return state, fitted.history, set(painter.rows)


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables.*unused")
@pytest.mark.parametrize(
    "weight",
    [pytest.param(None, id="equal", marks=pytest.mark.portable), pytest.param(WEIGHT, marks=pytest.mark.backends)],
)
def test_micro_batches_equal_the_whole_batch(weight: np.ndarray | None) -> None:
    one, losses, _ = after(1, weight)
    three, losses_of_three, rows = after(3, weight)
    assert rows == {2}  # the memory is that of a micro-batch
    assert one.keys() == three.keys()
    assert one["generator/step"] == 2
    for name, value in one.items():
        np.testing.assert_allclose(three[name], value, rtol=1e-6, atol=1e-6, err_msg=name)
    for name, values in losses.items():
        np.testing.assert_allclose(losses_of_three[name], values, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.portable
def test_a_killed_training_in_micro_batches_goes_on_as_with_whole_batches(
    whole: Whole,  # noqa: F811
    tmp_path: Path,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 12, Vanishing(), stop=6, gradient_accumulation=2)
    pipeline, progress = run(tmp_path, 12, Vanishing(), gradient_accumulation=2)
    assert progress.step == 12
    expected = training_state(whole[1])
    for name, variable in training_state(pipeline).items():
        np.testing.assert_allclose(variable.numpy(), expected[name].numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
    rows, wanted = (read_rows(folder / "metrics.csv") for folder in (tmp_path, whole[0]))
    assert [row["step"] for row in rows] == [row["step"] for row in wanted]
    for row, other in zip(rows, wanted, strict=True):
        for name in row.keys() - {*SPEED}:
            assert float(row[name] or 0) == pytest.approx(float(other[name] or 0), rel=1e-5), name


@pytest.mark.backends
def test_random_numbers_of_micro_batches() -> None:
    """Numbers for each example are those of the whole batch; masks of dropout are new for each micro-batch."""
    ones, whole_generator, part_generator = np.ones((2, 64), np.float32), SeedGenerator(3), SeedGenerator(3)
    numbers = ops.convert_to_numpy(per_example(keras.random.normal, (8, 5), whole_generator))
    layers = [Dropout(0.5), keras.layers.Dropout(0.5, seed=1)]
    states = [part_generator.state, *(layer.seed_generator.state for layer in layers)]
    masks = []
    for index in range(4):
        micro_batch = MicroBatch(index, 4)
        changes = Changes(states, micro_batch)
        with computing(micro_batch):
            part = ops.convert_to_numpy(per_example(keras.random.normal, (2, 5), part_generator))
            masks.append([ops.convert_to_numpy(layer(ones, training=True)) for layer in layers])
        np.testing.assert_array_equal(part, numbers[index::4])
        assert [ops.convert_to_numpy(change).tolist() for change in changes.undo()] == [[0, 1]] * 3
    for one, other in ((0, 1), (2, 3)):
        for mask, another in zip(masks[one], masks[other], strict=True):
            assert (mask != another).mean() > 0.2


@pytest.mark.portable
def test_batches_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(
        kgen.ConfigError, match=r"fit\.batch_size: 6 must be a multiple of 4: fit\.gradient_accumulation"
    ):
        Distribution().check_batch(6, 4)
    with pytest.raises(kgen.ConfigError, match=r"12 must be a multiple of 8: .* 4 micro-batches on each of 2 devices"):
        Distribution(replicas=2).check_batch(12, 4)
    with pytest.raises(kgen.ConfigError, match="4 micro-batches cannot share a batch of 6 examples"):
        after(4, None)
    with pytest.raises(kgen.ConfigError, match="gradient_accumulation must be a positive whole number, not 0"):
        kgen.Pipeline.compile(object.__new__(kgen.Pipeline), gradient_accumulation=0)
