"""Scores a trained pipeline: the images that it generates by metrics, images of the dataset by their likelihood.

Neither lies in memory as a whole: the images are scored portion by portion.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kgen.config import RunConfig
from kgen.contracts.dataset import Dataset, Split
from kgen.contracts.inputs import EncoderInputs
from kgen.contracts.metric import GeneratedImages
from kgen.pipeline.likelihood import bits_per_dimension
from kgen.pipeline.pipeline import Pipeline
from kgen.runs.experiment import Experiment, Metrics
from kgen.runs.prompts import Prompts, prompts_to_score

Scores = dict[str, dict[str, float]]

BITS = "bits per dimension"
"""Name of a score: of the negative log-likelihood, less is better."""

PORTION_BYTES = 2**28
"""Of memory that the images of a portion may take."""

BYTES_PER_NUMBER = 10
"""Of memory that one number of a generated image takes: as float32, with copies."""


def score(experiment: Experiment, pipeline: Pipeline) -> Scores:
    """Scores by split ("train": prompts that were trained on; "holdout"), each metric's numbers under its name."""
    scores = score_generated(experiment, pipeline, experiment.config.sample.options)
    for measured, bits in _likelihood(experiment.config, pipeline, experiment.dataset).items():
        scores.setdefault(measured, {}).update(bits)
    return scores


def score_generated(experiment: Experiment, pipeline: Pipeline, options: Mapping[str, Any]) -> Scores:
    """Draws the prompts of each split that `evaluate` asks for, and scores the images by the metrics.

    Args:
        options: To draw with, in place of the run's own.
    """
    config, dataset, metrics = experiment.config, experiment.dataset, experiment.metrics
    scores: Scores = {}
    splits: tuple[Split, ...] = ("train", "holdout")
    for split in splits:
        if not metrics or not dataset.captions(split):
            continue
        prompts = prompts_to_score(dataset, split, pipeline.encoder, config.evaluate.max_prompts)
        for metric in metrics.values():
            metric.start(dataset, split)
        for batch in _generated(config, pipeline, prompts, options):
            for metric in metrics.values():
                metric.update(batch)
        scores[split] = {
            f"{name} {key}": float(value) for name, metric in metrics.items() for key, value in metric.compute().items()
        }
    return scores


def _generated(
    config: RunConfig, pipeline: Pipeline, prompts: Prompts, options: Mapping[str, Any]
) -> Iterator[GeneratedImages]:
    """The images of different prompts, as `evaluate` asks for them, portion by portion.

    They are those that would be generated all at once: every portion fills the batches of the same program.
    """
    most = _portion(config, pipeline)
    for copies in _parts(config.evaluate.samples_per_prompt, config.evaluate.samples_per_prompt / most):
        for rows in _parts(len(prompts), len(prompts) * len(copies) / most):
            images = pipeline.generate(
                prompts.inputs[rows.start : rows.stop],
                n=len(copies),
                first=copies.start,
                seed=config.sample.seed,
                batch_size=config.evaluate.batch_size,
                **options,
            )
            yield GeneratedImages(images, [prompts.texts[row] for row in rows for _ in copies])


def _portion(config: RunConfig, pipeline: Pipeline) -> int:
    """About how many images are held in memory together: two batches at least."""
    size = pipeline.decoder.image_space.size
    return max(2 * config.evaluate.batch_size, PORTION_BYTES // (BYTES_PER_NUMBER * size))


def _parts(count: int, number: float) -> list[range]:
    """The numbers below `count` in at least `number` parts of about the same length, as far as there are so many."""
    parts = min(count, max(1, math.ceil(number)))
    return [range(count * part // parts, count * (part + 1) // parts) for part in range(parts)]


def headlines(metrics: Metrics, scores: Scores) -> dict[str, float]:
    """Of all scores one a metric and split, the one that says most: its `headline`, else its first."""
    found = {}
    for split, numbers in scores.items():
        for name, metric in metrics.items():
            own = [key for key in numbers if key.startswith(f"{name} ")]
            key = own[0] if metric.headline is None else f"{name} {metric.headline}"
            found[in_split(key, split)] = numbers[key]
    return found


def in_split(name: str, split: str) -> str:
    """A score's name, with its split unless that is the one of the training."""
    return name if split == "train" else f"{name} ({split})"


def _likelihood(config: RunConfig, pipeline: Pipeline, dataset: Dataset) -> Scores:
    """Bits per dimension, by the split whose images were measured; empty where the configuration asks for none."""
    wanted = config.evaluate.likelihood
    if not wanted.images:
        return {}
    splits: tuple[Split, ...] = ("validation", "holdout", "train")
    split = next(s for s in splits if dataset.captions(s))
    inputs = EncoderInputs(dataset, split, pipeline.encoder.fields)
    count, size, nats = min(wanted.images, len(inputs)), config.evaluate.batch_size, []
    for rows in _parts(count, count / _portion(config, pipeline)):
        images = np.stack([dataset.image(split, row) for row in rows])
        some = [inputs[row] for row in rows]
        nats.append(pipeline.log_likelihood(images, some, batch_size=size, **wanted.options))
    return {split: {BITS: float(bits_per_dimension(np.concatenate(nats), dataset.image_space.size).mean())}}
