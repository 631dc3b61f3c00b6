"""The learning rate schedule: a linear warm-up, then a constant or half a cosine."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class WarmUp(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Raises the learning rate linearly from 0, then holds it or lets it fall to 0 along half a cosine.

    Args:
        peak: Highest learning rate.
        warmup_steps: Length of the rise.
        total_steps: Where the cosine ends; None: the rate stays at `peak`.
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int | None) -> None:
        super().__init__()
        self.peak, self.warmup_steps, self.total_steps = peak, warmup_steps, total_steps

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        rate = self.peak * ops.minimum(1.0, (step + 1.0) / max(1, self.warmup_steps))
        if self.total_steps is None:
            return rate
        length = max(1, self.total_steps - self.warmup_steps)
        progress = ops.clip((step - self.warmup_steps) / length, 0.0, 1.0)
        return rate * 0.5 * (1.0 + ops.cos(progress * 3.141592653589793))

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "total_steps": self.total_steps}
