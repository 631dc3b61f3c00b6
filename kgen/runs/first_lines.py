"""The lines about the data that a run logs before it trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kgen.config import FitConfig, RunConfig
from kgen.config.changes import STEPS, Change
from kgen.contracts.dataset import SPLITS, Dataset
from kgen.contracts.encoder import Encoder
from kgen.contracts.inputs import AllEncoderInputs, are_texts, distinct
from kgen.data.frozen.conditions import is_cached
from kgen.experiments.experiment import Experiment
from kgen.experiments.inputs import changing_fields
from kgen.plugins.discovery import component_id
from kgen.training.optimizers.warmup import WarmUp


def first_lines(experiment: Experiment) -> Iterator[str]:
    """Lines about the number of images in each split, how they were read, what was skipped, and about the metrics."""
    dataset = experiment.dataset
    train, validation, holdout = (len(dataset.captions(split)) for split in SPLITS)
    yield (
        f"{train:,} images of {dataset.image_space} to train on, {validation:,} in the validation split, "
        f"{holdout:,} held out"
    )
    yield from _how_read(dataset)
    config = experiment.config
    for name, fit, count in (
        ("fit", config.fit, train),
        *(
            (f"{part}.fit", (config.encoder if part == "encoder" else config.decoder).fit, len(data.captions("train")))
            for part, data in experiment.stages.items()
        ),
    ):
        if fit is not None and fit.batch_size > count * (2 if fit.flip else 1):
            yield (
                f"{name}.batch_size is {fit.batch_size:,}, so that each batch contains the {count:,} images several "
                "times; a smaller one needs less memory"
            )
    for part, data in experiment.stages.items():
        if data is not dataset:
            yield f"{part}.data: {len(data.captions('train')):,} images to train on"
            yield from (f"{part}.data: {line}" for line in _how_read(data))
    evaluate = config.evaluate
    for name, metric in experiment.metrics.items():
        yield from (f"note: {caveat}" for caveat in metric.caveats(dataset))
        if evaluate.every and metric.min_images > evaluate.proxy_images:
            yield (
                f"{name} is not measured during the training: it needs {metric.min_images} images, but "
                f"evaluate.proxy_images is {evaluate.proxy_images}"
            )


def _how_read(dataset: Dataset) -> Iterator[str]:
    yield from dataset.notes()
    for problem in dataset.problems():
        yield f"skipped {problem.where}: {problem.what}"


def unread_captions(dataset: Dataset, encoder: Encoder) -> Iterator[str]:
    """A line about captions that the encoder does not read completely, with an example; nothing if it reads all."""
    for part in encoder.parts():
        inputs = AllEncoderInputs(dataset, part.fields)
        different = distinct(inputs) if are_texts(inputs) else {}
        if set(different) == {""} and part.trainable:
            yield (
                f"all captions are empty, and encoder '{component_id(part)}' reads nothing else: 'encoder: none' says "
                "that images have no text"
            )
        unread = [(key, what) for key, row in different.items() if (what := part.unread(inputs[row]))]
        if unread:
            key, what = unread[0]
            yield (
                f"{len(unread):,} of {len(different):,} different captions are not read completely by encoder "
                f"'{component_id(part)}', such as '{key[:80]}': {what}"
            )


def uncached(dataset: Dataset, encoder: Encoder) -> Iterator[str]:
    """A line for each frozen encoder whose conditions cannot be cached."""
    for part in encoder.parts():
        if is_cached(part, ()) and not is_cached(part, changing_fields(dataset)):
            yield (
                f"encoder '{component_id(part)}' encodes the captions in every step, because shuffle_tags changes them "
                "each time; without it, their conditions are cached"
            )


def going_on(config: RunConfig, changes: Sequence[Change], step: int) -> Iterator[str]:
    """Lines about a run that continues after `step` steps, perhaps with a changed configuration."""
    if 0 < step < config.fit.steps:
        yield f"continuing after step {step:,} of {config.fit.steps:,}"
    for change in changes:
        yield f"changed since the run began: {change}"
        if change.key == STEPS:
            yield from _new_schedule(config.fit, step, change)


def _new_schedule(fit: FitConfig, step: int, change: Change) -> Iterator[str]:
    """A line about the effect of more steps on the learning rate, if there is one."""
    before, now = (
        float(WarmUp(fit.learning_rate, fit.warmup_steps, steps if fit.schedule == "cosine" else None)(step))
        for steps in (change.before, change.now)
    )
    if f"{before:.3g}" != f"{now:.3g}":
        yield (
            f"from step {step} on, the learning rate follows the schedule of {change.now} steps: it is {now:.3g} "
            f"there; in the schedule of {change.before} steps it would be {before:.3g}"
        )
