"""Executes a configuration: data, parts, trainings, samples, scores and report, all in a run directory."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from kgen.backend.memory import peak_memory
from kgen.backend.precision import precision
from kgen.config import FitConfig, RunConfig
from kgen.config.changes import STEPS, Change
from kgen.contracts.dataset import Dataset
from kgen.contracts.decoder import Decoder
from kgen.contracts.encoder import Encoder
from kgen.errors import ConfigError, RunInterruptedError
from kgen.pipeline.assembly import Choice, assemble, make_encoder
from kgen.pipeline.pipeline import Pipeline
from kgen.pipeline.saving import load, save
from kgen.plugins.faults import component_errors
from kgen.random import seed_everything
from kgen.runs.decoder_stage import DecoderStage, needs_stage
from kgen.runs.directory import RunDirectory
from kgen.runs.evaluation import finish, generate_prompts, is_finished, save_grid
from kgen.runs.first_lines import first_lines, unread_captions
from kgen.runs.initial import describe_initial, initial_assets, load_initial
from kgen.runs.inputs import Inputs, read_dataset
from kgen.runs.preflight import preflight
from kgen.runs.prompts import prompts_to_generate
from kgen.runs.provenance import changed_data, describe
from kgen.runs.scoring import Scores
from kgen.storage.files import atomic_folder
from kgen.training.averages import averaged_weights
from kgen.training.distribution import Distribution, open_distribution
from kgen.training.fit import Progress, compile_model, train
from kgen.training.journal import Journal, Listener
from kgen.training.optimizer import WarmUp

Stage = Literal["decoder"]
Log = Callable[[str], None]
OnMetrics = Callable[[str, int], Listener]


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
        distribution = open_distribution(config.distribute)
        stack.enter_context(precision(config.precision))
        runner = _Runner(config, directory, distribution, log, on_metrics)
        changed = "" if restart else changed_data(directory, runner.dataset, allow_changed_data)
        trained = not restart and directory.is_trained(config.fit.steps)
        if not trained or stage == "decoder":
            runner.check(restart)
        older = None
        if restart and directory.config.is_file():
            older = stack.enter_context(directory.moved_aside())
            log(f"the older run was moved to {older}")
        runner.start(changes, changed, allow_changed_data)
        if not trained or stage == "decoder":
            progress = runner.prepare_decoder(older if stage is None else None)
            if stage == "decoder":
                return _result(directory.decoder_stage, progress.step, {})
            runner.train()
        if not distribution.is_chief:
            return _result(directory, config.fit.steps, {})
        log("drawing the final images, and scoring")
        return _result(directory, config.fit.steps, finish(config, directory, runner.dataset, log))


def _going_on(directory: RunDirectory, changes: Sequence[Change], config: RunConfig) -> Iterator[str]:
    """What a run says that goes on with a changed configuration."""
    for change in changes:
        yield f"changed since the run began: {change}"
        if change.key == STEPS:
            yield _new_schedule(config.fit, directory.newest_step, change)


def _new_schedule(fit: FitConfig, step: int, change: Change) -> str:
    """What more steps do to the learning rate."""
    before, now = (
        float(WarmUp(fit.learning_rate, fit.warmup_steps, steps if fit.schedule == "cosine" else None)(step))
        for steps in (change.before, change.now)
    )
    return (
        f"from step {step} on, the learning rate follows the schedule of {change.now} steps: {now:.3g} there; "
        f"by that of {change.before} steps it would be {before:.3g}"
    )


def _result(directory: RunDirectory, step: int, scores: Scores) -> RunResult:
    return RunResult(directory.path, directory.final_grid, directory.report, step, scores)


@component_errors()
def check(config: RunConfig) -> Pipeline:
    """Builds everything that a run needs and tries it on two images, without training.

    Raises:
        KgenError: what is wrong.
    """
    with precision(config.precision):
        dataset = read_dataset(config.data)
        pipeline = preflight(config, dataset, _decoder_data(config, dataset), _encoder(config, dataset, None))
        if config.init is not None:
            load_initial(config, pipeline)
        return pipeline


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
    encoder = _encoder(config, dataset, directory)
    return DecoderStage(config, directory, dataset, encoder).decoder(load=True), encoder


class _Runner:
    """The trainings of one run, in their order."""

    def __init__(
        self,
        config: RunConfig,
        directory: RunDirectory,
        distribution: Distribution,
        log: Log,
        on_metrics: OnMetrics | None,
    ) -> None:
        self.config = config
        self.directory = directory
        self.distribution = distribution
        self.log = log
        self.on_metrics = on_metrics
        self.dataset = read_dataset(config.data)
        self.decoder_data = _decoder_data(config, self.dataset)
        self.unread: list[str] = []
        self.stage: DecoderStage | None = None
        self.changed_data = False

    def check(self, anew: bool) -> None:
        """Finds out what would fail only later; writes nothing.

        Args:
            anew: Whether what lies in the directory will be moved aside.
        """
        if self.decoder_data is not None and self.distribution.workers > 1:
            raise ConfigError("decoder: several workers train no decoder: train it in a run with another 'distribute'")
        for fit in (self.config.fit, self.config.decoder.fit):
            if fit is not None:
                self.distribution.check_batch(fit.batch_size)
        encoder = _encoder(self.config, self.dataset, None if anew else self.directory, write=False)
        self.unread = list(unread_captions(self.dataset, encoder))
        pipeline = preflight(self.config, self.dataset, self.decoder_data, encoder)
        if self.config.init is not None and (anew or not self.directory.newest_step):
            load_initial(self.config, pipeline)

    def start(self, changes: Sequence[Change], changed: str, allow_changed_data: bool) -> None:
        """Says what there is to train on, and writes down what the run is made of.

        Args:
            changes: Of the configuration, since the run began.
            changed: How the images and captions have changed since then.
            allow_changed_data: Whether those of the decoder's stage may have changed, too.
        """
        config, directory = self.config, self.directory
        self.changed_data = allow_changed_data
        if changed:
            self.log(f"going on with changed images or captions ({changed})")
        data = first_lines(config, self.dataset, self.decoder_data)
        for line in (*_going_on(directory, changes, config), *data, *self.unread):
            self.log(line)
        directory.prepare(config)
        if self.distribution.is_chief:
            if changed:
                directory.record(changed=[f"data: {changed}"])
            describe(config, directory, self.dataset)
            if config.init is not None and not directory.newest_step:
                directory.update_manifest(init=describe_initial(config))
        if self.decoder_data is not None:
            self.stage = DecoderStage(config, directory, self.decoder_data, self._new_encoder())

    def prepare_decoder(self, older: Path | None) -> Progress:
        """Has the decoder trained, or fetched from where it is.

        Args:
            older: A run of before, to take it from if it would be the same.
        """
        if self.stage is None:
            return Progress(0, False, 0.0)
        own = self.config.decoder
        if older is not None and own.source is None:
            self.stage.reuse_previous(older, self.log)
        if own.source is not None:
            self.stage.import_from_run(self.log)
            return Progress(0, False, 0.0)
        if own.fit is None:
            return self.stage.calibrate(self.log, self.changed_data)
        listener = self._listener("decoder", own.fit.steps, self.stage.finished)
        progress = self.stage.train(self.distribution, self.log, listener, self.changed_data)
        self._stop_if_interrupted(progress, own.fit.steps, "the decoder's ")
        return progress

    def train(self) -> Progress:
        """Trains the pipeline: the generator, and an encoder that is not frozen."""
        config, directory, dataset, distribution = self.config, self.directory, self.dataset, self.distribution
        decoder = config.decoder.choice if self.stage is None else self.stage.decoder(load=True)
        seed_everything(config.seed)
        with distribution.scope():
            pipeline = _assemble(config, dataset, self._new_encoder(), decoder)
            if config.init is not None and not directory.newest_step:
                load_initial(config, pipeline)
            compile_model(pipeline, config.fit)
        self.log(f"{sum(int(np.prod(v.shape)) for v in pipeline.trainable_variables):,} weights to train")
        inputs = Inputs(dataset, pipeline.encoder, pipeline.decoder, config.fit.flip)
        alone = distribution.workers == 1
        listener = self._listener("training", config.fit.steps)
        progress = train(
            pipeline,
            config.fit,
            directory.path,
            data=inputs.loader("train", config.fit.batch_size, distribution.worker, distribution.workers),
            validation=inputs.validation_loader(config.fit.batch_size) if alone else None,
            distribution=distribution,
            seed=config.seed,
            sample_every=config.sample.every,
            render=_renderer(config, directory, pipeline, dataset) if alone else None,
            listeners=[listener] if listener else [],
        )
        self._stop_if_interrupted(progress, config.fit.steps)
        if distribution.is_chief:
            with averaged_weights(pipeline):
                save(pipeline, directory.model)
            timings = {"training_seconds": round(progress.seconds, 1)}
            directory.update_manifest(step=progress.step, timings=timings, peak_memory_mib=peak_memory())
        return progress

    def _new_encoder(self) -> Encoder:
        return _encoder(self.config, self.dataset, self.directory if self.distribution.is_chief else None)

    def _listener(self, name: str, steps: int, finished: bool = False) -> Listener | None:
        return None if self.on_metrics is None or finished else self.on_metrics(name, steps)

    def _stop_if_interrupted(self, progress: Progress, steps: int, whose: str = "") -> None:
        if progress.interrupted:
            raise RunInterruptedError(
                f"stopped at {whose}step {progress.step} of {steps}; a checkpoint is saved. "
                "Give the same command again to go on"
            )


def _decoder_data(config: RunConfig, dataset: Dataset) -> Dataset | None:
    """What a stage of the decoder reads; None where there is no such stage.

    Raises:
        ConfigError: its images are of another size than the run's.
    """
    own = config.decoder
    if own.source is None and not needs_stage(config):
        return None
    data = dataset if own.data is None else read_dataset(own.data)
    if data.image_space != dataset.image_space:
        raise ConfigError(f"decoder.data: its images are {data.image_space}, but the run's are {dataset.image_space}")
    return data


def _assemble(config: RunConfig, dataset: Dataset, encoder: Encoder, decoder: Choice | Decoder) -> Pipeline:
    return assemble(
        encoder=encoder,
        generator=config.generator.choice,
        decoder=decoder,
        dataset=dataset,
        condition_dropout=config.condition_dropout,
    )


def _encoder(config: RunConfig, dataset: Dataset, directory: RunDirectory | None, write: bool = True) -> Encoder:
    """The encoder with what it learned from the captions: once for a run, then read back.

    Args:
        directory: Of the run, if that is to be read back.
        write: Whether it is to be kept there, if it is not yet.
    """
    if directory is not None and directory.assets.is_dir():
        encoder = make_encoder(config.encoder.choice, None)
        encoder.load_assets(directory.assets)
        return encoder
    if config.init is None:
        encoder = make_encoder(config.encoder.choice, None, dataset)
    else:
        encoder = make_encoder(config.encoder.choice, None)
        initial_assets(config, encoder)
    if directory is not None and write:
        with atomic_folder(directory.assets) as folder:
            encoder.save_assets(folder)
    return encoder


def _renderer(
    config: RunConfig, directory: RunDirectory, pipeline: Pipeline, dataset: Dataset
) -> Callable[[int, str, Journal], None]:
    prompts = prompts_to_generate(config, dataset, pipeline.encoder)

    def render(step: int, suffix: str, journal: Journal) -> None:
        images = generate_prompts(config, pipeline, prompts)
        sheet = save_grid(config, directory.samples / f"step-{step:08d}{suffix}.png", prompts.texts, images)
        buffer = io.BytesIO()
        sheet.save(buffer, format="PNG")
        journal.image(step, f"samples{suffix}", buffer.getvalue(), sheet.size)

    return render
