"""Opens the data, the metrics and the encoder of a run, once for all of its steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from kgen.config import ComponentConfig, RunConfig
from kgen.contracts.dataset import Dataset
from kgen.contracts.decoder import learns_from_images
from kgen.contracts.encoder import Encoder
from kgen.contracts.metric import Metric
from kgen.errors import ConfigError
from kgen.experiments.directory import RunDirectory
from kgen.experiments.initial import initial_assets
from kgen.experiments.inputs import read_dataset
from kgen.experiments.shapes import check_config, check_metric
from kgen.parts.construction import adapt_encoder, build_encoder, find, make_metric

Metrics = Mapping[str, Metric]
"""Metrics by the prefix of the names of their scores."""


@dataclass(frozen=True)
class Experiment:
    """A validated configuration, with its opened data and metrics.

    Args:
        config: The configuration.
        dataset: The dataset of the pipeline's training.
        decoder_data: The dataset of the decoder's training; None if there is no such training, or it is finished.
        metrics: The metrics of `evaluate.metrics`.
    """

    config: RunConfig
    dataset: Dataset
    decoder_data: Dataset | None
    metrics: Metrics

    @property
    def choices(self) -> Mapping[str, ComponentConfig]:
        """The configuration of each metric, by the name in `metrics`."""
        return dict(zip(self.metrics, self.config.evaluate.metrics, strict=True))


def open_experiment(config: RunConfig, *, trained: bool = False) -> Experiment:
    """Opens the data and the metrics of a configuration.

    Args:
        config: The configuration.
        trained: Whether the run is already trained, so that the data of the decoder's training are not needed.

    Raises:
        ConfigError: a metric does not support the dataset, or is given twice; the images of the decoder's training
            have another size; or the images have several shapes, which a setting does not support.
        DataError: the data are missing or damaged, or there are no training images.
    """
    dataset = read_dataset(config.data)
    check_config(config, dataset, not trained and needs_stage(config))
    decoder_data = None if trained else _decoder_data(config, dataset)
    return Experiment(config, dataset, decoder_data, _open_metrics(config.evaluate.metrics, dataset))


def needs_stage(config: RunConfig) -> bool:
    """Whether a run trains or calibrates its decoder in a separate stage."""
    cls = find("decoder", config.decoder.name)[0].load()
    return config.decoder.source is None and learns_from_images(cls)


def open_encoder(config: RunConfig, dataset: Dataset, directory: RunDirectory | None) -> Encoder:
    """Makes the encoder of a run, with its assets, such as a vocabulary. Its weights are not built yet.

    Args:
        config: The configuration.
        dataset: The dataset, from whose captions the encoder learns its assets.
        directory: The directory of a run that continues, which contains the assets.
    """
    encoder = build_encoder(config.encoder.choice)
    if directory is not None and directory.assets.is_dir():
        encoder.load_assets(directory.assets)
    elif not initial_assets(config.init, encoder):
        adapt_encoder(encoder, dataset)
    return encoder


def _decoder_data(config: RunConfig, dataset: Dataset) -> Dataset | None:
    own = config.decoder
    if own.source is None and not needs_stage(config):
        return None
    data = dataset if own.data is None else read_dataset(own.data)
    if data.image_space != dataset.image_space:
        raise ConfigError(f"decoder.data: its images are {data.image_space}, but the run's are {dataset.image_space}")
    return data


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
