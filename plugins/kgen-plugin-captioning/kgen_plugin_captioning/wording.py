"""Whether generated captions are correct."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from kgen import Dataset, GeneratedImages, Metric, Split
from kgen_plugin_captioning.captions import Captions
from kgen_plugin_captioning.letters import Letters


class Wording(Metric):
    """Compares the generated captions with those of the dataset: "exact" is the share of captions with all letters
    correct, "length" the share with the correct length, and "letters" the share of the correct captions' letters that
    are in their positions.
    """

    requires: ClassVar[type[Any] | None] = Captions

    def start(self, dataset: Dataset, split: Split) -> None:
        super().start(dataset, split)
        self._reader = Letters(dataset.image_space)

    def update(self, batch: GeneratedImages) -> None:
        for image, caption in zip(batch.images, batch.prompts, strict=True):
            exact, length, letters = _compare(self._reader.text_of(image), caption)
            self.add(exact=exact, length=length, letters=letters, count=1)

    def compute(self) -> Mapping[str, float]:
        return {name: float(self.sums[name] / self.sums["count"]) for name in ("exact", "length", "letters")}


def _compare(found: str, correct: str) -> tuple[float, float, float]:
    same = sum(one == other for one, other in zip(found, correct, strict=False))
    return float(found == correct), float(len(found) == len(correct)), same / len(correct)
