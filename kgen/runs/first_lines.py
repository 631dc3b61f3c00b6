"""The lines in which a run describes its data before it trains."""

from __future__ import annotations

from collections.abc import Iterator

from kgen.config import RunConfig
from kgen.contracts.dataset import SPLITS, Dataset
from kgen.contracts.encoder import Encoder
from kgen.contracts.inputs import AllEncoderInputs, are_texts, distinct
from kgen.plugins.discovery import component_id
from kgen.runs.scoring import open_metrics


def first_lines(config: RunConfig, dataset: Dataset, decoder_data: Dataset | None) -> Iterator[str]:
    """The number of images in each split, how they were read, what was skipped, and what to know of the metrics.

    Args:
        decoder_data: What the decoder's stage reads; None where there is no such stage.
    """
    train, validation, holdout = (len(dataset.captions(split)) for split in SPLITS)
    yield (
        f"{train:,} images of {dataset.image_space} to train on, {validation:,} in the validation split, "
        f"{holdout:,} held out"
    )
    yield from _how_read(dataset)
    if decoder_data is not None and decoder_data is not dataset:
        yield f"decoder.data: {len(decoder_data.captions('train')):,} images to train on"
        yield from (f"decoder.data: {line}" for line in _how_read(decoder_data))
    for metric in open_metrics(config, dataset).values():
        yield from metric.caveats(dataset)


def _how_read(dataset: Dataset) -> Iterator[str]:
    yield from dataset.notes()
    for problem in dataset.problems():
        yield f"skipped {problem.where}: {problem.what}"


def unread_captions(dataset: Dataset, encoder: Encoder) -> Iterator[str]:
    """How many captions the encoder does not read whole, with an example; nothing where it reads all."""
    for part in encoder.parts:
        inputs = AllEncoderInputs(dataset, part.fields)
        different = distinct(inputs) if are_texts(inputs) else {}
        unread = [(key, what) for key, row in different.items() if (what := part.unread(inputs[row]))]
        if unread:
            key, what = unread[0]
            yield (
                f"{len(unread):,} of {len(different):,} different captions are not read whole by encoder "
                f"'{component_id(part)}', such as '{key[:80]}': {what}"
            )
