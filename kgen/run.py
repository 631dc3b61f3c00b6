"""Executes a configuration: data, parts, trainings, samples, scores and report, all in a run directory."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from kgen.assembly import Choice, assemble, component_id, make_decoder, make_encoder
from kgen.components.dataset import Dataset
from kgen.components.decoder import Decoder
from kgen.components.encoder import Encoder
from kgen.config import RunConfig
from kgen.decoder_model import DecoderModel
from kgen.decoder_stage import DecoderStage
from kgen.devices import peak_memory
from kgen.errors import ConfigError, RunError, RunInterruptedError
from kgen.faults import component_errors
from kgen.files import atomic_folder, write_text
from kgen.images import grid, save_png
from kgen.inputs import Inputs, all_captions, read_dataset
from kgen.pipeline import Pipeline
from kgen.plugins import registry
from kgen.random import seed_everything
from kgen.registry import Kind
from kgen.report import write_report
from kgen.rundir import RunDirectory, software
from kgen.saving import load, save
from kgen.scoring import Scores, prompts_to_draw, score
from kgen.training.averages import averaged_weights
from kgen.training.distribution import Distribution, open_distribution
from kgen.training.fit import Progress, compile_model, train
from kgen.training.journal import Journal, Listener

Stage = Literal["decoder"]
Say = Callable[[str], None]
Listen = Callable[[str, int], Listener]


@dataclass(frozen=True)
class RunResult:
    """What a run left behind; `scores` are empty where it ended before its pictures were scored."""

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
    say: Say = print,
    listen: Listen | None = None,
) -> RunResult:
    """Trains what the configuration describes, or goes on where an earlier process stopped.

    Args:
        out: The run directory; `runs/NAME` by default.
        restart: Begin anew; an older run in that directory is moved aside. Its trained decoder is kept, if nothing has
            changed that it depends on, unless the stage is "decoder".
        stage: Stop after this stage, "decoder".
        say: Gets a line about each thing that begins.
        listen: Is told of each training that begins, by name and number of steps; what it returns is told of every row
            of that training's journal: step and values.

    Raises:
        RunInterruptedError: the user pressed Ctrl-C; the run can be resumed.
        KgenError: anything that the user can mend.
    """
    directory = RunDirectory(out or Path("runs") / config.name)
    if stage == "decoder" and config.decoder.fit is None:
        raise ConfigError("--stage decoder: the decoder has no 'fit' in this configuration, nothing is to be trained")
    older = directory.prepare(config, restart)
    with directory.locked():
        if not directory.read_manifest().get("finished"):
            distribution = open_distribution(config.distribute)
            keras.config.set_dtype_policy(config.precision)
            runner = _Runner(config, directory, distribution, say, listen)
            progress = runner.prepare_decoder(older if stage is None else None)
            if stage == "decoder":
                return _result(directory.decoder_stage, progress.step, {})
            progress = runner.train()
            if not distribution.is_chief:
                return _result(directory, progress.step, {})
            say("drawing the final pictures, and scoring")
            _finish(config, directory)
        scores = directory.read_scores()
        return _result(directory, config.fit.steps, scores)


def _result(directory: RunDirectory, step: int, scores: Scores) -> RunResult:
    return RunResult(directory.path, directory.final_grid, directory.report, step, scores)


@component_errors()
def check(config: RunConfig) -> Pipeline:
    """Builds everything that a run needs, and trains nothing. Raises KgenError for what is wrong."""
    dataset = read_dataset(config.data)
    if config.decoder.data is not None:
        read_dataset(config.decoder.data)
    encoder = _encoder(config, dataset, None)
    decoder = make_decoder(config.decoder.choice, dataset.image_space, encoder.condition_space)
    if config.decoder.fit is not None:
        DecoderModel(decoder, encoder)
    return _assemble(config, dataset, encoder, decoder)


@component_errors()
def evaluate(path: str | Path) -> Scores:
    """Draws the prompts of a finished run's dataset and scores the pictures; writes them into its report too."""
    directory = RunDirectory(path)
    directory.require_run()
    config = RunConfig.load(directory.config)
    pipeline, dataset = load(directory.model), read_dataset(config.data)
    scores = score(config, pipeline, dataset)
    write_text(directory.evaluation, json.dumps(scores, indent=2) + "\n")
    write_report(directory, dataset.credit)
    return scores


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
        self, config: RunConfig, directory: RunDirectory, distribution: Distribution, say: Say, listen: Listen | None
    ) -> None:
        self.config = config
        self.directory = directory
        self.distribution = distribution
        self.say = say
        self.listen = listen
        self.dataset = read_dataset(config.data)
        self.stage = self._decoder_stage()

    def _decoder_stage(self) -> DecoderStage | None:
        own = self.config.decoder
        if own.fit is None and own.source is None:
            return None
        if self.distribution.workers > 1:
            raise ConfigError("decoder: several workers train no decoder: train it in a run with another 'distribute'")
        data = self.dataset if own.data is None else read_dataset(own.data)
        if data.image_space != self.dataset.image_space:
            here, there = self.dataset.image_space, data.image_space
            raise ConfigError(f"decoder.data: its pictures are {there}, but the run's are {here}")
        return DecoderStage(self.config, self.directory, data, self._new_encoder())

    def prepare_decoder(self, older: Path | None) -> Progress:
        """Has the decoder trained, or fetched from where it is.

        Args:
            older: A run of before, to take it from if it would be the same.
        """
        if self.stage is None:
            return Progress(0, False, 0.0)
        own = self.config.decoder
        if older is not None and own.fit:
            self.stage.reuse(older, self.say)
        if own.fit is None:
            self.stage.take(self.say)
            return Progress(0, False, 0.0)
        listener = self._listener("decoder", own.fit.steps, self.stage.finished)
        progress = self.stage.train(self.distribution, self.say, listener)
        self._stop_if_interrupted(progress, own.fit.steps, "the decoder's ")
        return progress

    def train(self) -> Progress:
        """Trains the pipeline: the generator, and an encoder that is not frozen."""
        config, directory, dataset, distribution = self.config, self.directory, self.dataset, self.distribution
        for note in dataset.notes():
            self.say(note)
        for problem in dataset.problems():
            self.say(f"skipped {problem.where}: {problem.what}")
        decoder = config.decoder.choice if self.stage is None else self.stage.decoder(load=True)
        seed_everything(config.seed)
        with distribution.scope():
            pipeline = _assemble(config, dataset, self._new_encoder(), decoder)
            compile_model(pipeline, config.fit)
        if distribution.is_chief:
            _describe(config, directory, dataset, pipeline)
        self.say(
            f"{len(dataset.captions('train'))} pictures of {dataset.image_space}; "
            f"{sum(int(np.prod(v.shape)) for v in pipeline.trainable_variables):,} weights to train"
        )
        pipeline.encoder.tokenize([*all_captions(dataset), *prompts_to_draw(config, dataset)])  # fails now, or never
        inputs = Inputs(dataset, pipeline.encoder, pipeline.decoder, config.fit.flip)
        alone = distribution.workers == 1
        listener = self._listener("training", config.fit.steps)
        progress = train(
            pipeline,
            config.fit,
            directory.path,
            data=inputs.loader("train", config.fit.batch_size, distribution.worker, distribution.workers),
            validation=inputs.unseen(config.fit.batch_size) if alone else None,
            distribution=distribution,
            seed=config.seed,
            sample_every=config.sample.every,
            draw=_drawer(config, directory, pipeline, dataset) if alone else None,
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
        return None if self.listen is None or finished else self.listen(name, steps)

    def _stop_if_interrupted(self, progress: Progress, steps: int, whose: str = "") -> None:
        if progress.interrupted:
            raise RunInterruptedError(
                f"stopped at {whose}step {progress.step} of {steps}; a checkpoint is saved. "
                "Give the same command again to go on"
            )


def _finish(config: RunConfig, directory: RunDirectory) -> None:
    """Draws and scores with what was saved, as anybody else would."""
    pipeline, dataset = load(directory.model), read_dataset(config.data)
    began = time.perf_counter()
    prompts = prompts_to_draw(config, dataset)
    images = _draw(config, pipeline, prompts)
    _save_grid(config, directory.final_grid, prompts, images)
    timings = {**directory.read_manifest()["timings"], "drawing_seconds": round(time.perf_counter() - began, 1)}
    write_text(directory.evaluation, json.dumps(score(config, pipeline, dataset), indent=2) + "\n")
    directory.update_manifest(timings=timings, finished=time.strftime("%Y-%m-%d %H:%M:%S"))
    write_report(directory, dataset.credit)


def _assemble(config: RunConfig, dataset: Dataset, encoder: Encoder, decoder: Choice | Decoder) -> Pipeline:
    return assemble(
        encoder=encoder,
        generator=config.generator.choice,
        decoder=decoder,
        dataset=dataset,
        condition_dropout=config.condition_dropout,
    )


def _encoder(config: RunConfig, dataset: Dataset, directory: RunDirectory | None) -> Encoder:
    """The encoder with what it learned from the captions: once for a run, then read back."""
    if directory is not None and directory.assets.is_dir():
        encoder = make_encoder(config.encoder.choice, captions=None)
        encoder.load_assets(directory.assets)
        return encoder
    encoder = make_encoder(config.encoder.choice, dataset.captions("train"))
    if directory is not None:
        with atomic_folder(directory.assets) as folder:
            encoder.save_assets(folder)
    return encoder


def _drawer(
    config: RunConfig, directory: RunDirectory, pipeline: Pipeline, dataset: Dataset
) -> Callable[[int, str, Journal], None]:
    prompts = prompts_to_draw(config, dataset)

    def draw(step: int, suffix: str, journal: Journal) -> None:
        images = _draw(config, pipeline, prompts)
        sheet = _save_grid(config, directory.samples / f"step-{step:08d}{suffix}.png", prompts, images)
        buffer = io.BytesIO()
        sheet.save(buffer, format="PNG")
        journal.picture(step, f"samples{suffix}", buffer.getvalue(), sheet.size)

    return draw


def _draw(config: RunConfig, pipeline: Pipeline, prompts: Sequence[str]) -> np.ndarray:
    sample = config.sample
    return pipeline.generate(prompts, seed=sample.seed, shared_noise=sample.shared_noise, **sample.options)


def _save_grid(config: RunConfig, path: Path, prompts: Sequence[str], images: np.ndarray) -> Any:
    sheet = grid(images, prompts)
    metadata = {"prompt": "; ".join(prompts), "seed": str(config.sample.seed), "model": config.name}
    save_png(path, sheet, metadata)
    return sheet


def _describe(config: RunConfig, directory: RunDirectory, dataset: Dataset, pipeline: Pipeline) -> None:
    """Writes down what the run is made of. Raises RunError where its data has changed since it began."""
    fingerprint = dataset.fingerprint()
    before = directory.read_manifest().get("data", {}).get("fingerprint", fingerprint)
    if before != fingerprint:
        raise RunError(
            f"the pictures or captions have changed since {directory.path} began: start again with --restart"
        )
    parts: dict[Kind, Any] = {
        "dataset": dataset,
        **{k: getattr(pipeline, k) for k in ("encoder", "generator", "decoder")},
    }
    components = {}
    for kind, part in parts.items():
        component = registry().find(kind, component_id(kind, part))
        components[kind] = {
            "id": component.id,
            "distribution": component.origin.distribution,
            "version": component.origin.version,
        }
    directory.update_manifest(
        name=config.name,
        seed=config.seed,
        software=software(keras.backend.backend()),
        components=components,
        data={
            "fingerprint": fingerprint,
            "pictures": len(dataset.captions("train")),
            "held_out": len(dataset.captions("holdout")),
            "skipped": [f"{p.where}: {p.what}" for p in dataset.problems()],
            "credit": dataset.credit,
        },
    )
