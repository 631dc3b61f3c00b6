"""The prompts of a run's images, which come from its run file or its dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from kgen.config import RunConfig
from kgen.contracts.dataset import Dataset, Split
from kgen.contracts.encoder import Encoder
from kgen.contracts.inputs import EncoderInputs, are_texts, distinct, require_fields
from kgen.pipeline.prompts import parse_prompts, shown

Item = TypeVar("Item")
Row = tuple[Split, int]

MAX_PROMPTS = 16
"""Largest number of prompts of a grid."""


@dataclass(frozen=True)
class Prompts:
    """Prompts for an encoder.

    Args:
        inputs: The inputs of the encoder.
        texts: A text for each input that people can read.
        source: The examples that the inputs come from, or the prompts that a user wrote.
    """

    inputs: Sequence[Any]
    texts: Sequence[str]
    source: Sequence[Row] | Written

    def __len__(self) -> int:
        return len(self.inputs)

    def some(self, count: int) -> Prompts:
        """At most `count` evenly spaced prompts."""
        inputs, texts = spread(self.inputs, count), spread(self.texts, count)
        if isinstance(self.source, Written):
            return Prompts(inputs, texts, Written(spread(self.source.prompts, count)))
        return Prompts(inputs, texts, spread(self.source, count))

    def for_encoder(self, encoder: Encoder, dataset: Dataset) -> Prompts:
        """The same prompts for another encoder, which may read other fields of the examples.

        Raises:
            ConfigError: the encoder cannot read the texts, or it reads a field that the dataset does not have.
        """
        if isinstance(self.source, Written):
            return self.source.for_encoder(encoder)
        require_fields(encoder, dataset)
        return Prompts(_inputs(dataset, encoder, self.source), self.texts, self.source)


@dataclass(frozen=True)
class Written:
    """The prompts of a run file or a command line, which each encoder reads in its own way."""

    prompts: Sequence[Any]

    def for_encoder(self, encoder: Encoder) -> Prompts:
        """The prompts for an encoder. Raises ConfigError if it cannot read them."""
        return Prompts(parse_prompts(encoder, self.prompts), [shown(prompt) for prompt in self.prompts], self)


def prompts_to_generate(config: RunConfig, dataset: Dataset, encoder: Encoder) -> Prompts:
    """The prompts of a run's grids, from the run file, or else different prompts of the dataset, held-out ones last.

    If all examples have the same prompt, it is repeated `MAX_PROMPTS` times.
    """
    if config.sample.prompts is not None:
        return Written(config.sample.prompts).for_encoder(encoder)
    held, seen = (_different(dataset, split, encoder) for split in ("holdout", "train"))
    held = held[: MAX_PROMPTS // 4]
    rows = [*spread(seen, MAX_PROMPTS - len(held)), *held]
    inputs = _inputs(dataset, encoder, rows)
    if are_texts(inputs) and len(distinct(inputs)) == 1:
        rows, inputs = rows[:1] * MAX_PROMPTS, inputs[:1] * MAX_PROMPTS
    captions = [dataset.captions(split)[row] for split, row in rows]
    return Prompts(inputs, [_text(*pair) for pair in zip(inputs, captions, strict=True)], rows)


def prompts_to_score(dataset: Dataset, split: Split, fields: Sequence[str], limit: int) -> Prompts:
    """At most `limit` examples of a split, evenly spaced among those with different captions and inputs.

    The texts are the captions. If the encoder, whose fields are given, reads an image, all examples count as different.
    """
    captions, inputs = dataset.captions(split), EncoderInputs(dataset, split, fields)
    rows: Sequence[int] = range(len(captions))
    if are_texts(inputs):
        rows = list(distinct({"caption": c, "input": i} for c, i in zip(captions, inputs, strict=True)).values())
    rows = spread(rows, limit)
    return Prompts([inputs[row] for row in rows], [captions[row] for row in rows], [(split, row) for row in rows])


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` evenly spaced items of a list."""
    if len(items) <= count:
        return list(items)
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, count)]


def _different(dataset: Dataset, split: Split, encoder: Encoder) -> list[Row]:
    """The examples with different prompts; all examples if the prompts are images."""
    inputs = EncoderInputs(dataset, split, encoder.fields)
    return [(split, row) for row in (distinct(inputs).values() if are_texts(inputs) else range(len(inputs)))]


def _inputs(dataset: Dataset, encoder: Encoder, rows: Sequence[Row]) -> list[Any]:
    columns = {split: EncoderInputs(dataset, split, encoder.fields) for split in {split for split, _ in rows}}
    return [columns[split][row] for split, row in rows]


def _text(value: Any, caption: str) -> str:
    """The text above an image: the prompt if it is a text, else the caption of the example."""
    texts = value.values() if isinstance(value, Mapping) else [value]
    return shown(value) if all(isinstance(text, str) for text in texts) else caption
