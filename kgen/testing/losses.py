"""Checks of losses: they are finite and per example, and every weight has a gradient."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from kgen.backend.devices import create_weights
from kgen.backend.precision import precision
from kgen.contracts.generator import Generator
from kgen.storage.paths import weight_paths
from kgen.storage.weights import load_variables, save_variables
from kgen.testing.bench import Bench, Benched
from kgen.testing.execution import (
    Descent,
    arrays,
    evaluate,
    outline,
    reseed,
    restore,
    rows,
    swap_first,
    tensors,
    values,
)
from kgen.testing.replicas import ReplicaTraining, copies, mirrored
from kgen.testing.state import check_names, check_seeds, check_tracked

Tensor = Any
Batch = dict[str, Any]

BATCH = 4

SAMPLES = 16
"""Number of noise samples per example, for the estimate of a typical loss."""

Check = Callable[[Any], None]


def where_trained(check: Check) -> Check:
    """Decorates a check of `compute_losses` so that it passes for a component that is not trained."""

    @wraps(check)
    def checked(self: LossConformance) -> None:
        if self.trains:
            check(self)

    return checked


class LossConformance(Benched):
    """Checks `compute_losses` of generators and of trained decoders."""

    fit_loss: ClassVar[str | None] = "loss"
    """The loss that must decrease in a short training; None if none does, as in adversarial training."""

    fit_steps: ClassVar[int] = 80
    """Number of steps of that training."""

    learning_rate: ClassVar[float] = 5e-3
    """Learning rate of Adam in that training."""

    fit_fall: ClassVar[float] = 0.1
    """Smallest decrease of the loss, as a share of its initial value."""

    no_gradient: ClassVar[tuple[str, ...]] = ()
    """Patterns of the paths of trainable weights that correctly have no gradient, such as ``*/codebook``."""

    neighbors: ClassVar[tuple[str, ...]] = ()
    """Losses of an example that correctly depend on other examples, for example because these supply a wrong text. On N
    replicas, such losses are equal only on average."""

    loss_tolerance: ClassVar[float] = 1e-4
    """Largest relative change of an example's loss with the other examples of the batch, from rounding."""

    replicas: ClassVar[bool] = True
    """Whether to train under two replicas, which takes long to trace. One of several similar classes is enough."""

    def loss_batch(self, component: Any, seed: int = 0) -> Batch:
        """Random arguments of `loss_of`, as arrays of `BATCH` examples."""
        raise NotImplementedError

    def loss_of(self, component: Any, batch: Batch, training: bool) -> Mapping[str, Tensor]:
        raise NotImplementedError

    def flat_batch(self, component: Any, level: float) -> Batch:
        """Arguments like those of `loss_batch`, but all data have one value, `level` in [-1, 1]."""
        raise NotImplementedError

    @property
    def trains(self) -> bool:
        """Whether the component implements `compute_losses`."""
        return True

    def ready(self) -> Any:
        """Returns a new component that has all its weights."""
        component = self.build()
        if isinstance(component, Generator):
            component.build_pretrained()
        batch = tensors(self.loss_batch(component))
        create_weights(self._function(component, training=False), batch)
        component.built = True
        return component

    def _function(self, component: Any, training: bool) -> Callable[[Batch], dict[str, Tensor]]:
        return lambda batch: dict(self.loss_of(component, batch, training))

    def _loss_tensors(self, bench: Bench, batch: Batch, training: bool) -> dict[str, Tensor]:
        """Losses of a batch of arrays, compiled once. Weights and seeds do not change.

        In training mode, the program that computes gradients computes them, because a class has it anyway.
        """
        if training:
            return self._descent(bench).losses(batch)
        return bench.program("losses", self._function(bench.component, training)).compute(batch)  # type: ignore[no-any-return]

    def _losses(self, bench: Bench, batch: Batch, training: bool) -> dict[str, np.ndarray]:
        return arrays(self._loss_tensors(bench, batch, training))  # type: ignore[no-any-return]

    def _descent(self, bench: Bench) -> Descent:
        return bench.descent(self._function(bench.component, training=True))

    @where_trained
    def test_losses_are_finite_and_per_example(self) -> None:
        bench = self.bench()
        for training in (False, True):
            batch = self.loss_batch(bench.component)
            _check_losses(self._loss_tensors(bench, batch, training), BATCH)
            function = self._function(bench.component, training)
            _check_losses(outline(bench.component, function, rows(batch, slice(0, 1))), 1)

    @where_trained
    def test_losses_of_flat_data_are_finite(self) -> None:
        """Checks losses and gradients for images of one color, also for the darkest and the brightest."""
        bench = self.bench(perturbed=True)
        for level in (-1.0, 0.0, 1.0):
            batch = self.flat_batch(bench.component, level)
            _check_losses(self._loss_tensors(bench, batch, True), BATCH)
            for path, gradient in self._descent(bench).gradients(batch).items():
                assert gradient is None or np.isfinite(gradient).all(), (
                    f"the gradient of weight {path} is not finite if all data are {level}"
                )

    @where_trained
    def test_losses_do_not_mix_examples(self) -> None:
        """Checks that losses are independent of other examples; else N replicas would differ from one device."""
        bench = self.bench(perturbed=True)
        batch = self.loss_batch(bench.component)
        changed = swap_first(batch, self.loss_batch(bench.component, seed=1))
        for training in (False, True):
            before, after = (self._losses(bench, b, training) for b in (batch, changed))
            assert not np.allclose(before["loss"][0], after["loss"][0], rtol=1e-6), (
                "'loss' of an example is the same for another example: it does not depend on the data"
            )
            for name in before.keys() - set(self.neighbors):
                np.testing.assert_allclose(
                    after[name][1:],
                    before[name][1:],
                    rtol=self.loss_tolerance,
                    atol=self.loss_tolerance,
                    err_msg=f"'{name}' (training={training}) changes with the other examples of the batch: return one "
                    f"number per example, without averaging over the batch",
                )

    @where_trained
    def test_every_weight_has_a_gradient(self) -> None:
        bench = self.bench(perturbed=True)
        check_gradients(self._descent(bench).gradients(self.loss_batch(bench.component)), self.no_gradient)

    @where_trained
    def test_no_weights_appear_late(self) -> None:
        """Checks that training creates no weights, because the optimizer knows only those that exist before."""
        bench = self.bench()
        outline(bench.component, self._function(bench.component, training=True), self.loss_batch(bench.component))
        assert len(bench.component.variables) == bench.count, (
            "compute_losses(training=True) creates weights: create them before"
        )

    def test_kgen_knows_its_weights_and_seeds(self) -> None:
        component = self.bench().component
        check_names(component)
        check_seeds(component)
        if self.trains:
            check_tracked(component, self._function(component, training=True), self.loss_batch(component))

    @where_trained
    def test_overfits_one_batch(self) -> None:
        bench = self.bench()
        if self.fit_loss is None or not bench.component.trainable_variables:
            return
        batch = self.loss_batch(bench.component)
        before = self._typical_loss(bench, batch)

        def fall() -> float:
            return before - self._typical_loss(bench, batch)

        reseed(bench.component, 1)
        enough = self.fit_fall * abs(before)
        fallen = self._descent(bench).fit(batch, self.fit_steps, self.learning_rate, lambda: fall() > enough)
        assert fallen, (
            f"'{self.fit_loss}' went from {before:.4g} to {before - fall():.4g} in {self.fit_steps} steps on one "
            f"batch: it must decrease by {self.fit_fall:.0%}; set fit_steps, learning_rate or fit_fall if that is too "
            f"much"
        )

    def _typical_loss(self, bench: Bench, batch: Batch) -> float:
        """The mean over many noise samples, which are the same in every call.

        For a loss that depends on the other examples, it is that of the batch alone: copies would be wrong neighbors.
        """
        samples = 1 if self.fit_loss in self.neighbors else SAMPLES
        many = rows(batch, np.tile(np.arange(BATCH), samples))
        before, found = values(bench.component), []
        for seed, part in enumerate(bench.portions(many, BATCH)):
            reseed(bench.component, seed)
            found.append(self._losses(bench, part, training=False)[str(self.fit_loss)])
        restore(before)
        return float(np.mean(np.concatenate(found)))

    @where_trained
    def test_two_replicas_train_in_step(self) -> None:
        """Checks that two replicas of tf.distribute have equal weights and state after some steps. TensorFlow only."""
        if keras.backend.backend() != "tensorflow" or not self.replicas:
            return
        batch = self.loss_batch(self.bench().component)
        random = self._is_random(batch)
        strategy = mirrored()
        with strategy.scope():
            component = self.ready()
            if not component.trainable_variables:
                return
            before = [np.array(variable) for variable in component.trainable_variables]
            halves = [rows(batch, half) for half in (slice(0, BATCH // 2), slice(BATCH // 2, BATCH))]
            try:
                training = ReplicaTraining(strategy, component, self._function(component, training=True))
                first, second = (losses["loss"] for losses in training.step([halves[0]] * 2, rate=1e-3))
                training.step(halves, rate=1e-3)
            except Exception as error:
                raise AssertionError(f"training fails under two replicas (tf.distribute): {error}") from error
        assert not random or not np.array_equal(first, second), (
            "'loss' is random, but uses the same numbers on both replicas: use kgen.SeedGenerator"
        )
        for variable in component.variables:
            first, second = copies(strategy, variable)
            assert np.isfinite(first).all(), f"{variable.path} is not finite after training under two replicas"
            np.testing.assert_array_equal(first, second, err_msg=f"{variable.path} differs between two replicas")
        after = component.trainable_variables
        assert any(not np.array_equal(old, new) for old, new in zip(before, after, strict=True)), (
            "training under two replicas changes no weight"
        )

    def _is_random(self, batch: Batch) -> bool:
        """Whether "loss" depends on seeds."""
        bench, found = self.bench(), []
        for seed in (1, 2):
            reseed(bench.component, seed)
            found.append(self._losses(bench, batch, training=True)["loss"])
        return not np.allclose(found[0], found[1], rtol=1e-6)

    @where_trained
    def test_frozen_weights_stay(self) -> None:
        """Checks that a frozen component changes none of its weights in training. TensorFlow only."""
        if keras.backend.backend() != "tensorflow":
            return
        component = self.ready()
        component.trainable = False
        weights = weight_paths(component, component.weights)
        before = {path: np.array(weight) for path, weight in weights.items()}
        self.loss_of(component, tensors(self.loss_batch(component)), True)
        changed = [path for path, weight in weights.items() if not np.array_equal(before[path], np.array(weight))]
        assert not changed, (
            f"compute_losses(training=True) changes the weights {changed} of a frozen component: a layer must assign "
            "to its weights only if self.trainable is True"
        )

    def test_weights_survive_a_file(self) -> None:
        bench = self.bench(perturbed=True)
        with tempfile.TemporaryDirectory() as folder:
            again = Bench(save_and_load(bench.component, self.ready(), Path(folder)))
        batch = self.loss_batch(bench.component)
        after, before = (self._loss_once(one, batch) for one in (again, bench))
        np.testing.assert_allclose(
            after,
            before,
            rtol=1e-5,
            atol=1e-6,
            err_msg="the component with the saved weights has other losses: it has state that is not a weight",
        )

    def _loss_once(self, bench: Bench, batch: Batch) -> np.ndarray:
        """The "loss" of a batch, computed without a program where that is cheaper."""
        reseed(bench.component, 0)
        return arrays(bench.evaluate("losses", self._function(bench.component, False), batch)["loss"])  # type: ignore[no-any-return]

    @where_trained
    def test_mixed_precision(self) -> None:
        """Checks that losses are float32 and finite under ``precision: mixed_bfloat16``."""
        with precision("mixed_bfloat16"):
            component = self.bench().component
            _check_losses(evaluate(component, self._function(component, True), self.loss_batch(component)), BATCH)


def save_and_load(source: keras.layers.Layer, target: keras.layers.Layer, folder: Path) -> keras.layers.Layer:
    """Copies the weights of a layer to another one of the same structure, through a file."""
    if source.weights:
        save_variables(folder / "weights.safetensors", weight_paths(source, source.weights), {})
        load_variables(folder / "weights.safetensors", weight_paths(target, target.weights))
    return target


def check_gradients(found: Mapping[str, np.ndarray | None], exempt: tuple[str, ...] = ()) -> None:
    """Checks that every gradient is finite, and not zero everywhere."""
    for path, gradient in found.items():
        assert gradient is None or np.isfinite(gradient).all(), f"the gradient of weight {path} is not finite"
    idle = [path for path, gradient in found.items() if gradient is None or not np.any(gradient)]
    idle = [path for path in idle if not any(fnmatch(path, pattern) for pattern in exempt)]
    assert not idle, f"'loss' does not depend on the trainable weights {idle}: use them, or do not create them"


def _check_losses(losses: Mapping[str, Tensor], count: int) -> None:
    assert "loss" in losses, f"compute_losses must return 'loss', which is minimized; it returned {sorted(losses)}"
    for name, value in losses.items():
        assert tuple(value.shape) == (count,), (
            f"'{name}' must be one number per example, ({count},), but has the shape {tuple(value.shape)}"
        )
        dtype = keras.backend.standardize_dtype(value.dtype)
        assert dtype == "float32", f"'{name}' must be float32, not {dtype}: cast before you reduce"
        known = ops.is_tensor(value)  # an outline on JAX has no values
        assert not known or np.isfinite(ops.convert_to_numpy(value)).all(), f"'{name}' is not finite: {value}"
