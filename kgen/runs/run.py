"""Executes a configuration: data, parts, trainings, samples, scores and report, all in a run directory."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kgen.backend.memory import peak_memory
from kgen.backend.precision import precision
from kgen.config import RunConfig
from kgen.config.changes import Change
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder
from kgen.errors import ConfigError
from kgen.pipeline.assembly import make_decoder, with_decoder
from kgen.pipeline.pipeline import Pipeline
from kgen.pipeline.saving import load, load_decoder, save
from kgen.plugins.faults import component_errors
from kgen.random import seed_everything
from kgen.runs.decoder_stage import DecoderStage
from kgen.runs.directory import RunDirectory
from kgen.runs.evaluation import finish, is_finished
from kgen.runs.experiment import Experiment, needs_stage, open_encoder, open_experiment
from kgen.runs.first_lines import first_lines, going_on, unread_captions
from kgen.runs.initial import describe_initial, load_initial
from kgen.runs.inputs import Inputs, read_dataset
from kgen.runs.preflight import preflight
from kgen.runs.provenance import changed_data, describe
from kgen.runs.samples import renderer
from kgen.runs.scoring import Scores
from kgen.runs.trainer import Log, OnMetrics, Trainer, count_weights
from kgen.storage.files import atomic_folder
from kgen.training.averages import averaged_weights
from kgen.training.distribution import Distribution, open_distribution

Stage = Literal["decoder"]


@dataclass(frozen=True)
class RunResult:
    """What a run left behind; `scores` are empty where it ended before its images were scored."""

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
    stage: Stage | None = None,
    allow_changed_data: bool = False,
    log: Log = print,
    on_metrics: OnMetrics | None = None,
) -> RunResult:
    """Trains what the configuration describes, or goes on where an earlier process stopped.

    What the training does not depend on (`name`, `sample`, `evaluate`, how often `fit` logs and saves) may have changed
    since the run began, and `fit.steps` may have grown: the manifest notes it, and a finished run is scored again after
    the further steps. The learning rate then follows the schedule of the new `fit.steps`, so it may rise again.

    Args:
        out: The run directory; `runs/NAME` by default.
        restart: Begin anew; an older run in that directory is moved aside. Its trained decoder is kept, if nothing has
            changed that it depends on, unless the stage is "decoder".
        stage: Stop after this stage, "decoder".
        allow_changed_data: Go on with the images and captions as they are now, where they have changed.
        log: Gets a line about each thing that begins.
        on_metrics: Is called with the name and the number of steps of each training that begins. What it returns is
            called with the step and the values of each row of that training's journal.

    Raises:
        RunInterruptedError: the user pressed Ctrl-C; the run can be resumed.
        KgenError: anything that the user can mend.
    """
    directory = RunDirectory(out or Path("runs") / config.name)
    if stage == "decoder" and not needs_stage(config):
        raise ConfigError("--stage decoder: the decoder has no 'fit' in this configuration, nothing is to be trained")
    with directory.locked(), contextlib.ExitStack() as stack:
        changes = [] if restart else directory.compare(config)
        if not restart and not changes and is_finished(directory):
            return _result(directory, config.fit.steps, directory.read_scores())
        trainer = Trainer(config, open_distribution(config.distribute), log, on_metrics)
        stack.enter_context(precision(config.precision))
        experiment = open_experiment(config)
        changed = "" if restart else changed_data(directory, experiment.dataset, allow_changed_data)
        trained = stage is None and not restart and directory.is_trained(config.fit.steps)
        pipeline = None if trained else _build(experiment, trainer.distribution, None if restart else directory)
        older = None
        if restart and directory.config.is_file():
            older = stack.enter_context(directory.moved_aside())
            log(f"the older run was moved to {older}")
        _begin(experiment, directory, trainer, pipeline, changes, changed)
        if pipeline is not None:
            if experiment.decoder_data is not None:
                decoder_stage = DecoderStage(config, directory, experiment.decoder_data, pipeline.encoder)
                decoder = decoder_stage.prepare(trainer, older if stage is None else None, allow_changed_data)
                if stage == "decoder":
                    return _result(decoder_stage.directory, decoder_stage.directory.read_manifest("step")["step"], {})
                with trainer.distribution.scope():
                    pipeline = with_decoder(pipeline, decoder)
            _train(experiment, directory, trainer, pipeline, stack)
        if not trainer.distribution.is_chief:
            return _result(directory, config.fit.steps, {})
        log("generating the final images, and scoring")
        if pipeline is None or trainer.distribution.strategy is not None:
            pipeline = load(directory.model)
        return _result(directory, config.fit.steps, finish(experiment, directory, pipeline, log))


def _build(experiment: Experiment, distribution: Distribution, directory: RunDirectory | None) -> Pipeline:
    """Makes the parts, and finds out what would fail only later; writes nothing.

    Args:
        directory: Of the run; None where what lies there will be moved aside.
    """
    config = experiment.config
    if experiment.decoder_data is not None and distribution.workers > 1:
        raise ConfigError("decoder: several workers train no decoder: train it in a run with another 'distribute'")
    for fit in (config.fit, config.decoder.fit):
        if fit is not None:
            distribution.check_batch(fit.batch_size)
    seed_everything(config.seed)
    with distribution.scope():
        pipeline = preflight(experiment, open_encoder(config, experiment.dataset, directory))
        if config.init is not None and (directory is None or not directory.newest_step):
            load_initial(config, pipeline)
    return pipeline


def _begin(
    experiment: Experiment,
    directory: RunDirectory,
    trainer: Trainer,
    pipeline: Pipeline | None,
    changes: Sequence[Change],
    changed: str,
) -> None:
    """Says what there is to train on, and writes down what the run is made of.

    Args:
        pipeline: What is to be trained, if anything is.
        changes: Of the configuration, since the run began.
        changed: How the images and captions have changed since then.
    """
    config, dataset = experiment.config, experiment.dataset
    if changed:
        trainer.log(f"going on with changed images or captions ({changed})")
    unread = [] if pipeline is None else unread_captions(dataset, pipeline.encoder)
    for line in (*going_on(config, changes, directory.newest_step), *first_lines(experiment), *unread):
        trainer.log(line)
    directory.prepare(config)
    if not trainer.distribution.is_chief:
        return
    if changed:
        directory.record(changed=[f"data: {changed}"])
    describe(config, directory, dataset)
    if config.init is not None and not directory.newest_step:
        directory.update_manifest(init=describe_initial(config))
    if pipeline is not None and not directory.assets.is_dir():
        with atomic_folder(directory.assets) as folder:
            pipeline.encoder.save_assets(folder)


def _train(
    experiment: Experiment,
    directory: RunDirectory,
    trainer: Trainer,
    pipeline: Pipeline,
    stack: contextlib.ExitStack,
) -> None:
    """Trains the pipeline (the generator, and an encoder that is not frozen) and saves it.

    Args:
        stack: Until it is closed, the pipeline has its averaged weights.
    """
    fit = experiment.config.fit
    trainer.log(f"{count_weights(pipeline):,} weights to train")
    inputs = Inputs(experiment.dataset, pipeline.encoder, pipeline.decoder, fit.flip)
    progress = trainer.train(pipeline, fit, directory.path, inputs, renderer(experiment, directory, pipeline))
    if trainer.distribution.is_chief:
        stack.enter_context(averaged_weights(pipeline))
        save(pipeline, directory.model)
        timings = {"training_seconds": round(progress.seconds, 1)}
        directory.update_manifest(step=progress.step, timings=timings, peak_memory_mib=peak_memory())


def _result(directory: RunDirectory, step: int, scores: Scores) -> RunResult:
    return RunResult(directory.path, directory.final_grid, directory.report, step, scores)


@component_errors()
def check(config: RunConfig) -> Pipeline:
    """Builds everything that a run needs and tries it on two images, without training.

    Raises:
        KgenError: what is wrong.
    """
    with precision(config.precision):
        return _build(open_experiment(config), Distribution(), None)


@component_errors()
def open_decoder(path: str | Path) -> tuple[Decoder, Encoder]:
    """The trained decoder of a run, finished or just its stage, and the encoder.

    Raises:
        RunError: this is no run, or it has trained nothing yet.
    """
    directory = RunDirectory(path)
    directory.require_run()
    if directory.model.is_dir() or not directory.decoder_stage.model.is_dir():
        pipeline = load(directory.path)
        return pipeline.decoder, pipeline.encoder
    config = RunConfig.load(directory.config)
    dataset = read_dataset(config.data)
    encoder = open_encoder(config, dataset, directory)
    decoder = make_decoder(config.decoder.choice, dataset.image_space, encoder.condition_space)
    return load_decoder(directory.decoder_stage.model, decoder), encoder
