"""The batches of a dataset do not depend on the number of workers, nor on an interruption."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from kgen.contracts.dataset import Dataset
from kgen.data import loader as loading
from kgen.data.loader import Loader
from kgen.data.reading.workers import Workers


class Texts:
    """Reads the captions as an encoder does, and keeps them as they are."""

    fields = ("caption",)

    def tokenize(self, captions: Sequence[str]) -> dict[str, np.ndarray]:
        return {"text": np.array(captions)}


def check_batches(dataset: Dataset, batch_size: int, steps: int, *, flip: bool = False) -> None:
    """Compares images, captions and their order with 0, 1 and 2 workers, from the first step and from a later one."""

    def batches(count: int, start: int = 0) -> list[list[tuple[bytes, str]]]:
        workers = Workers(dataset, count) if count else None
        loader = Loader(dataset, Texts(), batch_size=batch_size, flip=flip, workers=workers)  # type: ignore[arg-type]
        found = list(itertools.islice(loader.training(start=start, seed=3), steps - start))
        loader.close()
        images = [[image.tobytes() for image in batch["image"]] for batch in found]
        texts = [batch["tokens"]["text"].tolist() for batch in found]
        return [list(zip(*pair, strict=True)) for pair in zip(images, texts, strict=True)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "MEMORY_LIMIT", 0)  # every visit reads the image
        whole = batches(0)
        count = len(dataset.captions("train")) * (2 if flip else 1)
        assert batch_size * steps > 1.5 * count  # more than a pass
        assert len({example for batch in whole for example in batch}) == count
        middle = steps // 2
        assert batches(1) == whole
        assert batches(2) == whole
        assert batches(2, start=middle) == whole[middle:]
