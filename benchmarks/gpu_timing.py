"""Sizes and clocks of `gpu.py`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

AT_START = 0.5
"""The share of a section's time after which no further block of training steps begins."""


@dataclass(frozen=True)
class Sizes:
    """What is measured. `width`, `depth`, `heads` are those of the transformers; `unet` is the U-Net's width."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    unet: int = 128
    batch: int = 128
    block: int = 10
    blocks: int = 20
    sampling_steps: int = 50
    samples: int = 64
    sides: tuple[int, ...] = (16, 32)
    nar_steps: int = 12
    token_samples: int = 16
    matrix: int = 8192
    images: int = 4000
    pixels: int = 64


TINY = Sizes(32, 1, 1, 32, 2, 1, 2, 2, 2, (2, 4), 2, 2, 64, 16, 32)


class Blocks:
    """Times blocks of steps until there are enough of them, or the time is over.

    Args:
        sizes: The number of steps in a block, and of blocks.
        deadline: The time after which no block begins, as `time.monotonic` counts it.
        warm_up: Number of blocks that are not counted.
    """

    def __init__(self, sizes: Sizes, deadline: float, warm_up: int = 1) -> None:
        self.sizes, self.deadline, self.warm_up = sizes, deadline, warm_up
        self.seconds: list[float] = []
        self.began = time.perf_counter()

    def end(self) -> bool:
        """Ends a block; the device has no work left. Returns whether there is time for another one."""
        now = time.perf_counter()
        self.seconds.append(now - self.began)
        self.began = now
        enough = len(self.seconds) >= self.warm_up + self.sizes.blocks
        return not enough and (time.monotonic() < self.deadline or len(self.seconds) <= self.warm_up)

    def result(self, items: int) -> dict[str, Any]:
        """The items per second, for `items` in a block, and the numbers of steps."""
        counted = self.seconds[self.warm_up :]
        rate = items / statistics.median(counted)
        block = self.sizes.block
        return {"per second": rate, "warm-up": self.warm_up * block, "steps": len(counted) * block}


def repeated(job: Callable[[], object], sizes: Sizes, deadline: float) -> dict[str, Any]:
    """Times a job that is a block by itself, such as the sampling of a batch."""
    one = Sizes(block=1, blocks=sizes.blocks)
    blocks = Blocks(one, deadline)
    while True:
        job()
        if not blocks.end():
            return blocks.result(1)
