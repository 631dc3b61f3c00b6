"""Losses of every example: finite, independent of one another, and a way down for every weight."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from kgen.testing.configuration import ConfigurationConformance
from kgen.testing.execution import (
    Runner,
    arrays,
    evaluate,
    gradients,
    perturb,
    reseed,
    rows,
    swap_first,
    tensors,
)
from kgen.testing.replicas import copies, mirrored
from kgen.weights import load_variables, save_variables

Tensor = Any
Batch = dict[str, Any]

BATCH = 4


class LossConformance(ConfigurationConformance):
    """Checks `compute_losses`; what generators and trained decoders share."""

    fit_loss: ClassVar[str | None] = "loss"
    """The loss that must fall in a short training; None where none does (in an adversarial game, say)."""

    fit_steps: ClassVar[int] = 80
    """Steps of that training."""

    learning_rate: ClassVar[float] = 5e-3
    """Adam's, in that training."""

    fit_fall: ClassVar[float] = 0.1
    """By how much of its first value the loss must fall at least."""

    no_gradient: ClassVar[tuple[str, ...]] = ()
    """Patterns of the paths of trainable weights that rightly have no gradient, such as ``*/codebook``."""

    neighbours: ClassVar[tuple[str, ...]] = ()
    """Losses of an example that rightly look at its neighbours, as where a wrong text is taken from another picture: on
    N replicas they are then the same on average only."""

    loss_tolerance: ClassVar[float] = 1e-4
    """How far (relatively) an example's loss may move with its neighbours in the batch, by rounding."""

    replicas: ClassVar[bool] = True
    """Whether to train under two replicas, which takes long to trace: one class of several alike is enough."""

    def loss_batch(self, component: Any, seed: int = 0) -> Batch:
        """Random arguments of `loss_of`, as arrays of `BATCH` examples."""
        raise NotImplementedError

    def loss_of(self, component: Any, batch: Batch, training: bool) -> Mapping[str, Tensor]:
        raise NotImplementedError

    def ready(self) -> Any:
        """A component that has all its weights."""
        component = self.build()
        self.loss_of(component, tensors(self.loss_batch(component)), training=False)
        component.built = True
        return component

    def _losses(self, component: Any, batch: Batch, training: bool) -> dict[str, np.ndarray]:
        """Losses of a batch of arrays, leaving weights and seeds as they were."""
        return arrays(self._loss_tensors(component, batch, training))  # type: ignore[no-any-return]

    def _loss_tensors(self, component: Any, batch: Batch, training: bool) -> dict[str, Tensor]:
        return evaluate(component, lambda b: dict(self.loss_of(component, b, training)), batch)  # type: ignore[no-any-return]

    def test_losses_are_finite_and_per_example(self) -> None:
        component = self.ready()
        for training in (False, True):
            batch = self.loss_batch(component)
            _check_losses(self._loss_tensors(component, batch, training), BATCH)
            _check_losses(self._loss_tensors(component, rows(batch, slice(0, 1)), training), 1)

    def test_losses_do_not_mix_examples(self) -> None:
        """Where examples mixed, N replicas would not compute what one device computes."""
        component = self.ready()
        perturb(component)
        batch = self.loss_batch(component)
        changed = swap_first(batch, self.loss_batch(component, seed=1))
        for training in (False, True):
            before, after = (self._losses(component, b, training) for b in (batch, changed))
            assert not np.allclose(before["loss"][0], after["loss"][0], rtol=1e-6), (
                "'loss' of an example is the same for another example: it does not depend on the data"
            )
            for name in before.keys() - set(self.neighbours):
                np.testing.assert_allclose(
                    after[name][1:],
                    before[name][1:],
                    rtol=self.loss_tolerance,
                    atol=self.loss_tolerance,
                    err_msg=f"'{name}' (training={training}) changes with the other examples of the batch: return one "
                    f"number an example, on which nothing was averaged over the batch",
                )

    def test_every_weight_has_a_gradient(self) -> None:
        component = self.ready()
        perturb(component)
        batch = tensors(self.loss_batch(component))
        found = gradients(component, lambda: ops.mean(self.loss_of(component, batch, True)["loss"]))
        check_gradients(found, self.no_gradient)

    def test_no_weights_appear_late(self) -> None:
        """The optimizer knows only the weights that exist when training begins."""
        component = self.ready()
        before = len(component.variables)
        self.loss_of(component, tensors(self.loss_batch(component)), training=True)
        assert len(component.variables) == before, "compute_losses(training=True) creates weights: create them before"

    def test_overfits_one_batch(self) -> None:
        if self.fit_loss is None:
            return
        component = self.ready()
        if not component.trainable_variables:
            return
        batch = self.loss_batch(component)
        runner = Runner(component, lambda b, training: self.loss_of(component, b, training))
        before = self._typical_loss(component, batch)
        reseed(component, 1)
        runner.fit_batch(batch, self.fit_steps, self.learning_rate)
        after = self._typical_loss(component, batch)
        assert before - after > self.fit_fall * abs(before), (
            f"'{self.fit_loss}' went from {before:.4g} to {after:.4g} in {self.fit_steps} steps on one batch: it must "
            f"fall by {self.fit_fall:.0%}; set fit_steps, learning_rate or fit_fall where this is asking too much"
        )

    def _typical_loss(self, component: Any, batch: Batch) -> float:
        """Mean over many draws of the noise, always the same."""
        reseed(component, 0)
        many = rows(batch, np.tile(np.arange(BATCH), 16))
        return float(np.mean(self._losses(component, many, training=False)[str(self.fit_loss)]))

    def test_two_replicas_train_in_step(self) -> None:
        """Under tf.distribute, both replicas hold the same weights and state after some steps. TensorFlow only."""
        if keras.backend.backend() != "tensorflow" or not self.replicas:
            return
        strategy = mirrored()
        with strategy.scope():
            component = self.ready()
            if not component.trainable_variables:
                return
            before = [np.array(variable) for variable in component.trainable_variables]
            runner = Runner(component, lambda b, training: self.loss_of(component, b, training))
            try:
                runner.fit_batch(self.loss_batch(component), steps=2, learning_rate=1e-3)
            except Exception as error:
                raise AssertionError(f"training fails under two replicas (tf.distribute): {error}") from error
        for variable in component.variables:
            first, second = copies(strategy, variable)
            assert np.isfinite(first).all(), f"{variable.path} is not finite after training under two replicas"
            np.testing.assert_array_equal(first, second, err_msg=f"{variable.path} differs between two replicas")
        after = component.trainable_variables
        assert any(not np.array_equal(old, new) for old, new in zip(before, after, strict=True)), (
            "training under two replicas changes no weight"
        )

    def test_weights_survive_a_file(self) -> None:
        component = self.ready()
        perturb(component)
        with tempfile.TemporaryDirectory() as folder:
            again = save_and_load(component, self.ready(), Path(folder))
        batch = self.loss_batch(component)
        reseed(component, 0)
        reseed(again, 0)
        np.testing.assert_allclose(
            self._losses(again, batch, False)["loss"],
            self._losses(component, batch, False)["loss"],
            rtol=1e-5,
            atol=1e-6,
            err_msg="the component with the saved weights has other losses: it has state that is not a weight",
        )

    def test_mixed_precision(self) -> None:
        """Under ``precision: mixed_bfloat16``, losses are still float32, and finite."""
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            component = self.ready()
            _check_losses(self._loss_tensors(component, self.loss_batch(component), True), BATCH)
        finally:
            keras.config.set_dtype_policy(before)


def save_and_load(source: keras.layers.Layer, target: keras.layers.Layer, folder: Path) -> keras.layers.Layer:
    """Takes the weights of one layer to another of the same kind, through a file."""
    if source.weights:
        save_variables(folder / "weights.safetensors", {"part": source.weights}, {})
        load_variables(folder / "weights.safetensors", {"part": target.weights})
    return target


def check_gradients(found: Mapping[str, np.ndarray | None], exempt: tuple[str, ...] = ()) -> None:
    """Checks that every gradient is finite, and not zero everywhere."""
    for path, gradient in found.items():
        assert gradient is None or np.isfinite(gradient).all(), f"the gradient of weight {path} is not finite"
    idle = [path for path, gradient in found.items() if gradient is None or not np.any(gradient)]
    idle = [path for path in idle if not any(fnmatch(path, pattern) for pattern in exempt)]
    assert not idle, f"'loss' does not depend on the trainable weights {idle}: use them, or do not create them"


def _check_losses(losses: Mapping[str, Tensor], count: int) -> None:
    assert "loss" in losses, f"compute_losses must return 'loss', which is minimised; it returned {sorted(losses)}"
    for name, value in losses.items():
        assert tuple(value.shape) == (count,), (
            f"'{name}' must be one number an example, ({count},), but has the shape {tuple(value.shape)}"
        )
        dtype = keras.backend.standardize_dtype(value.dtype)
        assert dtype == "float32", f"'{name}' must be float32, not {dtype}: cast before you reduce"
        assert np.isfinite(ops.convert_to_numpy(value)).all(), f"'{name}' is not finite: {value}"
