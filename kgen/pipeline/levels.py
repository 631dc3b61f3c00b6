"""The loss by level: by noise level for a model that removes noise, by position for a model of tokens.

A part that is trained (a generator or a decoder) can report at which level it has computed a loss. It then has an
attribute `loss_axis`, and its `compute_losses` calls `record_levels`::

    loss_axis = kgen.LossAxis("t", 0.0, 1.0)

    def compute_losses(self, x, condition, training):
        t = ...
        kgen.record_levels(t, error)  # (B,) each
        return {"loss": error}

`fit` sums the losses up in equal parts of the axis, in the training step. `metrics.csv` has a column for each part, and
the report plots the curve. The axis may also be a property, if it depends on options.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np
from keras import ops

from kgen.backend.variables import copied

Tensor = Any

COLUMN = re.compile(r"loss_(\w+)_([^_]+)\.\.([^_]+)")
"""The form of the name of a column: "loss_t_0.1..0.2"."""


@dataclass(frozen=True)
class LossAxis:
    """The axis of a curve of losses by level.

    Args:
        name: The name of the level, which columns of `metrics.csv` contain: letters, digits and underscores.
        low, high: Its range. Levels outside of it count as the nearest end.
        parts: Number of equal parts of the range.

    Raises:
        ValueError: the name has other characters, the range is empty, or there is no part.
    """

    name: str
    low: float
    high: float
    parts: int = 10

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w+", self.name):
            raise ValueError(f"the name of a level consists of letters, digits and underscores, unlike {self.name!r}")
        if not self.low < self.high or self.parts < 1:
            raise ValueError(f"an axis needs a range and parts of it, not {self}")

    def columns(self) -> list[str]:
        """The name of the column of each part, such as "loss_t_0.1..0.2"."""
        ends = [f"{end:.6g}" for end in np.linspace(self.low, self.high, self.parts + 1)]
        return [f"loss_{self.name}_{low}..{high}" for low, high in itertools.pairwise(ends)]


@runtime_checkable
class HasLossAxis(Protocol):
    """A generator, or a decoder, whose `compute_losses` calls `record_levels`.

    Attributes:
        loss_axis: The axis of its levels; None: it records none, with these options.
    """

    loss_axis: LossAxis | None


Recorded = list[tuple[Tensor, Tensor]]

_recording: ContextVar[Recorded | None] = ContextVar("recorded_levels", default=None)


def record_levels(levels: Tensor, losses: Tensor) -> None:
    """Reports the levels at which losses were computed. It has an effect only in a training step.

    Args:
        levels: Numbers of any type, which can be broadcast to the shape of `losses`.
        losses: The losses (B,) of the examples; or (B, N), several of each example, such as those of N tokens.
    """
    recorded = _recording.get()
    if recorded is not None:
        losses = ops.stop_gradient(ops.cast(losses, "float32"))
        recorded.append((ops.broadcast_to(ops.cast(levels, "float32"), ops.shape(losses)), losses))


@contextmanager
def recording() -> Iterator[Recorded]:
    """Yields the list to which `record_levels` adds pairs of levels and losses in the block."""
    recorded: Recorded = []
    token = _recording.set(recorded)
    try:
        yield recorded
    finally:
        _recording.reset(token)


class LossCurve(keras.metrics.Metric):  # type: ignore[misc]
    """The mean loss in each part of an axis, since the last reset.

    Args:
        axis: The axis.
    """

    def __init__(self, axis: LossAxis) -> None:
        super().__init__(name="loss_curve")
        self.axis = axis
        self.total = self.add_variable(shape=(axis.parts,), initializer="zeros", name="total")
        self.count = self.add_variable(shape=(axis.parts,), initializer="zeros", name="count")

    def update_state(self, recorded: Recorded, sample_weight: Tensor | None = None) -> None:
        """Adds losses.

        Args:
            recorded: Pairs of levels and losses, (B,) or (B, N) each.
            sample_weight: (B,), the weights of the examples; None: they are equal.
        """
        for levels, losses in recorded:
            place = (levels - self.axis.low) * (self.axis.parts / (self.axis.high - self.axis.low))
            place = ops.cast(ops.clip(ops.floor(place), 0, self.axis.parts - 1), "int32")
            share = ops.one_hot(place, self.axis.parts, dtype="float32")  # (B, parts) or (B, N, parts)
            if sample_weight is not None:
                share = share * ops.reshape(sample_weight, (-1, *(1 for _ in share.shape[1:])))
            axes = tuple(range(len(share.shape) - 1))
            self.total.assign_add(ops.sum(share * losses[..., None], axis=axes))
            self.count.assign_add(ops.sum(share, axis=axes))

    def result(self) -> dict[str, Tensor]:
        """Nothing: Keras shows results after each step, and the curve is only read now and then (`means`)."""
        return {}

    def means(self) -> dict[str, float]:
        """The mean loss in each part of the axis by the name of its column, without the parts that have no loss."""
        total, count = copied(self.total), copied(self.count)
        found = zip(self.axis.columns(), total, count, strict=True)
        return {column: float(sum_of / number) for column, sum_of, number in found if number > 0}


def read_columns(columns: Sequence[str]) -> dict[str, dict[str, tuple[float, float]]]:
    """The curves in the columns of a table: for each name of a level, the range of each of its columns."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for column in columns:
        if match := COLUMN.fullmatch(column):
            found.setdefault(match[1], {})[column] = (float(match[2]), float(match[3]))
    return found
