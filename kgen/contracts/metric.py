"""The contract of a metric of generated images."""

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
        requires: The dataset class that the metric needs; None: any dataset.
        headline: The name of the main number, for places that show only one; None: the first that is returned.
        better: Whether higher or lower numbers are better, if that holds for all of them; None: it is not known.
    """

    arguments: ClassVar[Mapping[str, Arguments]] = {"__init__": Arguments(reserved=frozenset({"name"}))}

    requires: ClassVar[type[Any] | None] = None
    headline: ClassVar[str | None] = None
    better: ClassVar[Literal["higher", "lower"] | None] = None

    def caveats(self, dataset: Dataset) -> Sequence[str]:
        """Sentences about the dataset that a reader of the scores must know. Default: none."""
        return ()

    @abstractmethod
    def __call__(
        self, images: np.ndarray, prompts: Sequence[str], split: Split, dataset: Dataset
    ) -> Mapping[str, float]:
        """Scores N images.

        Args:
            images: uint8 (N, height, width, channels).
            prompts: N texts.
            split: The split of the prompts: "train" (seen in training) or "holdout".
            dataset: The dataset that the pipeline was trained on.

        Returns:
            Named numbers.
        """
