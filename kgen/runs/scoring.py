"""Scores a trained pipeline: its images by metrics, and images of the dataset by their likelihood.

Images are scored in portions, so that they are never all in memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from kgen.config import RunConfig
from kgen.contracts.dataset import Dataset, Split
from kgen.contracts.inputs import EncoderInputs, input_key
from kgen.contracts.metric import GeneratedImages
from kgen.experiments.experiment import Experiment, Metrics
from kgen.experiments.prompts import Prompts, prompts_to_score
from kgen.pipeline.likelihood import bits_per_dimension
from kgen.pipeline.model import Pipeline

Scores = dict[str, dict[str, float]]

BITS = "bits per dimension"
"""The name of the score for the negative log-likelihood; lower is better."""

PORTION_BYTES = 2**28
"""Largest memory of the images of a portion, in bytes."""

BYTES_PER_NUMBER = 10
"""Memory per number of a generated image, in bytes: float32, with copies."""


def score(experiment: Experiment, pipeline: Pipeline) -> Scores:
    """Scores by split ("train" for prompts of the training, "holdout"), and by metric and name."""
    scores = score_generated(experiment, pipeline, experiment.config.sample.options)
    for measured, bits in _likelihood(experiment.config, pipeline, experiment.dataset).items():
        scores.setdefault(measured, {}).update(bits)
    return scores


def score_generated(experiment: Experiment, pipeline: Pipeline, options: Mapping[str, Any]) -> Scores:
    """Generates images from the prompts of each split, with the settings in `evaluate`, and scores them.

    Args:
        experiment: The experiment.
        pipeline: The pipeline.
        options: The sampling options, in place of those of the run.
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
    """Yields the images of the prompts in portions, with the settings in `evaluate`.

    They equal images that are generated all at once, because every portion uses the same program.
    """
    most, samples = _portion(config, pipeline), config.evaluate.samples_per_prompt
    first = _first_images(prompts, samples)
    for copies in _parts(samples, samples / most):
        for rows in _parts(len(prompts), len(prompts) * len(copies) / most):
            images = pipeline.generate(
                prompts.inputs[rows.start : rows.stop],
                n=len(copies),
                first=[first[row] + copies.start for row in rows],
                seed=config.sample.seed,
                batch_size=config.evaluate.batch_size,
                **options,
            )
            yield GeneratedImages(images, [prompts.texts[row] for row in rows for _ in copies])


def _first_images(prompts: Prompts, samples: int) -> list[int]:
    """The number of the first image of each prompt: several may be equal, such as labels of different captions."""
    given: Counter[str] = Counter()
    first = []
    for value in prompts.inputs:
        key = input_key(value)
        first.append(samples * given[key])
        given[key] += 1
    return first


def _portion(config: RunConfig, pipeline: Pipeline) -> int:
    """The approximate number of images in a portion; at least two batches."""
    size = pipeline.decoder.image_space.size
    return max(2 * config.evaluate.batch_size, PORTION_BYTES // (BYTES_PER_NUMBER * size))


def _parts(count: int, number: float) -> list[range]:
    """Divides the numbers below `count` into at least `number` parts of about equal length, if there are enough."""
    parts = min(count, max(1, math.ceil(number)))
    return [range(count * part // parts, count * (part + 1) // parts) for part in range(parts)]


def headlines(metrics: Metrics, scores: Scores) -> dict[str, float]:
    """The main score per metric and split: its `headline`, or else its first score."""
    found = {}
    for split, numbers in scores.items():
        for name, metric in metrics.items():
            own = [key for key in numbers if key.startswith(f"{name} ")]
            key = own[0] if metric.headline is None else f"{name} {metric.headline}"
            found[in_split(key, split)] = numbers[key]
    return found


def in_split(name: str, split: str) -> str:
    """The name of a score, with the split unless it is "train"."""
    return name if split == "train" else f"{name} ({split})"


def _likelihood(config: RunConfig, pipeline: Pipeline, dataset: Dataset) -> Scores:
    """Bits per dimension by the split of the measured images; {} if the configuration measures none."""
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
