"""Executes a configuration: data, parts, training, samples, scores and report, all in a run directory."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kgen.assembly import assemble, component_id, make_dataset, make_encoder, make_metric
from kgen.components.dataset import Dataset, Split
from kgen.components.encoder import Encoder
from kgen.config import ComponentConfig, RunConfig
from kgen.data.conditions import ConditionCache, cached_conditions
from kgen.data.loader import Loader
from kgen.devices import peak_memory
from kgen.errors import ConfigError, DataError, RunError, RunInterruptedError
from kgen.files import atomic_folder, write_text
from kgen.images import grid, save_png
from kgen.likelihood import bits_per_dimension
from kgen.pipeline import Pipeline
from kgen.plugins import registry
from kgen.random import seed_everything
from kgen.registry import Kind
from kgen.report import write_report
from kgen.rundir import RunDirectory, software
from kgen.saving import load, save
from kgen.training.averages import averaged_weights
from kgen.training.distribution import Distribution, open_distribution
from kgen.training.fit import Progress, compile_pipeline, train
from kgen.training.journal import Journal, Listener

Say = Callable[[str], None]
Scores = dict[str, dict[str, float]]

MAX_PROMPTS_DRAWN = 16

BITS = "bits per dimension"
"""Name of a score: of the negative log-likelihood, less is better."""


@dataclass(frozen=True)
class RunResult:
    """What a run left behind."""

    directory: Path
    grid: Path
    report: Path
    step: int
    scores: Scores


def run(
    config: RunConfig,
    out: str | Path | None = None,
    restart: bool = False,
    *,
    say: Say = print,
    listeners: Sequence[Listener] = (),
) -> RunResult:
    """Trains what the configuration describes, or goes on where an earlier process stopped.

    Args:
        out: The run directory; `runs/NAME` by default.
        restart: Begin anew; an older run in that directory is moved aside.
        say: Gets a line about each thing that begins.
        listeners: Get (step, values) of every row of the journal.

    Raises:
        RunInterruptedError: the user pressed Ctrl-C; the run can be resumed.
        KgenError: anything that the user can mend.
    """
    directory = RunDirectory(out or Path("runs") / config.name)
    directory.prepare(config, restart)
    with directory.locked():
        manifest = directory.read_manifest()
        if not manifest.get("finished"):
            distribution = open_distribution(config.distribute)
            progress = _train(config, directory, distribution, say, listeners)
            if progress.interrupted:
                raise RunInterruptedError(
                    f"stopped at step {progress.step} of {config.fit.steps}; a checkpoint is saved. "
                    "Give the same command again to go on"
                )
            if not distribution.is_chief:
                return RunResult(directory.path, directory.final_grid, directory.report, progress.step, {})
            say("drawing the final pictures, and scoring")
            _finish(config, directory)
        scores = json.loads(directory.evaluation.read_text(encoding="utf-8"))
        return RunResult(directory.path, directory.final_grid, directory.report, config.fit.steps, scores)


def check(config: RunConfig) -> Pipeline:
    """Builds everything that a run needs, and trains nothing. Raises KgenError for what is wrong."""
    return _assemble(config, read_dataset(config), None)


def evaluate(path: str | Path) -> Scores:
    """Draws the prompts of a finished run's dataset and scores the pictures; writes them into its report too."""
    directory = RunDirectory(path)
    directory.require_run()
    config = RunConfig.load(directory.config)
    pipeline, dataset = load(directory.model), read_dataset(config)
    scores = _score(config, pipeline, dataset)
    write_text(directory.evaluation, json.dumps(scores, indent=2) + "\n")
    write_report(directory, dataset.credit)
    return scores


def _train(
    config: RunConfig, directory: RunDirectory, distribution: Distribution, say: Say, listeners: Sequence[Listener]
) -> Progress:
    seed_everything(config.seed)
    keras.config.set_dtype_policy(config.precision)
    dataset = read_dataset(config)
    for problem in dataset.problems():
        say(f"skipped {problem.where}: {problem.what}")
    with distribution.scope():
        pipeline = _assemble(config, dataset, directory if distribution.is_chief else None)
        compile_pipeline(pipeline, config.fit)
    if distribution.is_chief:
        _describe(config, directory, dataset, pipeline)
    say(
        f"{len(dataset.captions('train'))} pictures of {dataset.image_space}; "
        f"{sum(int(np.prod(v.shape)) for v in pipeline.trainable_variables):,} weights to train"
    )
    pipeline.encoder.tokenize([*_captions(dataset), *prompts_to_draw(config, dataset)])  # fails now, or never
    conditions = _conditions(pipeline.encoder, dataset)
    alone = distribution.workers == 1
    progress = train(
        pipeline,
        config.fit,
        directory.path,
        data=_loader(config, dataset, "train", pipeline, conditions, distribution),
        validation=_validation(config, dataset, pipeline, conditions) if alone else None,
        distribution=distribution,
        seed=config.seed,
        sample_every=config.sample.every,
        draw=_drawer(config, directory, pipeline, dataset) if alone else None,
        listeners=listeners,
    )
    if distribution.is_chief and not progress.interrupted:
        with averaged_weights(pipeline):
            save(pipeline, directory.model)
        timings = {"training_seconds": round(progress.seconds, 1)}
        directory.update_manifest(step=progress.step, timings=timings, peak_memory_mib=peak_memory())
    return progress


def _finish(config: RunConfig, directory: RunDirectory) -> None:
    """Draws and scores with what was saved, as anybody else would."""
    pipeline, dataset = load(directory.model), read_dataset(config)
    began = time.perf_counter()
    prompts = prompts_to_draw(config, dataset)
    images = pipeline.generate(prompts, seed=config.sample.seed, **config.sample.options)
    _save_grid(config, directory.final_grid, prompts, images)
    timings = {**directory.read_manifest()["timings"], "drawing_seconds": round(time.perf_counter() - began, 1)}
    write_text(directory.evaluation, json.dumps(_score(config, pipeline, dataset), indent=2) + "\n")
    directory.update_manifest(timings=timings, finished=time.strftime("%Y-%m-%d %H:%M:%S"))
    write_report(directory, dataset.credit)


def read_dataset(config: RunConfig) -> Dataset:
    """The dataset of a run. Raises DataError where it has nothing to train on."""
    dataset = make_dataset(_choice(config.data))
    if not dataset.captions("train"):
        raise DataError(f"dataset '{config.data.name}' has no pictures to train on: see its options")
    return dataset


def _assemble(config: RunConfig, dataset: Dataset, directory: RunDirectory | None) -> Pipeline:
    return assemble(
        encoder=_encoder(config, dataset, directory),
        generator=_choice(config.generator),
        decoder=_choice(config.decoder),
        dataset=dataset,
        condition_dropout=config.condition_dropout,
    )


def _encoder(config: RunConfig, dataset: Dataset, directory: RunDirectory | None) -> Encoder:
    """The encoder with what it learned from the captions: once for a run, then read back."""
    if directory is not None and directory.assets.is_dir():
        encoder = make_encoder(_choice(config.encoder), captions=None)
        encoder.load_assets(directory.assets)
        return encoder
    encoder = make_encoder(_choice(config.encoder), dataset.captions("train"))
    if directory is not None:
        with atomic_folder(directory.assets) as folder:
            encoder.save_assets(folder)
    return encoder


def _conditions(encoder: Encoder, dataset: Dataset) -> ConditionCache | None:
    """A frozen encoder's outputs, computed once for all captions; None for an encoder that is trained."""
    if encoder.trainable or not encoder.weights:
        return None
    return cached_conditions(encoder, _captions(dataset), cache_folder())


def _captions(dataset: Dataset) -> list[str]:
    """The different captions of all splits."""
    splits: tuple[Split, ...] = ("train", "validation", "holdout")
    return list(dict.fromkeys(caption for split in splits for caption in dataset.captions(split)))


def cache_folder() -> Path:
    """Where caches lie: $KGEN_CACHE, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("KGEN_CACHE") or Path(base) / "kgen")


def _loader(
    config: RunConfig,
    dataset: Dataset,
    split: Split,
    pipeline: Pipeline,
    conditions: ConditionCache | None,
    distribution: Distribution,
) -> Loader:
    return Loader(
        dataset,
        pipeline.encoder,
        batch_size=config.fit.batch_size,
        split=split,
        conditions=conditions,
        shard=distribution.worker,
        shards=distribution.workers,
    )


def _validation(
    config: RunConfig, dataset: Dataset, pipeline: Pipeline, conditions: ConditionCache | None
) -> Loader | None:
    """Pictures to measure the loss on: a validation split, else what was held out."""
    splits: tuple[Split, ...] = ("validation", "holdout")
    split = next((s for s in splits if dataset.captions(s)), None)
    return _loader(config, dataset, split, pipeline, conditions, Distribution()) if split else None


def prompts_to_draw(config: RunConfig, dataset: Dataset) -> list[str]:
    """The prompts of a run's grids: those configured, else some of the dataset's, held-out ones last."""
    if config.sample.prompts is not None:
        return list(config.sample.prompts)
    held = dataset.prompts("holdout")[: MAX_PROMPTS_DRAWN // 4]
    seen = dataset.prompts("train")
    return _spread(seen, MAX_PROMPTS_DRAWN - len(held)) + held


def _spread(items: list[str], count: int) -> list[str]:
    """At most `count` items, evenly taken from the whole list."""
    if len(items) <= count:
        return items
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, count)]


def _drawer(
    config: RunConfig, directory: RunDirectory, pipeline: Pipeline, dataset: Dataset
) -> Callable[[int, str, Journal], None]:
    prompts = prompts_to_draw(config, dataset)

    def draw(step: int, suffix: str, journal: Journal) -> None:
        images = pipeline.generate(prompts, seed=config.sample.seed, **config.sample.options)
        sheet = _save_grid(config, directory.samples / f"step-{step:08d}{suffix}.png", prompts, images)
        buffer = io.BytesIO()
        sheet.save(buffer, format="PNG")
        journal.picture(step, f"samples{suffix}", buffer.getvalue(), sheet.size)

    return draw


def _save_grid(config: RunConfig, path: Path, prompts: Sequence[str], images: np.ndarray) -> Any:
    sheet = grid(images, prompts)
    metadata = {"prompt": "; ".join(prompts), "seed": str(config.sample.seed), "model": config.name}
    save_png(path, sheet, metadata)
    return sheet


def _score(config: RunConfig, pipeline: Pipeline, dataset: Dataset) -> Scores:
    """Scores by split ("train": prompts that were trained on; "holdout"), each metric's numbers under its name."""
    metrics = [(choice.name.split("/")[-1], make_metric(_choice(choice))) for choice in config.evaluate.metrics]
    for name, metric in metrics:
        if metric.requires is not None and not isinstance(dataset, metric.requires):
            raise ConfigError(f"metric '{name}' needs the dataset {metric.requires.__name__}")
    scores: Scores = {}
    splits: tuple[Split, ...] = ("train", "holdout")
    for split in splits:
        prompts = _spread(dataset.prompts(split), config.evaluate.limit)
        if not metrics or not prompts:
            continue
        copies, options = config.evaluate.copies, config.sample.options
        images = pipeline.generate(
            prompts, n=copies, seed=config.sample.seed, batch_size=config.evaluate.batch_size, **options
        )
        repeated = [prompt for prompt in prompts for _ in range(copies)]
        scores[split] = {
            f"{name} {key}": float(value)
            for name, metric in metrics
            for key, value in metric(images, repeated, split, dataset).items()
        }
    for measured, bits in _likelihood(config, pipeline, dataset).items():
        scores.setdefault(measured, {}).update(bits)
    return scores


def _likelihood(config: RunConfig, pipeline: Pipeline, dataset: Dataset) -> Scores:
    """Bits a number, by the split whose pictures were measured; empty where the configuration asks for none."""
    wanted = config.evaluate.likelihood
    if not wanted.pictures:
        return {}
    splits: tuple[Split, ...] = ("validation", "holdout", "train")
    split = next(s for s in splits if dataset.captions(s))
    captions = dataset.captions(split)[: wanted.pictures]
    images = np.stack([dataset.image(split, i) for i in range(len(captions))])
    nats = pipeline.log_likelihood(images, captions, batch_size=config.evaluate.batch_size, **wanted.options)
    return {split: {BITS: float(bits_per_dimension(nats, dataset.image_space.size).mean())}}


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


def _choice(component: ComponentConfig) -> dict[str, Any]:
    return {"name": component.name, **component.options}
