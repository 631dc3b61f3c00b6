"""Scores a trained pipeline: its images by metrics, other images by their likelihood."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from kgen.config import RunConfig
from kgen.contracts.dataset import Dataset, Split
from kgen.contracts.inputs import EncoderInputs
from kgen.contracts.metric import Metric
from kgen.errors import ConfigError
from kgen.pipeline.assembly import make_metric
from kgen.pipeline.likelihood import bits_per_dimension
from kgen.pipeline.pipeline import Pipeline
from kgen.runs.prompts import prompts_to_score

Scores = dict[str, dict[str, float]]
Metrics = Mapping[str, Metric]
"""By the name that their scores begin with."""

BITS = "bits per dimension"
"""Name of a score: of the negative log-likelihood, less is better."""


def score(config: RunConfig, pipeline: Pipeline, dataset: Dataset) -> Scores:
    """Scores by split ("train": prompts that were trained on; "holdout"), each metric's numbers under its name."""
    scores = score_generated(config, pipeline, dataset, open_metrics(config, dataset), config.sample.options)
    for measured, bits in _likelihood(config, pipeline, dataset).items():
        scores.setdefault(measured, {}).update(bits)
    return scores


def open_metrics(config: RunConfig, dataset: Dataset) -> Metrics:
    """The metrics that a run asks for, by name: without the plugin's, unless two metrics share theirs.

    Raises:
        ConfigError: one makes no sense with the dataset, or is given twice.
    """
    chosen = config.evaluate.metrics
    bare = Counter(metric.name.split("/")[-1] for metric in chosen)
    metrics: dict[str, Metric] = {}
    for choice in chosen:
        name = choice.name.split("/")[-1]
        name = name if bare[name] == 1 else choice.name
        if name in metrics:
            raise ConfigError(f"evaluate.metrics: '{name}' is given twice, and its scores have one name: keep one")
        metric = make_metric(choice.choice)
        if metric.requires is not None and not isinstance(dataset, metric.requires):
            raise ConfigError(
                f"evaluate.metrics: '{name}' needs the dataset {metric.requires.__name__}, not "
                f"{type(dataset).__name__}: leave it out, or choose another metric"
            )
        metrics[name] = metric
    return metrics


def score_generated(
    config: RunConfig, pipeline: Pipeline, dataset: Dataset, metrics: Metrics, options: Mapping[str, Any]
) -> Scores:
    """Draws the prompts of each split that `evaluate` asks for, and scores the images by the metrics.

    Args:
        options: To draw with, in place of the run's own.
    """
    scores: Scores = {}
    splits: tuple[Split, ...] = ("train", "holdout")
    for split in splits:
        prompts = prompts_to_score(dataset, split, pipeline.encoder, config.evaluate.max_prompts) if metrics else None
        if not prompts:
            continue
        copies = config.evaluate.samples_per_prompt
        images = pipeline.generate(
            prompts.inputs, n=copies, seed=config.sample.seed, batch_size=config.evaluate.batch_size, **options
        )
        repeated = [caption for caption in prompts.texts for _ in range(copies)]
        scores[split] = {
            f"{name} {key}": float(value)
            for name, metric in metrics.items()
            for key, value in metric(images, repeated, split, dataset).items()
        }
    return scores


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
    rows = range(min(wanted.images, len(dataset.captions(split))))
    images, inputs = (
        [values[row] for row in rows]
        for values in (dataset.values(split, "image"), EncoderInputs(dataset, split, pipeline.encoder.fields))
    )
    nats = pipeline.log_likelihood(np.stack(images), inputs, batch_size=config.evaluate.batch_size, **wanted.options)
    return {split: {BITS: float(bits_per_dimension(nats, dataset.image_space.size).mean())}}
