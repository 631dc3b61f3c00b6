"""Several devices on JAX: keras.distribution, on the devices of one process or of several."""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from kgen.backend.variables import copied
from kgen.errors import ConfigError
from kgen.training.averages import inner_optimizer
from kgen.training.distribution.base import Distribution
from kgen.training.distribution.environment import jax_process
from kgen.training.distribution.meeting import meet

Mesh = Callable[[Sequence[str]], Any]
"""Makes a `keras.distribution` of devices."""

MIN_SPLIT = 2**16
"""The least number of values of a weight that `FullySharded` splits. For smaller ones, the communication between the
devices would cost more than the memory that it saves."""

LOST = re.compile(r"Gloo|NCCL|coordination service|UNAVAILABLE|ABORTED|DEADLINE_EXCEEDED")
"""What JAX's errors contain if another process has ended."""

SHUTDOWN = 20
"""Seconds in which all processes end after the first one."""


class FullySharded(keras.distribution.ModelParallel):  # type: ignore[misc]
    """Splits every batch over all devices, and every large weight, too, with its moments and averages (FSDP, ZeRO-3).

    Each device thus holds an equal part of what the training needs besides activations. XLA gathers a weight where a
    layer needs it, and sums the gradients of each part where it is held, so that the result is that of one device. See
    Rajbhandari et al. 2020, section 5.3. The layout of a weight follows from its shape, for any network.

    Args:
        devices: The names of the devices.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        mesh = keras.distribution.DeviceMesh((len(devices),), ["batch"], list(devices))
        super().__init__(layout_map=keras.distribution.LayoutMap(mesh), auto_shard_dataset=False)

    def get_variable_layout(self, variable: Any) -> Any:
        """The layout of a variable: its largest axis is split if it can be, or else each device holds a copy."""
        axes: list[str | None] = [None] * len(variable.shape)
        if (axis := split_axis(variable.shape, self.num_model_replicas)) is not None:
            axes[axis] = self.batch_dim_name
        return keras.distribution.TensorLayout(axes, self.device_mesh)


def split_axis(shape: Sequence[int], devices: int) -> int | None:
    """The axis along which a weight is split evenly: the largest that can be, and the last of equal ones; None: none.

    None also stands for a weight of fewer than `MIN_SPLIT` values.
    """
    axes = [axis for axis, size in enumerate(shape) if size % devices == 0]
    return max(axes, key=lambda axis: (shape[axis], axis)) if axes and math.prod(shape) >= MIN_SPLIT else None


@dataclass(frozen=True)
class MeshWorkers(Distribution):
    """One of several processes of JAX.

    Outside of a training, the variables are on the devices of this process, which computes by itself. In a training,
    all processes compute the same programs, on variables that all of their devices share.

    Args:
        own: The `keras.distribution` of the devices of this process, which holds outside of a training.
        joint: That of the devices of all processes.
    """

    own: Any = field(kw_only=True)
    joint: Any = field(kw_only=True)
    _flags: list[Any] = field(default_factory=list)

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        with super().connected():
            yield
            self.wait()  # JAX ends the other processes if this one ends much earlier

    def is_lost(self, error: Exception) -> bool:
        import jax

        return isinstance(error, jax.errors.JaxRuntimeError | ValueError) and LOST.search(str(error)) is not None

    def wait(self) -> None:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("kgen")

    def any(self, flag: bool) -> bool:
        """Whether any worker had the flag in the last call. The answer of this call would have to wait for the step
        that the devices are computing.
        """
        import jax

        rows = self.joint.get_data_layout((self.replicas,)).backend_layout
        flags = jax.make_array_from_process_local_data(rows, np.full(self.replicas // self.workers, flag))
        before = [bool(value) for value in self._flags]
        self._flags[:] = [jax.jit(jax.numpy.any)(flags)]
        return any(before)

    @contextlib.contextmanager
    def joined(self, model: Any) -> Iterator[None]:
        """Moves the variables to the devices of all processes, and the weights and averages back after the block."""
        optimizer, metrics = list(model.optimizer.variables), list(model.metrics_variables)
        weights, averages = list(model.variables), getattr(inner_optimizer(model), "kept_averages", [])
        try:
            self._move([*weights, *optimizer, *metrics], self.joint)
            yield
        finally:
            keras.distribution.set_distribution(self.own)
        self._move([*weights, *metrics, *(average for group in averages for average in group)], self.own)

    def alone(self, function: Callable[..., None], model: Any) -> Callable[..., None] | None:
        """All workers take part, because each may hold a part of a weight. Only worker 0 then calls the function."""

        def call(*arguments: Any) -> None:
            with self._apart(model):
                if self.is_chief:
                    function(*arguments)

        return call

    @contextlib.contextmanager
    def _apart(self, model: Any) -> Iterator[None]:
        """The block in which the devices of this process have copies of the weights of a model."""
        variables = list(model.variables)
        before = [(variable._layout, variable._value) for variable in variables]
        self._move(variables, self.own)
        try:
            yield
        finally:
            keras.distribution.set_distribution(self.joint)
            for variable, (layout, value) in zip(variables, before, strict=True):
                variable._layout, variable._value = layout, value

    def _move(self, variables: Sequence[Any], distribution: Any) -> None:
        """Moves variables to the devices of a `keras.distribution`, which holds then."""
        import jax

        for variable in {id(variable): variable for variable in variables}.values():
            array = copied(variable)
            variable._layout = None
            variable._layout = distribution.get_variable_layout(variable)
            layout = variable._layout.backend_layout
            if layout.is_fully_addressable:
                variable.assign(array)
            else:  # without JAX's comparison of the values of all processes
                variable.assign(jax.make_array_from_callback(array.shape, layout, lambda index, a=array: a[index]))
        keras.distribution.set_distribution(distribution)


def data_parallel() -> Distribution:
    """The devices of this process, or of several, each with a copy of the weights."""
    return _open(lambda devices: keras.distribution.DataParallel(devices=list(devices), auto_shard_dataset=False))


def model_parallel() -> Distribution:
    """The devices of this process, or of several, each with a part of the weights."""
    return _open(FullySharded)


def _open(mesh: Mesh) -> Distribution:
    """Connects the processes, if there are several. Raises ConfigError if one is missing."""
    process = jax_process()
    if process is None:
        devices = keras.distribution.list_devices()
        keras.distribution.set_distribution(mesh(devices))
        return Distribution(replicas=len(devices))
    import jax

    if not jax.distributed.is_initialized():  # an earlier run of this process may have done it
        meet(process)
        jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from `StopSignals`
        jax.distributed.initialize(process.address, process.count, process.index, shutdown_timeout_seconds=SHUTDOWN)
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    counts = Counter(device.process_index for device in devices)
    if len(set(counts.values())) > 1:
        raise ConfigError(
            f"distribute: all processes must have the same number of devices, but theirs are {[*counts.values()]}"
        )
    own, joint = (
        mesh([f"{device.platform}:{device.id}" for device in devices if device.process_index in indices])
        for indices in ([process.index], range(process.count))
    )
    keras.distribution.set_distribution(own)
    return MeshWorkers(None, len(devices), process.index, process.count, own=own, joint=joint)
