"""Executes a configuration in a run directory: data, parts, trainings, samples, scores and report."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kgen.backend.memory import peak_memory
from kgen.backend.precision import precision
from kgen.config import RunConfig
from kgen.config.changes import Change
from kgen.config.staged import Staged
from kgen.contracts.dataset import Dataset
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder, freeze_trained
from kgen.contracts.generator import initializes
from kgen.errors import ConfigError
from kgen.evaluation.bias import warn_of_bias
from kgen.evaluation.proxy import Proxy
from kgen.evaluation.results import Scores, read_results, to_scores
from kgen.evaluation.scoring import OnImages
from kgen.experiments.directory import RunDirectory
from kgen.experiments.experiment import (
    Experiment,
    encoder_with_assets,
    known_assets,
    needs_stage,
    open_experiment,
    trained_part,
)
from kgen.experiments.initial import (
    Start,
    check_initial_lora,
    load_initial,
    load_initial_decoder,
    load_initial_encoder,
    with_initial_lora,
)
from kgen.experiments.inputs import Inputs, TrainingLatents, read_dataset
from kgen.experiments.provenance import changed_backend, changed_data, changed_weights, describe, record_skipped
from kgen.experiments.trainer import Log, OnMetrics, Trainer, describe_weights
from kgen.parts.construction import build_encoder, make_decoder
from kgen.parts.lora_files import save_lora
from kgen.parts.saving import load_decoder, load_encoder_assets, load_encoder_weights, save
from kgen.parts.trained import select_trained
from kgen.pipeline.loading import load
from kgen.pipeline.model import Pipeline
from kgen.plugins.faults import component_errors
from kgen.plugins.models import find_run
from kgen.random import seed_everything
from kgen.runs.decoder_stage import DecoderStage
from kgen.runs.encoder_stage import EncoderStage
from kgen.runs.evaluation import finish, is_finished
from kgen.runs.first_lines import first_lines, going_on, uncached, unread_captions
from kgen.runs.preflight import preflight
from kgen.runs.samples import sample_sheets
from kgen.runs.stage import Stage
from kgen.storage.files import atomic_folder
from kgen.training.averages import averaged_weights
from kgen.training.distribution.base import Distribution
from kgen.training.distribution.opening import leads, open_distribution
from kgen.training.loggers import opened_loggers
from kgen.training.signals import terminable

_STAGES: dict[Staged, type[Stage[Any]]] = {"encoder": EncoderStage, "decoder": DecoderStage}


@dataclass(frozen=True)
class RunResult:
    """The results of a run.

    Attributes:
        directory: The run directory.
        grid: The file of the final images.
        report: The file of the report.
        step: The last step of the training.
        scores: The means of `evaluation.json`, by split and by the name of the number, such as "brightness mean"; empty
            if the run ended before its images were scored.
    """

    directory: Path
    grid: Path
    report: Path
    step: int
    scores: Scores


@component_errors()
def run(
    config: RunConfig,
    out: str | Path | None = None,
    restart: bool = False,
    *,
    stage: Staged | None = None,
    allow_changed_data: bool = False,
    log: Log = print,
    on_metrics: OnMetrics | None = None,
    on_images: OnImages | None = None,
) -> RunResult:
    """Trains the pipeline of a configuration, or continues where an earlier process stopped.

    Settings that do not affect the training (`name`, `sample`, `evaluate`, how often `fit` logs and saves) may have
    changed since the run began, and `fit.steps` may have increased. The manifest records the changes, and a finished
    run is scored again. The learning rate follows the schedule of the new `fit.steps`, so that it may increase again.

    Args:
        config: The configuration.
        out: The run directory; None: `runs/NAME`.
        restart: Whether to start again. An older run in the directory is renamed. Its trained encoder and decoder are
            reused if nothing that they depend on has changed, except the part of the given stage.
        stage: "encoder" stops after the training of the encoder, "decoder" after that of the decoder; None: all stages
            run.
        allow_changed_data: Whether to continue if images or captions have changed.
        log: Receives a line at the beginning of each step.
        on_metrics: Called at the beginning of each training, with its name and number of steps. It returns a function
            that is called with the step and the values of each row of the training's journal.
        on_images: Called with the number of images scored so far, and of all images to be scored.

    Raises:
        RunInterruptedError: the user pressed Ctrl-C in a training, or SIGTERM was received; the run can be resumed.
        KgenError: any other error that the user can fix.
    """
    directory = RunDirectory(out or Path("runs") / config.name)
    if stage is not None and not needs_stage(config, stage):
        raise ConfigError(f"--stage {stage}: there is nothing to train, because {stage} has no 'fit' in the run file")
    chief = leads(config.distribute)
    with directory.locked() if chief else contextlib.nullcontext(), terminable(), contextlib.ExitStack() as stack:
        changes = [] if restart else directory.compare(config)
        if not restart and not changes and is_finished(directory):
            return _result(directory, directory.read_manifest("step")["step"], _scores(directory))
        same_images = is_finished(directory) and not any(change.key.startswith("sample.") for change in changes)
        trainer = Trainer(config, open_distribution(config.distribute), log, on_metrics)
        stack.enter_context(trainer.distribution.connected())
        stack.enter_context(precision(config.precision))
        experiment = open_experiment(config)
        changed = "" if restart else changed_data(directory, experiment.dataset, allow_changed_data)
        trained = stage is None and not restart and directory.is_trained(config.fit.steps)
        pipeline, start = None, Start()
        if not trained:
            pipeline, start = _build(experiment, trainer.distribution, None if restart else directory)
        older = None
        trainer.distribution.wait()  # until all workers have read the directory, and before worker 0 writes to it
        if restart and directory.config.is_file() and chief:
            older = stack.enter_context(directory.moved_aside())
            log(f"the older run was moved to {older}")
        _begin(experiment, directory, trainer, pipeline, start, changes, changed)
        trainer.distribution.wait()
        if chief:
            loggers = stack.enter_context(opened_loggers(config.loggers, directory.path, config.dump()))
            trainer = replace(trainer, loggers=loggers)
        if pipeline is not None:
            for kind, data in experiment.stages.items():
                training = _STAGES[kind](config, directory, data, pipeline.encoder)
                part = training.prepare(trainer, None if stage == kind else older, allow_changed_data)
                if stage == kind:
                    return _result(training.directory, training.directory.read_manifest("step")["step"], {})
                with trainer.distribution.scope():
                    pipeline = training.put_into(pipeline, part)
            warn_of_bias(experiment.metrics, pipeline.encoder)
            _train(experiment, directory, trainer, pipeline, stack)
        if not chief:
            return _result(directory, config.fit.steps, {})
        for line in record_skipped(directory, experiment.dataset):
            log(f"skipped {line}")
        log("generating the final images, and scoring")
        if pipeline is None or trainer.distribution.strategy is not None:
            pipeline = load(directory.model)
        scores = finish(experiment, directory, pipeline, log, on_images, keep=trained and same_images and not changed)
        trainer.loggers.scores = to_scores(scores)
        return _result(directory, directory.read_manifest("step")["step"], trainer.loggers.scores)


def _build(
    experiment: Experiment, distribution: Distribution, directory: RunDirectory | None
) -> tuple[Pipeline, Start]:
    """Makes the parts, and tries everything that could fail later. It writes nothing.

    Args:
        experiment: The experiment.
        distribution: The devices of the training.
        directory: The run directory; None if an older run there will be renamed.

    Returns:
        The pipeline, and the weights that `init` and `fit.lora.from` gave it.
    """
    config = experiment.config
    for fit in (config.fit, config.encoder.fit, config.decoder.fit):
        if fit is not None:
            distribution.check_batch(fit.batch_size, fit.gradient_accumulation)
    for kind in experiment.stages:
        source = (config.encoder if kind == "encoder" else config.decoder).source
        if source is not None and (directory is None or not directory.stage(kind).read_manifest().get("finished")):
            trained_part(source, kind)  # raises an error now, before the training of another part
    seed_everything(config.seed)
    with distribution.scope():
        data = experiment.stages.get("encoder", experiment.dataset)
        encoder = encoder_with_assets(config, data, directory)
        pipeline = preflight(experiment, encoder, known_assets(config, directory))
        if directory is None or not directory.encoder_stage.newest_step:
            load_initial_encoder(config.encoder.init, pipeline.encoder)  # raises errors now, before the training
            check_initial_lora("encoder.fit", config.encoder.fit)
        if directory is None or not directory.decoder_stage.newest_step:
            load_initial_decoder(config.decoder.init, pipeline.decoder)
            check_initial_lora("decoder.fit", config.decoder.fit)
        begun = directory is not None and directory.newest_step
        start = Start() if begun else load_initial(config.init, pipeline)
        select_trained(pipeline, config.fit)
        start = start if begun else with_initial_lora(start, "fit", config.fit, pipeline)
    return pipeline, start


def _begin(
    experiment: Experiment,
    directory: RunDirectory,
    trainer: Trainer,
    pipeline: Pipeline | None,
    start: Start,
    changes: Sequence[Change],
    changed: str,
) -> None:
    """Logs the first lines of the run, and records its configuration, components and data.

    Args:
        experiment: The experiment.
        directory: The run directory.
        trainer: Receives the lines.
        pipeline: The pipeline to be trained; None: it is already trained.
        start: The weights that `init` and `fit.lora.from` gave it.
        changes: The changes of the configuration since the run began.
        changed: A description of the changes of images and captions since then; "": there are none.
    """
    config, dataset = experiment.config, experiment.dataset
    if changed:
        trainer.log(f"continuing with changed images or captions ({changed})")
    encoders = [] if pipeline is None else [pipeline.encoder]
    read = [line for encoder in encoders for line in (*unread_captions(dataset, encoder), *uncached(dataset, encoder))]
    for line in (*going_on(config, changes, directory.newest_step), *first_lines(experiment), *read, *start.lines()):
        trainer.log(line)
    if not trainer.distribution.is_chief:
        return
    directory.prepare(config)
    if changed:
        directory.record(changed=[f"data: {changed}"])
    if pipeline is not None and (note := changed_weights(directory, pipeline.generator)):
        trainer.log(note)
        directory.record(changed=[note])
    if note := changed_backend(directory):
        trainer.log(note)
    describe(config, directory, dataset)
    if start:
        directory.update_manifest(init=start.describe())
    if pipeline is not None:
        for part, path in ((pipeline.encoder, directory.assets), (pipeline.generator, directory.generator_assets)):
            if not path.is_dir():
                with atomic_folder(path) as folder:
                    part.save_assets(folder)


def _train(
    experiment: Experiment,
    directory: RunDirectory,
    trainer: Trainer,
    pipeline: Pipeline,
    stack: contextlib.ExitStack,
) -> None:
    """Trains the pipeline (the generator, and a trainable encoder) and saves it.

    Args:
        experiment: The experiment.
        directory: The run directory.
        trainer: The trainer.
        pipeline: The pipeline.
        stack: Until it is closed, the pipeline has its EMA weights.
    """
    fit = experiment.config.fit
    trainer.log(describe_weights(pipeline))
    inputs = Inputs(experiment.dataset, pipeline.encoder, pipeline.decoder, fit.flip, fit.workers)
    if not directory.newest_step and initializes(type(pipeline.generator)):
        trainer.log("the generator: measures the latents of all training images")
        with trainer.distribution.scope():
            pipeline.generator.initialize(TrainingLatents(pipeline, inputs))
            load_initial(experiment.config.init, pipeline)  # again, because it has precedence
    sheets, proxy = sample_sheets(experiment, directory, pipeline), Proxy(experiment, directory.proxy, pipeline)
    progress = trainer.train(pipeline, fit, directory.path, inputs, sheets, proxy)
    if trainer.distribution.is_chief:
        stack.enter_context(averaged_weights(pipeline))
        if fit.lora is not None:
            save_lora(pipeline, directory.lora)
        save(pipeline, directory.model)
        directory.update_manifest(
            step=progress.step,
            stopped_before=fit.steps if progress.step < fit.steps else None,
            timings={"training_seconds": round(progress.seconds, 1)},
            peak_memory_mib=peak_memory(),
        )


def _scores(directory: RunDirectory) -> Scores:
    return to_scores(read_results(directory.evaluation))


def _result(directory: RunDirectory, step: int, scores: Scores) -> RunResult:
    return RunResult(directory.path, directory.final_grid, directory.report, step, scores)


@component_errors()
def check(config: RunConfig) -> Pipeline:
    """Builds everything that a run needs, and tries it on two images, without training.

    Raises:
        KgenError: the run would fail; the message says why.
    """
    with precision(config.precision):
        return _build(open_experiment(config), Distribution(), None)[0]


@component_errors()
def open_config(path: str | Path) -> RunConfig:
    """Opens the configuration of a run, with every default. Raises RunError if this is not a run."""
    directory = RunDirectory(find_run(path))
    directory.require_run()
    return RunConfig.load(directory.config)


@component_errors()
def open_dataset(path: str | Path) -> Dataset:
    """Opens the dataset of a run.

    Raises:
        RunError: this is not a run.
        DataError: the data are missing or damaged.
    """
    return read_dataset(open_config(path).data)


@component_errors()
def open_decoder(path: str | Path) -> tuple[Decoder, Encoder]:
    """Opens the trained decoder of a run, and the encoder. Only the stages of these two must be finished.

    Raises:
        RunError: this is not a run, or nothing is trained yet.
    """
    directory = RunDirectory(find_run(path))
    directory.require_run()
    if directory.model.is_dir() or not directory.decoder_stage.model.is_dir():
        pipeline = load(directory.path)
        return pipeline.decoder, pipeline.encoder
    config = RunConfig.load(directory.config)
    dataset = read_dataset(config.data)
    encoder = encoder_with_assets(config, dataset, directory)
    if directory.encoder_stage.model.is_dir():
        load_encoder_weights(directory.encoder_stage.model, encoder)
        freeze_trained(encoder)
    decoder = make_decoder(config.decoder.choice, dataset.image_space, encoder.condition_space, encoder)
    return load_decoder(directory.decoder_stage.model, decoder), encoder


@component_errors()
def open_encoder(path: str | Path) -> Encoder:
    """Opens the trained encoder of a run, or of a saved pipeline.

    If the encoder of a run has a separate training stage, only that stage must be finished.

    Raises:
        RunError: there is no run or saved pipeline, or nothing is trained yet.
    """
    directory = RunDirectory(find_run(path))
    stage = directory.encoder_stage
    if directory.model.is_dir() or not stage.model.is_dir():
        return load(directory.path).encoder
    directory.require_run()
    encoder = build_encoder(RunConfig.load(directory.config).encoder.choice)
    load_encoder_assets(stage.model, encoder)
    load_encoder_weights(stage.model, encoder)
    freeze_trained(encoder)
    return encoder
