"""What a run says of its data before it trains."""

from __future__ import annotations

from collections.abc import Iterator

from kgen.components.dataset import Dataset
from kgen.config import RunConfig
from kgen.scoring import open_metrics


def first_lines(config: RunConfig, dataset: Dataset) -> Iterator[str]:
    """The number of images in each split, how they were read, what was skipped, and what to know of the metrics."""
    train, validation, holdout = (len(dataset.captions(split)) for split in ("train", "validation", "holdout"))
    yield (
        f"{train:,} images of {dataset.image_space} to train on, {validation:,} in the validation split, "
        f"{holdout:,} held out"
    )
    yield from dataset.notes()
    for problem in dataset.problems():
        yield f"skipped {problem.where}: {problem.what}"
    for metric in open_metrics(config, dataset).values():
        yield from metric.caveats(dataset)
