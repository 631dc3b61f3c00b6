"""The contract of a measure of generated images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from kgen.contracts.dataset import Dataset, Split
from kgen.options import Arguments, Configurable


class Metric(Configurable, ABC):
    """Scores images against the prompts that they were generated from, and against the dataset.

    Attributes:
        requires: The dataset class without which the metric makes no sense; None: any dataset.
        headline: The name of the number that says most, where only one can be shown; None: the first that is returned.
        better: Whether higher or lower numbers are the better ones, where that holds for all of them; None: it is not
            said.
    """

    arguments: ClassVar[Mapping[str, Arguments]] = {"__init__": Arguments(reserved=frozenset({"name"}))}

    requires: ClassVar[type[Any] | None] = None
    headline: ClassVar[str | None] = None
    better: ClassVar[Literal["higher", "lower"] | None] = None

    def caveats(self, dataset: Dataset) -> Sequence[str]:
        """What a reader of the scores must know because of the dataset, a sentence each. Default: nothing."""
        return ()

    @abstractmethod
    def __call__(
        self, images: np.ndarray, prompts: Sequence[str], split: Split, dataset: Dataset
    ) -> Mapping[str, float]:
        """Scores N images.

        Args:
            images: uint8 (N, height, width, channels).
            prompts: N texts.
            split: Where the prompts come from: "train" (seen in training) or "holdout".
            dataset: What the pipeline was trained on.

        Returns:
            Named numbers.
        """
