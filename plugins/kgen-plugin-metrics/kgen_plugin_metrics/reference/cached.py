"""Statistics and features of real images: from a dataset, through kgen's cache, or from a published file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np

from kgen import DataError, Dataset, Split, cached_arrays
from kgen_plugin_metrics.features.contract import BATCH, Features, file_hash, in_color
from kgen_plugin_metrics.formulas.moments import Moments, MomentStream
from kgen_plugin_metrics.reference.files import Statistics, published_images, read_statistics

FORMAT = 1
"""The version in the key of the cache. Change it when the contents of the cache change."""

SPLITS: tuple[Split, ...] = get_args(Split)


def is_file(reference: str) -> bool:
    """Whether the option `reference` is a file and not a split.

    Raises:
        ValueError: it is neither.
    """
    if reference not in SPLITS and not reference.endswith(".npz"):
        raise ValueError(f"reference must be {', '.join(SPLITS)}, or a file PATH.npz, not '{reference}'")
    return reference not in SPLITS


def statistics(network: Features, dataset: Dataset, reference: str) -> Statistics:
    """The statistics of the images of a split, or of a file.

    Args:
        network: Computes the features.
        dataset: The dataset, whose statistics are computed once and then read from kgen's cache.
        reference: A split or a file.

    Raises:
        DataError: the split has fewer than 2 images; or the file is missing, damaged, or of other features.
        RunError: the cache cannot be written.
    """
    if is_file(reference):
        return read_statistics(Path(reference), network)
    split = _split(dataset, reference)
    moments = moments_of(network, dataset, split)
    return Statistics(moments.mean, moments.covariance, moments.count, _source(dataset, split))


def moments_of(network: Features, dataset: Dataset, split: Split) -> Moments:
    """The moments of the features of all images of a split, from kgen's cache if they are there."""

    def compute() -> Iterator[Mapping[str, np.ndarray]]:
        stream = MomentStream(network.dim)
        for batch in _batches(dataset, split):
            stream.add(np.asarray(network(batch)["features"]))
        yield {name: array[None] for name, array in stream.moments().arrays().items()}

    arrays = cached_arrays("moments", _described(network, dataset, split), 1, compute)
    return Moments.from_arrays({name: array[0] for name, array in arrays.items()})


def reference_features(network: Features, dataset: Dataset, reference: str) -> tuple[np.ndarray, str]:
    """The features of the images of a split, or of the images in a file, from kgen's cache if they are there.

    Args:
        network: Computes the features.
        dataset: The dataset.
        reference: A split, or a file with images as guided-diffusion publishes them, "arr_0": uint8 (N, H, W, 3).

    Returns:
        The features, float32 (N, D), which stay on disk, and a description of their source.

    Raises:
        DataError: there is no image; or the file is missing or damaged, or has no images.
        RunError: the cache cannot be written.
    """
    if is_file(reference):
        images = published_images(Path(reference))
        described = {**_of_network(network), "file": file_hash(Path(reference))}
        batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
        count, source = len(images), f"the images of {Path(reference).name}"
    else:
        split = _split(dataset, reference)
        described, batches = _described(network, dataset, split), _batches(dataset, split)
        count, source = len(dataset.captions(split)), _source(dataset, split)

    def compute() -> Iterator[Mapping[str, np.ndarray]]:
        return ({"features": np.asarray(network(batch)["features"], np.float32)} for batch in batches)

    return cached_arrays("features", described, count, compute)["features"], source


def _split(dataset: Dataset, reference: str) -> Split:
    split = next(split for split in SPLITS if split == reference)
    if not dataset.captions(split):
        raise DataError(f"reference: the dataset has no images in the split '{split}': choose another")
    return split


def _batches(dataset: Dataset, split: Split) -> Iterator[np.ndarray]:
    """The images in batches of one size, because the images of a folder may have several sizes."""
    batch: list[np.ndarray] = []
    for row in range(len(dataset.captions(split))):
        image = dataset.image(split, row)
        if batch and (image.shape != batch[0].shape or len(batch) == BATCH):
            yield in_color(np.stack(batch))
            batch = []
        batch.append(image)
    yield in_color(np.stack(batch))


def _source(dataset: Dataset, split: Split) -> str:
    return f"{split} images of {type(dataset).__name__} {dataset.fingerprint()}"


def _of_network(network: Features) -> dict[str, Any]:
    return {"format": FORMAT, "features": dict(network.protocol), "backend": keras.backend.backend()}


def _described(network: Features, dataset: Dataset, split: Split) -> dict[str, Any]:
    return {
        **_of_network(network),
        "dataset": f"{type(dataset).__module__}:{type(dataset).__qualname__}",
        "options": dataset.config,
        "fingerprint": dataset.fingerprint(),
        "split": split,
        "count": len(dataset.captions(split)),
    }
