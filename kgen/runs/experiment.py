"""What a run works with: its data and its metrics, opened once and handed down; and its encoder."""

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
from kgen.pipeline.assembly import find, make_encoder, make_metric
from kgen.runs.directory import RunDirectory
from kgen.runs.initial import initial_assets
from kgen.runs.inputs import read_dataset

Metrics = Mapping[str, Metric]
"""By the name that their scores begin with."""


@dataclass(frozen=True)
class Experiment:
    """A checked configuration, and what was opened for it.

    Args:
        dataset: What the pipeline is trained on.
        decoder_data: What the decoder's own stage is trained on; None where there is no such stage, or it is over.
        metrics: What `evaluate.metrics` names.
    """

    config: RunConfig
    dataset: Dataset
    decoder_data: Dataset | None
    metrics: Metrics


def open_experiment(config: RunConfig, *, trained: bool = False) -> Experiment:
    """Opens what a configuration names.

    Args:
        trained: Whether the run is trained already, so that its decoder's data are not needed.

    Raises:
        ConfigError: a metric makes no sense with the dataset, or is given twice; the decoder's images are of another
            size. DataError: the data are missing or damaged, or there is nothing to train on.
    """
    dataset = read_dataset(config.data)
    decoder_data = None if trained else _decoder_data(config, dataset)
    return Experiment(config, dataset, decoder_data, _open_metrics(config.evaluate.metrics, dataset))


def needs_stage(config: RunConfig) -> bool:
    """Whether a run's own stage trains or calibrates its decoder."""
    cls = find("decoder", config.decoder.name)[0].load()
    return config.decoder.source is None and learns_from_images(cls)


def open_encoder(config: RunConfig, dataset: Dataset, directory: RunDirectory | None) -> Encoder:
    """Makes a run's encoder, with what it learned from the captions; its weights are not built yet.

    Args:
        directory: Of the run, where that has begun and goes on: the encoder is then as it was.
    """
    if directory is not None and directory.assets.is_dir():
        encoder = make_encoder(config.encoder.choice, None)
        encoder.load_assets(directory.assets)
    elif config.init is not None:
        encoder = make_encoder(config.encoder.choice, None)
        initial_assets(config, encoder)
    else:
        encoder = make_encoder(config.encoder.choice, None, dataset)
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
    """The metrics by name: without the plugin's, unless two metrics share theirs."""
    bare = Counter(metric.name.split("/")[-1] for metric in chosen)
    metrics: dict[str, Metric] = {}
    for choice in chosen:
        name = choice.name.split("/")[-1]
        name = name if bare[name] == 1 else choice.name
        if name in metrics:
            raise ConfigError(f"evaluate.metrics: '{name}' is given twice, and its scores have one name: keep one")
        metric = make_metric(choice.choice)
        if metric.requires is not None and not isinstance(dataset, metric.requires):
            raise ConfigError(
                f"evaluate.metrics: '{name}' needs the dataset {metric.requires.__name__}, not "
                f"{type(dataset).__name__}: leave it out, or choose another metric"
            )
        metrics[name] = metric
    return metrics
