"""Space-to-depth rearrangement of pixels, and its inverse."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from keras import ops

from kgen_plugin_realnvp.bijections.base import Bijection, Condition, Shape, Tensor


def squeeze(x: Any, factor: int, module: ModuleType = ops) -> Any:
    """(B, H, W, C) -> (B, H/f, W/f, f*f*C), with channels ordered by row, column and channel of the square."""
    _, height, width, channels = x.shape
    rows, columns = height // factor, width // factor
    x = module.reshape(x, (-1, rows, factor, columns, factor, channels))
    x = module.transpose(x, (0, 1, 3, 2, 4, 5))  # (B, H/f, W/f, f, f, C)
    return module.reshape(x, (-1, rows, columns, factor * factor * channels))


def unsqueeze(x: Tensor, factor: int) -> Tensor:
    """(B, H, W, f*f*C) -> (B, H*f, W*f, C), the inverse of `squeeze`."""
    _, rows, columns, channels = x.shape
    channels //= factor * factor
    x = ops.reshape(x, (-1, rows, columns, factor, factor, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # (B, H, f, W, f, C)
    return ops.reshape(x, (-1, rows * factor, columns * factor, channels))


class Squeeze(Bijection):
    """`squeeze` as a bijection (Dinh et al. 2017, section 3.6). It only rearranges x.

    Args:
        factor: Height and width of a square of pixels.
    """

    def __init__(self, factor: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def compute_output_shape(self, x_shape: Shape) -> Shape:
        batch, height, width, channels = x_shape
        return batch, height // self.factor, width // self.factor, channels * self.factor**2

    def call(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        return squeeze(x, self.factor), ops.zeros(())

    def inverse(self, y: Tensor, condition: Condition) -> Tensor:
        return unsqueeze(y, self.factor)


class Unsqueeze(Bijection):
    """`unsqueeze` as a bijection, the inverse of `Squeeze`.

    Args:
        factor: Height and width of a square of pixels.
    """

    def __init__(self, factor: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def compute_output_shape(self, x_shape: Shape) -> Shape:
        batch, height, width, channels = x_shape
        return batch, height * self.factor, width * self.factor, channels // self.factor**2

    def call(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        return unsqueeze(x, self.factor), ops.zeros(())

    def inverse(self, y: Tensor, condition: Condition) -> Tensor:
        return squeeze(y, self.factor)
