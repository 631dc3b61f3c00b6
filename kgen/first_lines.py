"""What a run says of its data before it trains."""

from __future__ import annotations

from collections.abc import Iterator

from kgen.assembly import component_id
from kgen.components.dataset import Dataset
from kgen.components.encoder import Encoder
from kgen.config import RunConfig
from kgen.inputs import all_captions
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


def unread_captions(dataset: Dataset, encoder: Encoder) -> Iterator[str]:
    """How many captions the encoder does not read whole, with an example; nothing where it reads all."""
    captions = all_captions(dataset)
    unread = [(caption, what) for caption in captions if (what := encoder.unread(caption))]
    if unread:
        caption, what = unread[0]
        yield (
            f"{len(unread):,} of {len(captions):,} different captions are not read whole by encoder "
            f"'{component_id('encoder', encoder)}', such as '{caption[:80]}': {what}"
        )
