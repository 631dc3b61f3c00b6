"""Checks whether the parts of a run support images of several shapes, such as those of aspect-ratio buckets."""

from __future__ import annotations

from dataclasses import replace

from kgen.config import RunConfig
from kgen.contracts.dataset import SPLITS, Dataset, Split
from kgen.contracts.decoder import Decoder
from kgen.contracts.generator import Generator
from kgen.contracts.metric import Metric
from kgen.errors import ConfigError, SpaceError
from kgen.spaces import Space

SEVERAL = "the images of the data have several shapes (data.resize: bucket)"


def image_spaces(dataset: Dataset) -> list[Space]:
    """The spaces of the images of a dataset. The first one has the most training images."""
    found = {split: dataset.rows_by_shape(split) for split in SPLITS}
    shapes = sorted(found["train"], key=lambda shape: len(found["train"][shape]), reverse=True)  # this is stable
    shapes += sorted({shape for rows in found.values() for shape in rows} - set(shapes), reverse=True)
    space = dataset.image_space
    return [replace(space, shape=(*shape, space.shape[-1])) for shape in shapes] or [space]


def check_config(config: RunConfig, dataset: Dataset) -> None:
    """Raises ConfigError if a setting of a run needs images of one shape, but the dataset has several shapes."""
    if not dataset.rows_by_shape("train"):
        return
    if config.distribute not in ("none", "data_parallel", "model_parallel"):
        raise ConfigError(
            f"{SEVERAL}, but distribute: '{config.distribute}' needs batches of one shape: use 'none', or "
            "'data_parallel' or 'model_parallel' on JAX; or give all images one shape (data.resize: crop)"
        )
    if config.evaluate.likelihood.images:
        raise ConfigError(f"{SEVERAL}, but evaluate.likelihood measures images of one shape: set its images to 0")


def check_encoder_stage(name: str, dataset: Dataset) -> None:
    """Raises ConfigError if the images of the training stage of an encoder have several shapes."""
    if dataset.rows_by_shape("train"):
        raise ConfigError(
            f"{SEVERAL}, but encoder '{name}' is trained on images of one shape: set encoder.data to data with resize: "
            "crop, or train it in another run"
        )


def check_metric(metric: Metric, name: str, dataset: Dataset) -> None:
    """Raises ConfigError if a metric needs images of one shape, but the dataset has several shapes."""
    if not metric.any_shape and dataset.rows_by_shape("train"):
        raise ConfigError(
            f"evaluate.metrics: {SEVERAL}, but '{name}' compares images of one shape: choose another metric, or give "
            "all images one shape (data.resize: crop)"
        )


def check_parts(dataset: Dataset, decoder: Decoder, generator: Generator | None = None) -> None:
    """Raises ConfigError if the decoder, or the generator if it is given, does not support all shapes of the images."""
    if not dataset.rows_by_shape("train"):
        return
    for space in image_spaces(dataset):
        try:
            latent_space = decoder.resized(space).latent_space
            if generator is not None:
                generator.resized(latent_space)
        except SpaceError as error:
            raise ConfigError(f"{SEVERAL}, such as {space}, but {error}; or set data.resize: crop") from error


def shape_of(dataset: Dataset, split: Split, index: int) -> tuple[int, ...]:
    """The shape (height, width, channels) of the image of an example."""
    space = dataset.image_space
    for shape, rows in dataset.rows_by_shape(split).items():
        if index in rows:
            return (*shape, space.shape[-1])
    return space.shape
