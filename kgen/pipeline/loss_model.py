"""The base class of trained models, whose `call` returns losses per example."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from kgen.backend.devices import compile_training, shared_batch
from kgen.backend.gradients import densify
from kgen.backend.replicas import loggable, replica_count, sum_over_replicas
from kgen.backend.shapes import by_shape
from kgen.backend.steps import accumulation
from kgen.backend.steps.execution import one_step_per_execution, several_steps
from kgen.backend.steps.micro_batch import MicroBatch
from kgen.backend.steps.rematerialization import rematerializing
from kgen.errors import ConfigError
from kgen.nn import RematLayer
from kgen.pipeline.levels import HasLossAxis, LossCurve, recording

Tensor = Any

LEVELS = "levels"
"""The key of recorded levels and losses (`kgen.pipeline.levels`) in what `call` returns in training."""

WEIGHT = "weight"
"""The key of the weights (B,) of the examples in a batch, if the weights are not all equal."""


class LossModel(keras.Model):  # type: ignore[misc]
    """A Keras model whose `call` returns a dict of losses (B,): "loss" is minimized, the others are reported.

    The mean over the examples is minimized and reported. Examples may have weights that are not negative: Keras's
    `sample_weight` (B,), or "weight" in the batch. An example of weight 0 does not count. Losses that layers add
    (`add_loss`, regularizers) are minimized, too.

    A subclass creates all weights in ``__init__`` or ``build``, and then calls `track`. Its `call` computes the losses
    of its part by `losses_of`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.set_untracked("gradient_accumulation", 1)
        self.set_untracked("remat", False)
        self.trackers: dict[str, keras.metrics.Mean] = {}
        self.loss_curve: LossCurve | None = None

    def set_untracked(self, name: str, value: Any) -> None:
        """Sets an attribute that Keras must neither track nor wrap."""
        object.__setattr__(self, name, value)

    def track(self, losses: dict[str, Tensor], owner: object) -> None:
        """Creates a tracker for each of the losses of `owner`, with "loss" first, and its curve of losses by level."""
        if "loss" not in losses:
            raise ValueError(f"{type(owner).__name__}.compute_losses must return 'loss', not {sorted(losses)}")
        names = ["loss", *(name for name in losses if name != "loss")]
        self.trackers = {name: keras.metrics.Mean(name) for name in names}
        if isinstance(owner, HasLossAxis) and owner.loss_axis is not None:
            self.loss_curve = LossCurve(owner.loss_axis)

    def losses_of(self, part: Any, *inputs: Any, training: bool) -> dict[str, Tensor]:
        """The losses of a part (`compute_losses`); in training also the levels that it records, under `LEVELS`."""
        if not training or self.loss_curve is None:
            return part.compute_losses(*inputs, training=training)  # type: ignore[no-any-return]
        with recording() as recorded:
            losses = part.compute_losses(*inputs, training=training)
        return {**losses, LEVELS: recorded}

    @property
    def training_variables(self) -> list[Any]:
        """All variables that the training starts from or changes, except those of the optimizer."""
        return list(self.variables)

    @property
    def metrics(self) -> list[Any]:
        """All metrics except Keras's own tracker of the loss, which ignores the weights of examples."""
        return [metric for metric in super().metrics if metric is not getattr(self, "_loss_tracker", None)]

    def compile(
        self,
        optimizer: Any = "adamw",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        jit_compile: bool | str = "auto",
        *,
        gradient_accumulation: int = 1,
        remat: bool = False,
        steps_per_execution: int = 1,
        **kwargs: Any,
    ) -> None:
        """Compiles as in Keras, but without losses and metrics, and creates the optimizer's variables immediately.

        Args:
            optimizer: As in Keras.
            loss, loss_weights, metrics, weighted_metrics: None, because the parts define the losses.
            jit_compile: As in Keras. With "auto", XLA compiles the training step only where that is faster, which
                excludes TensorFlow on a CPU.
            gradient_accumulation: Number of micro-batches into which `fit` divides each batch. The sum of their
                gradients, which is the gradient of the whole batch, then updates the weights, in one step. The memory
                for activations is that of a micro-batch. A batch must have a multiple of this number of examples on
                each device.
            remat: Whether `fit` computes the activations inside of every `kgen.nn.RematLayer` again for its gradient,
                instead of keeping them.
            steps_per_execution: Number of training steps in one call of the training function, after which `fit` calls
                its callbacks; as in Keras, but on all backends, and with the same weights. On JAX, the steps are a loop
                in one compiled program. Evaluations still take one batch per call.
            **kwargs: As in Keras.

        Raises:
            ConfigError: a loss or metrics are given; `gradient_accumulation` or `steps_per_execution` is not a
                positive whole number; or no trained part has a `RematLayer`.
        """
        given = {"loss": loss, "loss_weights": loss_weights, "metrics": metrics, "weighted_metrics": weighted_metrics}
        if found := [name for name, value in given.items() if value is not None]:
            raise ConfigError(
                f"compile takes no {' and no '.join(found)}: {type(self).__name__} minimizes 'loss' of its part's "
                "compute_losses, and reports whatever else that returns. Leave it out; to change the loss, set the "
                "part's options, or override compute_losses"
            )
        counts = {"gradient_accumulation": gradient_accumulation, "steps_per_execution": steps_per_execution}
        for name, count in counts.items():
            if type(count) is not int or count < 1:
                raise ConfigError(f"{name} must be a positive whole number, not {count!r}")
        if remat and not any(isinstance(layer, RematLayer) and layer.trainable for layer in self._flatten_layers()):
            raise ConfigError(
                "remat: no part that is trained has a layer that can be computed again (kgen.nn.RematLayer): leave it "
                "out"
            )
        self.set_untracked("gradient_accumulation", gradient_accumulation)
        self.set_untracked("remat", bool(remat))
        if jit_compile == "auto" and not compile_training():
            jit_compile = False
        super().compile(optimizer=optimizer, jit_compile=jit_compile, steps_per_execution=steps_per_execution, **kwargs)
        densify(self.optimizer)
        self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, *args: Any, sample_weight: Any = None, class_weight: Any = None, **kwargs: Any) -> Any:
        """Trains as in Keras, but without classes.

        Raises:
            ConfigError: `class_weight` is given, or `sample_weight` is given without a batch of arrays.
        """
        _refuse_classes(class_weight)
        batch = _filled(_weighted(x, sample_weight), self.gradient_accumulation)
        return super().fit(batch, *args, **kwargs)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Evaluates as in Keras. Raises ConfigError if `sample_weight` is given without a batch of arrays."""
        with one_step_per_execution(self):
            return super().evaluate(_filled(_weighted(x, sample_weight)), y, batch_size, verbose, **kwargs)

    def train_on_batch(self, *args: Any, class_weight: Any = None, **kwargs: Any) -> Any:
        """Trains one step, like `fit`."""
        _refuse_classes(class_weight)
        return super().train_on_batch(*args, **kwargs)

    def train_step(self, *arguments: Any) -> Any:
        """Trains one step, as in Keras, or in micro-batches."""
        with rematerializing(self.remat):
            if self.gradient_accumulation == 1:
                return super().train_step(*arguments)
            return accumulation.train_step(self, self.share, self.gradient_accumulation, *arguments)

    def make_train_function(self, force: bool = False) -> None:
        """Makes the training function. Unlike Keras's, it compiles one program for each shape of a batch."""
        if force or self.train_function is None:  # type: ignore[has-type]
            with one_step_per_execution(self):  # Keras refuses several on PyTorch
                super().make_train_function(force)
            whole = self.train_function  # type: ignore[has-type]
            if self.gradient_accumulation > 1 and keras.backend.backend() == "tensorflow":
                one = accumulation.train_function(self, self.share, self.gradient_accumulation)
            else:
                one = by_shape(self, whole, self.train_step)
            self.train_function = several_steps(self, one)

    def make_test_function(self, force: bool = False) -> None:
        """Makes the test function. Unlike Keras's, it compiles one program for each shape of a batch."""
        if force or self.test_function is None:  # type: ignore[has-type]
            with one_step_per_execution(self):
                super().make_test_function(force)
            whole = self.test_function  # type: ignore[has-type]
            self.test_function = by_shape(self, whole, self.test_step)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Does nothing: all layers are built, and Keras's method fails on dicts under MultiWorkerMirroredStrategy."""

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        """Reduces the losses per example. This is the only place that averages over the batch and over replicas."""
        if y is not None:
            raise ConfigError(f"{type(self).__name__} has no targets: a batch contains all inputs, so leave y out")
        weight = _weight(x, sample_weight)
        for name, tracker in self.trackers.items():
            tracker.update_state(y_pred[name], sample_weight=weight)
        if self.loss_curve is not None and LEVELS in y_pred:
            self.loss_curve.update_state(y_pred[LEVELS], weight)
        added = sum((self._aggregate_additional_loss(loss) for loss in self.losses), 0.0) / replica_count()
        if weight is None and replica_count() == 1:
            return ops.mean(y_pred["loss"]) + added
        if weight is None:
            weight = ops.ones_like(y_pred["loss"])
        # replicas may have unequal shares of the batch, or none
        total = ops.maximum(sum_over_replicas(ops.sum(weight)), keras.config.epsilon())
        return ops.sum(weight * y_pred["loss"]) / total + added

    def share(self, batch: Any, sample_weight: Any, micro_batch: MicroBatch) -> Tensor | float:
        """A micro-batch's share of the weights of a batch's examples, and thus of the loss of the batch."""
        weight = _weight(batch, sample_weight)
        if weight is None:
            return 1.0 / micro_batch.count
        total = ops.maximum(sum_over_replicas(ops.sum(weight)), keras.config.epsilon())
        return sum_over_replicas(ops.sum(micro_batch.rows(weight))) / total

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Tensor]:
        return loggable(super().compute_metrics(x, y, y_pred, sample_weight))


def _weighted(batch: Any, sample_weight: Any) -> Any:
    """Puts weights of examples into the batch, because Keras drops them if there are no targets."""
    if sample_weight is None:
        return batch
    if not isinstance(batch, dict):
        raise ConfigError(f"sample_weight needs a batch of arrays; other batches hold their weights as '{WEIGHT}' (B,)")
    return {**batch, WEIGHT: sample_weight}


def _filled(batch: Any, micro_batches: int = 1) -> Any:
    """Pads arrays so that the rows, also of the last batch, divide evenly among devices and micro-batches.

    Padding has weight 0.
    """
    if not isinstance(batch, dict):
        return batch
    count = len(keras.tree.flatten(batch)[0])
    if not count or (size := shared_batch(-(-count // micro_batches)) * micro_batches) == count:
        return batch
    batch = {WEIGHT: np.ones(count, np.float32), **batch}
    rows = np.arange(size)
    filled = keras.tree.map_structure(lambda array: np.asarray(array)[rows % count], batch)
    return {**filled, WEIGHT: np.where(rows < count, filled[WEIGHT], 0.0).astype(np.float32)}


def _weight(batch: Any, sample_weight: Any) -> Tensor | None:
    """The weights (B,) of a batch's examples, float32; None if all are equal."""
    weight = batch.get(WEIGHT) if isinstance(batch, dict) else None
    if sample_weight is not None:
        weight = sample_weight if weight is None else ops.cast(weight, "float32") * ops.cast(sample_weight, "float32")
    if weight is None:
        return None
    if len(weight.shape) != 1:
        raise ConfigError(f"the weights of examples must be one number per example, (B,), not {tuple(weight.shape)}")
    return ops.cast(weight, "float32")


def _refuse_classes(class_weight: Any) -> None:
    if class_weight is not None:
        raise ConfigError("class_weight: there are no classes here; give sample_weight, one number per example")
