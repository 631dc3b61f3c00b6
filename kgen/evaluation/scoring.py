"""Scores a trained pipeline by metrics of its images, and by the likelihood of images of the dataset.

Images are scored in portions, so that they are never in memory all at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kgen.config import RunConfig
from kgen.contracts.dataset import Split
from kgen.contracts.inputs import EncoderInputs
from kgen.contracts.metric import GeneratedImages, Plain
from kgen.errors import ConfigError
from kgen.evaluation.plan import BATCHES_PER_PORTION, Plan, even_ranges, make_plan
from kgen.evaluation.results import BITS, LIKELIHOOD, Result, metric_results
from kgen.evaluation.states import States
from kgen.experiments.experiment import Experiment, Metrics
from kgen.pipeline.likelihood import bits_per_dimension
from kgen.pipeline.model import Pipeline

GENERATED: tuple[Split, ...] = ("train", "holdout")
"""The splits whose prompts are scored. The training has seen those of "train", and not those of "holdout"."""

SAVE_SECONDS = 20.0
"""Time between two saves of the states, in seconds. A shorter evaluation saves nothing."""

Measure = Callable[[Split, int, Metrics], None]
"""A function that starts metrics, and updates them with all images of a split and a seed."""

OnImages = Callable[[int, int], None]
"""A function that is called with the number of images measured so far, and the number of all images."""


def score(
    experiment: Experiment, pipeline: Pipeline, states: States | None = None, on_images: OnImages | None = None
) -> list[Result]:
    """Measures the metrics and the likelihood that a configuration names.

    Args:
        experiment: The experiment.
        pipeline: The pipeline.
        states: Keeps the states of the metrics, with which an interrupted evaluation continues; None: nothing is kept.
        on_images: Called after each portion of images.

    Returns:
        The results of the metrics for each split, and then that of the likelihood.

    Raises:
        ConfigError: a metric needs more images.
    """
    generated = score_generated(experiment, pipeline, experiment.config.sample.options, states, on_images)
    return [*generated, *likelihood(experiment, pipeline)]


def score_generated(
    experiment: Experiment,
    pipeline: Pipeline,
    options: Mapping[str, Any],
    states: States | None = None,
    on_images: OnImages | None = None,
) -> list[Result]:
    """Generates images from the prompts of each split, with the settings in `evaluate`, and scores them.

    Args:
        experiment: The experiment.
        pipeline: The pipeline.
        options: The sampling options. They replace those of the run.
        states: See `score`.
        on_images: See `score`.

    Raises:
        ConfigError: a metric needs more images.
    """
    generation = Generation(experiment, pipeline, options, states, on_images)
    return collect(experiment, generation.plans, generation.measure)


def collect(experiment: Experiment, plans: Mapping[Split, Plan], measure: Measure) -> list[Result]:
    """Measures each split with each seed, and computes the numbers of all metrics.

    Args:
        experiment: The experiment.
        plans: The images of each split.
        measure: Measures all images of a split and a seed.

    Returns:
        The results, with one value per seed.
    """
    results = []
    for split, plan in plans.items():
        metrics = measurable(experiment.metrics, plan.images)
        numbers: dict[str, dict[str, dict[int, float]]] = {name: {} for name in metrics}
        for seed in seeds(experiment.config):
            measure(split, seed, metrics)
            for name, metric in metrics.items():
                for number, value in metric.compute().items():
                    numbers[name].setdefault(number, {})[seed] = float(value)
        known: dict[str, Plain] = {
            "images": plan.images,
            "prompts": len(plan.prompts),
            "data": experiment.dataset.fingerprint(),
        }
        for name, metric in metrics.items():
            results += metric_results(name, metric, split, numbers[name], known)
    return results


def seeds(config: RunConfig) -> range:
    """The seeds of an evaluation, each of which generates all images once."""
    return range(config.sample.seed, config.sample.seed + config.evaluate.seeds)


def require_enough_images(experiment: Experiment, plans: Mapping[Split, Plan]) -> None:
    """Raises ConfigError if a metric needs more images than any split has."""
    most = max((plan.images for plan in plans.values()), default=0)
    for name, metric in experiment.metrics.items():
        if plans and metric.min_images > most:
            raise ConfigError(
                f"evaluate.metrics: '{name}' needs at least {metric.min_images} images per split, but only {most} "
                "would be generated: increase evaluate.images or evaluate.samples_per_prompt"
            )


def measurable(metrics: Metrics, images: int) -> Metrics:
    """The metrics for which there are enough images."""
    return {name: metric for name, metric in metrics.items() if metric.min_images <= images}


def make_plans(experiment: Experiment, fields: Sequence[str]) -> dict[Split, Plan]:
    """The plan of each split that has prompts, for an encoder that reads `fields`; {} if there are no metrics."""
    config, dataset = experiment.config, experiment.dataset
    splits = [split for split in GENERATED if experiment.metrics and dataset.captions(split)]
    return {split: make_plan(config.evaluate, dataset, split, fields) for split in splits}


class Generation:
    """Generates the images of an evaluation, or a worker's share of them, and updates metrics with them.

    Args:
        experiment: The experiment.
        pipeline: The pipeline.
        options: The sampling options.
        states: Keeps the states of the metrics; None: nothing is kept.
        on_images: Called after each portion of images.
        worker: The number of this process. It counts from 0.
        workers: The number of processes that share the images. If there are several, the states are always kept.

    Attributes:
        plans: The images of each split, with the shares of all workers.

    Raises:
        ConfigError: a metric needs more images.
    """

    def __init__(
        self,
        experiment: Experiment,
        pipeline: Pipeline,
        options: Mapping[str, Any],
        states: States | None = None,
        on_images: OnImages | None = None,
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        self.experiment, self.pipeline, self.options = experiment, pipeline, options
        self.states, self.on_images = states, on_images
        self.worker, self.workers = worker, workers
        self.plans = make_plans(experiment, pipeline.encoder.fields)
        require_enough_images(experiment, self.plans)
        self._shares = {split: plan.share(worker, workers) for split, plan in self.plans.items()}
        self._total = len(seeds(experiment.config)) * sum(plan.images for plan in self._shares.values())
        self._several = len(seeds(experiment.config)) > 1  # what is finished for one seed is kept for the others
        self._done = 0
        self._saved = time.monotonic()

    def measure(self, split: Split, seed: int, metrics: Metrics) -> None:
        """Generates this worker's images of a split and a seed, and updates the metrics with them."""
        plan, unit = self._shares[split], unit_name(split, seed, self.worker, self.workers)
        for metric in metrics.values():
            metric.start(self.experiment.dataset, split)
        begun = self._resume(unit, metrics)
        self._count(sum(portion.images for portion in plan.portions[:begun]))
        saved = begun
        for number, batch in enumerate(self._batches(plan, seed, begun), start=begun + 1):
            for metric in metrics.values():
                metric.update(batch)
            self._count(len(batch.images))
            if self.states is not None and time.monotonic() - self._saved > SAVE_SECONDS:
                self._save(unit, number, metrics)
                saved = number
        partly = begun < saved < len(plan.portions)
        if self.workers > 1 or partly or (self._several and begun < len(plan.portions)):
            self._save(unit, len(plan.portions), metrics)

    def _batches(self, plan: Plan, seed: int, begun: int) -> Iterator[GeneratedImages]:
        for portion in plan.portions[begun:]:
            images = self.pipeline.generate(
                [plan.prompts.inputs[row] for row in portion.rows],
                n=portion.copies,
                first=list(portion.first),
                seed=seed,
                batch_size=self.experiment.config.evaluate.batch_size,
                **self.options,
            )
            texts = [plan.prompts.texts[row] for row in portion.rows for _ in range(portion.copies)]
            yield GeneratedImages(images, texts)

    def _count(self, images: int) -> None:
        self._done += images
        if self.on_images is not None:
            self.on_images(self._done, self._total)

    def _resume(self, unit: str, metrics: Metrics) -> int:
        """Merges the kept states into the metrics. Returns the number of completed portions."""
        kept = None if self.states is None else self.states.load(unit)
        if kept is None or set(kept[1]) != set(metrics):
            return 0
        for name, metric in metrics.items():
            metric.merge(kept[1][name])
        return kept[0]

    def _save(self, unit: str, portions: int, metrics: Metrics) -> None:
        if self.states is not None:
            self.states.save(unit, portions, {name: metric.state() for name, metric in metrics.items()})
            self._saved = time.monotonic()


def unit_name(split: Split, seed: int, worker: int = 0, workers: int = 1) -> str:
    """The name of the states of a split and a seed, or of a worker's share of them."""
    share = "" if workers == 1 else f"-{worker + 1}-of-{workers}"
    return f"{split}-{seed}{share}"


def likelihood(experiment: Experiment, pipeline: Pipeline) -> list[Result]:
    """Bits per dimension of images of the dataset; [] if the configuration measures none.

    The images are from the first of the splits "validation", "holdout" and "train" that has images. Options of
    `log_likelihood`, such as the number of steps of a bound, belong to the model and not to the protocol: families with
    different options share a column of `kgen compare`, and `Generator.likelihood_label` shows the options beside it.
    """
    config, dataset = experiment.config, experiment.dataset
    wanted = config.evaluate.likelihood
    if not wanted.images:
        return []
    splits: tuple[Split, ...] = ("validation", "holdout", "train")
    split = next(s for s in splits if dataset.captions(s))
    inputs = EncoderInputs(dataset, split, pipeline.encoder.fields)
    count, size, nats = min(wanted.images, len(inputs)), config.evaluate.batch_size, []
    for rows in even_ranges(count, count / (BATCHES_PER_PORTION * size)):
        images = np.stack([dataset.image(split, row) for row in rows])
        some = [inputs[row] for row in rows]
        nats.append(pipeline.log_likelihood(images, some, batch_size=size, **wanted.options))
    value = float(bits_per_dimension(np.concatenate(nats), dataset.image_space.size).mean())
    protocol: dict[str, Plain] = {"metric": LIKELIHOOD, "images": count, "data": dataset.fingerprint(), "split": split}
    return [Result(LIKELIHOOD, split, BITS, {config.sample.seed: value}, protocol, "lower", headline=True)]
