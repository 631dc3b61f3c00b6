"""Scores a trained pipeline: its images by metrics, and images of the dataset by their likelihood.

Images are scored in portions, so that they are never all in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from kgen.contracts.dataset import Split
from kgen.contracts.inputs import EncoderInputs
from kgen.contracts.metric import GeneratedImages, Metric, Plain
from kgen.errors import ConfigError
from kgen.evaluation.plan import BATCHES_PER_PORTION, Plan, make_plan, parts
from kgen.evaluation.results import BITS, LIKELIHOOD, Result
from kgen.evaluation.states import States
from kgen.experiments.experiment import Experiment, Metrics
from kgen.pipeline.likelihood import bits_per_dimension
from kgen.pipeline.model import Pipeline

GENERATED: tuple[Split, ...] = ("train", "holdout")
"""The splits whose prompts are scored: those seen in training, and those not seen."""

SAVE_SECONDS = 20.0
"""Time between two savings of the states. A shorter evaluation saves none."""

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
        options: The sampling options, in place of those of the run.
        states: See `score`.
        on_images: See `score`.
    """
    generation = Generation(experiment, pipeline, options, states, on_images)
    results = []
    for split, plan in generation.plans.items():
        metrics = measurable(experiment.metrics, plan.images)
        numbers = Numbers(experiment, split, plan)
        for seed in generation.seeds:
            generation.measure(split, seed, metrics)
            numbers.add(seed, metrics)
        results += numbers.results(metrics)
    return results


class Numbers:
    """Collects the numbers of a split over the seeds."""

    def __init__(self, experiment: Experiment, split: Split, plan: Plan) -> None:
        self.experiment, self.split, self.plan = experiment, split, plan
        self._values: dict[str, dict[str, dict[int, float]]] = {}

    def add(self, seed: int, metrics: Metrics) -> None:
        """Computes the numbers of metrics that have measured all images of a seed."""
        for name, metric in metrics.items():
            own = self._values.setdefault(name, {})
            for key, value in metric.compute().items():
                own.setdefault(key, {})[seed] = float(value)

    def results(self, metrics: Metrics) -> list[Result]:
        """The results of all seeds."""
        found = []
        for name, metric in metrics.items():
            own = self._values[name]
            main = next(iter(own), "") if metric.headline is None else metric.headline
            protocol = self._protocol(name, metric)
            found += [
                Result(name, self.split, key, values, protocol, metric.better, key == main)
                for key, values in own.items()
            ]
        return found

    def _protocol(self, name: str, metric: Metric) -> dict[str, Plain]:
        """A metric without a protocol depends on its options."""
        own, chosen = metric.protocol(), self.experiment.choices[name]
        return {
            "metric": chosen.name,
            "images": self.plan.images,
            "prompts": len(self.plan.prompts),
            "data": self.experiment.dataset.fingerprint(),
            **({} if own else {f"option {option}": str(value) for option, value in chosen.options.items()}),
            **own,
        }


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


def make_plans(experiment: Experiment, pipeline: Pipeline) -> dict[Split, Plan]:
    """The plan of each split that has prompts; {} if the configuration has no metrics."""
    config, dataset = experiment.config, experiment.dataset
    splits = [split for split in GENERATED if experiment.metrics and dataset.captions(split)]
    return {split: make_plan(config.evaluate, dataset, split, pipeline.encoder) for split in splits}


class Generation:
    """Generates the images of an evaluation, or a worker's share of them, and updates metrics with them.

    Args:
        experiment: The experiment.
        pipeline: The pipeline.
        options: The sampling options.
        states: Keeps the states of the metrics; None: nothing is kept.
        on_images: Called after each portion of images.
        worker, workers: The number of this process, from 0, among those that share the images.

    Attributes:
        plans: The plan of this worker for each split.
        seeds: The seeds, each of which generates all images once.
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
        whole = make_plans(experiment, pipeline)
        require_enough_images(experiment, whole)
        self.plans = {split: plan.share(worker, workers) for split, plan in whole.items()}
        seed = experiment.config.sample.seed
        self.seeds = range(seed, seed + experiment.config.evaluate.seeds)
        self.states, self.on_images = states, on_images
        self.total = len(self.seeds) * sum(plan.images for plan in self.plans.values())
        self._done = 0
        self._saved = time.monotonic()

    def measure(self, split: Split, seed: int, metrics: Metrics, unit: str = "", *, keep: bool = False) -> None:
        """Generates the images of a split and a seed, and updates the metrics with them, without computing numbers.

        Args:
            split: The split.
            seed: The seed.
            metrics: The metrics by name.
            unit: The name of the kept states; "": it follows from the split and the seed.
            keep: Whether the states are saved at the end, also if they were not before.
        """
        unit = unit or unit_name(split, seed)
        plan = self.plans[split]
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
        if keep or (saved > begun and saved < len(plan.portions)):
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
            self.on_images(self._done, self.total)

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
    """Bits per dimension of images of the dataset; [] if the configuration measures none."""
    config, dataset = experiment.config, experiment.dataset
    wanted = config.evaluate.likelihood
    if not wanted.images:
        return []
    splits: tuple[Split, ...] = ("validation", "holdout", "train")
    split = next(s for s in splits if dataset.captions(s))
    inputs = EncoderInputs(dataset, split, pipeline.encoder.fields)
    count, size, nats = min(wanted.images, len(inputs)), config.evaluate.batch_size, []
    for rows in parts(count, count / (BATCHES_PER_PORTION * size)):
        images = np.stack([dataset.image(split, row) for row in rows])
        some = [inputs[row] for row in rows]
        nats.append(pipeline.log_likelihood(images, some, batch_size=size, **wanted.options))
    value = float(bits_per_dimension(np.concatenate(nats), dataset.image_space.size).mean())
    protocol: dict[str, Plain] = {"metric": LIKELIHOOD, "images": count, "data": dataset.fingerprint(), "split": split}
    return [Result(LIKELIHOOD, split, BITS, {config.sample.seed: value}, protocol, "lower", headline=True)]
