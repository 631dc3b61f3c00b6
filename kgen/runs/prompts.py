"""Which prompts a run renders images of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kgen.config import RunConfig
from kgen.contracts.dataset import Dataset

MAX_PROMPTS = 16
"""Of a grid."""


def prompts_to_generate(config: RunConfig, dataset: Dataset) -> list[str]:
    """The prompts of a run's grids: those configured, else some of the dataset's, held-out ones last.

    Where the dataset has a single caption, it stands there as often as there is room, for as many different images.
    """
    if config.sample.prompts is not None:
        return list(config.sample.prompts)
    held = dataset.prompts("holdout")[: MAX_PROMPTS // 4]
    seen = dataset.prompts("train")
    if len({*seen, *held}) == 1:
        return seen * MAX_PROMPTS
    return spread(seen, MAX_PROMPTS - len(held)) + held


def spread(items: Sequence[str], count: int) -> list[str]:
    """At most `count` items, evenly taken from the whole list."""
    if len(items) <= count:
        return list(items)
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, count)]
