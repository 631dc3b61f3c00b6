"""Opens the data, the metrics and the encoder of a run, once for all of its steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kgen.config import ComponentConfig, RunConfig, StagedConfig
from kgen.config.staged import STAGED, Staged, learning_of
from kgen.contracts.dataset import Dataset
from kgen.contracts.encoder import Encoder
from kgen.contracts.metric import Metric
from kgen.errors import ConfigError, RunError
from kgen.experiments.directory import RunDirectory
from kgen.experiments.initial import initial_assets, initial_stage_assets
from kgen.experiments.inputs import read_dataset
from kgen.experiments.shapes import check_config, check_encoder_stage, check_metric
from kgen.parts.construction import adapt_encoder, build_encoder, find, make_metric
from kgen.parts.saving import load_encoder_assets

Metrics = Mapping[str, Metric]
"""Metrics by the prefix of the names of their scores."""


@dataclass(frozen=True)
class Experiment:
    """A validated configuration, with its opened data and metrics.

    Args:
        config: The configuration.
        dataset: The dataset of the pipeline's training.
        stages: The dataset of the training of the encoder and of the decoder, if they have a stage; empty if the run is
            already trained.
        metrics: The metrics of `evaluate.metrics`.
    """

    config: RunConfig
    dataset: Dataset
    stages: Mapping[Staged, Dataset]
    metrics: Metrics

    @property
    def choices(self) -> Mapping[str, ComponentConfig]:
        """The configuration of each metric, by the name in `metrics`."""
        return dict(zip(self.metrics, self.config.evaluate.metrics, strict=True))


def open_experiment(config: RunConfig, *, trained: bool = False) -> Experiment:
    """Opens the data and the metrics of a configuration.

    Args:
        config: The configuration.
        trained: Whether the run is already trained, so that the data of other trainings are not needed.

    Raises:
        ConfigError: a metric does not support the dataset, or is given twice; the images of the decoder's training
            have another size; or the images have several shapes, and a setting does not support this.
        DataError: the data are missing or damaged, or there are no training images.
    """
    dataset = read_dataset(config.data)
    check_config(config, dataset)
    stages = {} if trained else _stage_data(config, dataset)
    if "encoder" in stages and config.encoder.source is None and not is_imported(config, "encoder"):
        check_encoder_stage(config.encoder.name, stages["encoder"])
    return Experiment(config, dataset, stages, _open_metrics(config.evaluate.metrics, dataset))


def needs_stage(config: RunConfig, kind: Staged) -> bool:
    """Whether a run trains, calibrates or imports its encoder or decoder in a separate stage."""
    own: StagedConfig = getattr(config, kind)
    return is_imported(config, kind) or (
        own.source is None and learning_of(kind, find(kind, own.name)[0].load()).learns
    )


def is_imported(config: RunConfig, kind: Staged) -> bool:
    """Whether a run has an encoder or decoder whose weights come from files, and which it does not train further."""
    own: StagedConfig = getattr(config, kind)
    return own.source is None and own.fit is None and is_pretrained(config, kind)


def is_pretrained(config: RunConfig, kind: Staged) -> bool:
    """Whether the weights of the encoder or decoder come from files that its options name."""
    own: StagedConfig = getattr(config, kind)
    return bool(find(kind, own.name)[0].load().is_pretrained(own.options))


def encoder_with_assets(config: RunConfig, dataset: Dataset, directory: RunDirectory | None) -> Encoder:
    """Makes the encoder of a run, with its assets, such as a vocabulary. Its weights are not built yet.

    Args:
        config: The configuration.
        dataset: The dataset of the encoder's training, from whose captions it learns its assets.
        directory: The directory of a run that continues, which contains the assets.

    Raises:
        RunError: `from` names a run that has not trained an encoder, or one with other options.
    """
    encoder, own = build_encoder(config.encoder.choice), config.encoder
    if directory is not None and directory.assets.is_dir():
        encoder.load_assets(directory.assets)
    elif own.source is not None:
        load_encoder_assets(trained_part(own.source, "encoder").model, encoder)
    elif not (initial_stage_assets(own.init, encoder) if own.fit else initial_assets(config.init, encoder)):
        adapt_encoder(encoder, dataset)
    return encoder


def known_assets(config: RunConfig, directory: RunDirectory | None) -> dict[str, Path]:
    """The folders of the assets that a decoder or generator already has, by part.

    Args:
        config: The configuration.
        directory: The directory of a run that continues.

    Raises:
        RunError: `from` names a run that has not trained a decoder.
    """
    found = {"decoder": _decoder_assets(config, directory)}
    if directory is not None and directory.newest_step and directory.generator_assets.is_dir():
        found["generator"] = directory.generator_assets
    return {part: folder for part, folder in found.items() if folder is not None}


def _decoder_assets(config: RunConfig, directory: RunDirectory | None) -> Path | None:
    """The folder of the assets of a pretrained decoder that a run already has; None: its files are read.

    Args:
        config: The configuration.
        directory: The directory of a run that continues.

    Raises:
        RunError: `from` names a run that has not trained a decoder.
    """
    if not is_pretrained(config, "decoder"):
        return None
    if config.decoder.source is not None:
        return trained_part(config.decoder.source, "decoder").model
    finished = directory is not None and directory.decoder_stage.read_manifest().get("finished")
    return directory.decoder_stage.model if directory is not None and finished else None


def trained_part(source: str, kind: Staged) -> RunDirectory:
    """The stage of another run, `from` in a run file. Raises RunError if that run has not trained this part."""
    run = RunDirectory(source)
    if not run.stage(kind).read_manifest().get("finished"):
        raise RunError(f"{run.path} has no trained {kind}: train it first, or set 'from' to another run")
    return run.stage(kind)


def _stage_data(config: RunConfig, dataset: Dataset) -> dict[Staged, Dataset]:
    found: dict[Staged, Dataset] = {}
    for kind in STAGED:
        own: StagedConfig = getattr(config, kind)
        if own.source is None and not needs_stage(config, kind):
            continue
        data = dataset if own.data is None else read_dataset(own.data)
        if kind == "decoder" and data.image_space != dataset.image_space:
            raise ConfigError(
                f"decoder.data: its images are {data.image_space}, but the run's are {dataset.image_space}"
            )
        found[kind] = data
    return found


def _open_metrics(chosen: tuple[ComponentConfig, ...], dataset: Dataset) -> Metrics:
    """The metrics by name, without the namespace, unless two metrics have the same name."""
    bare = Counter(metric.name.split("/")[-1] for metric in chosen)
    metrics: dict[str, Metric] = {}
    for choice in chosen:
        name = choice.name.split("/")[-1]
        name = name if bare[name] == 1 else choice.name
        if name in metrics:
            raise ConfigError(f"evaluate.metrics: '{name}' is given twice, and its scores have one name: keep one")
        metric = make_metric(choice.choice)
        if metric.pairs:
            raise ConfigError(
                f"evaluate.metrics: '{name}' compares pairs of images, but generated images have no counterpart: "
                "compare two folders, with 'kgen evaluate FOLDER FOLDER'"
            )
        if metric.requires is not None and not isinstance(dataset, metric.requires):
            raise ConfigError(
                f"evaluate.metrics: '{name}' needs the dataset {metric.requires.__name__}, not "
                f"{type(dataset).__name__}: leave it out, or choose another metric"
            )
        check_metric(metric, name, dataset)
        metrics[name] = metric
    return metrics
