"""The devices that train together, as one process sees them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from kgen.backend.stream import stream
from kgen.errors import ConfigError, RunError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Distribution:
    """The distribution of a run over the devices of one process. Its subclasses are for several processes (workers).

    Args:
        strategy: The tf.distribute strategy, if there is one.
        replicas: Number of devices that share a batch.
        worker, workers: Index of this process, and number of processes. Worker 0 writes the run directory.
    """

    strategy: Any = None
    replicas: int = 1
    worker: int = 0
    workers: int = 1

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """The scope for code that creates variables, and for `fit`."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    @property
    def is_chief(self) -> bool:
        return self.worker == 0

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Raises RunError if another worker ends in the block: what all compute together then fails in this one."""
        try:
            yield
        except Exception as error:
            if not self.is_lost(error):
                raise
            raise RunError(
                f"worker {self.worker} lost another one of the {self.workers} workers, which has ended or cannot be "
                f"reached ({type(error).__name__}): start all of them again to continue from the newest checkpoint"
            ) from error

    def is_lost(self, error: Exception) -> bool:
        """Whether an error says that another worker has ended."""
        return False

    def wait(self) -> None:
        """Waits until all workers have come here."""

    def any(self, flag: bool) -> bool:
        """Whether any of the workers has the flag, or had it in the last call. All workers must call it, and get the
        same answer.
        """
        return flag

    def by_chief(self, make: Callable[[], Result], load: Callable[[], Result]) -> Result:
        """The result of `make`, which worker 0 calls. The other workers wait until it has, and call `load`."""
        made = [make()] if self.is_chief else []
        self.wait()
        return made[0] if made else load()

    def joined(self, model: Any) -> contextlib.AbstractContextManager[None]:
        """The block in which all workers train a compiled model together."""
        return contextlib.nullcontext()

    def alone(self, function: Callable[..., None], model: Any) -> Callable[..., None] | None:
        """A function of worker 0 alone, which may use the weights of a model that all train; None: it has no part."""
        return function

    def check_batch(self, batch_size: int, micro_batches: int) -> None:
        """Raises ConfigError if devices and micro-batches cannot have equal parts of a batch."""
        if batch_size % self.replicas:
            raise ConfigError(f"fit.batch_size: {batch_size} must be a multiple of the {self.replicas} devices")
        if batch_size % (self.replicas * micro_batches):
            raise ConfigError(
                f"fit.batch_size: {batch_size} must be a multiple of {self.replicas * micro_batches}: "
                f"fit.gradient_accumulation divides it into {micro_batches} micro-batches"
                + (f" on each of {self.replicas} devices" if self.replicas > 1 else "")
            )

    def feed(self, batches: Any) -> Any:
        """The data for `fit`: each worker reads its part of every batch. Keras splits it among the worker's devices."""
        return stream(batches)
