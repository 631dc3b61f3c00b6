"""Statistics and features of real images: from a dataset, through kgen's cache, or from a published file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np

from kgen import DataError, Dataset, RunError, Split, cached_arrays
from kgen_plugin_metrics.features import BATCH, Features, file_hash, in_color
from kgen_plugin_metrics.moments import Moments, MomentStream

FORMAT = 1
"""A number in the key of the cache. It must change with the contents."""

SPLITS: tuple[Split, ...] = get_args(Split)

PROTOCOL = "protocol"
"""The key of kgen's files that says, in JSON, how their features were computed. Files of others do not have it."""

UNREADABLE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)
"""Exceptions of numpy for damaged files, and for files that hold anything but arrays of numbers."""


@dataclass(frozen=True)
class Statistics:
    """The mean and covariance of the features of real images.

    Args:
        mean: (D,), float64.
        covariance: (D, D), float64.
        count: Number of images; 0: the file does not say.
        source: Where they are from, in words.
        described: Whether it is certain that the features are the same: the file says so, or kgen computed them.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int
    source: str
    described: bool = True


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
        The features, float32 (N, D), which stay on disk; and where they are from, in words.

    Raises:
        DataError: there is no image; or the file is missing or damaged, or has no images.
        RunError: the cache cannot be written.
    """
    if is_file(reference):
        images = _published_images(Path(reference))
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


def read_statistics(path: Path, network: Features) -> Statistics:
    """Reads statistics as pytorch-fid ("mu", "sigma"), guided-diffusion (the same and others), and kgen write them.

    Raises:
        DataError: the file is missing or damaged, holds no statistics, or those of other features.
    """
    arrays = _arrays(path, ("mu", "sigma"), ("N", PROTOCOL))
    mean, covariance = (np.asarray(arrays[name], np.float64) for name in ("mu", "sigma"))
    dim = network.dim
    if mean.shape != (dim,) or covariance.shape != (dim, dim):
        raise DataError(
            f"{path} holds statistics of other features: mu {mean.shape} and sigma {covariance.shape}, but "
            f"{network.name} computes {dim} features"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all() and np.allclose(covariance, covariance.T)):
        raise DataError(f"{path} is damaged: sigma must be a finite symmetric matrix, and mu finite")
    described = PROTOCOL in arrays
    if described:
        _require_same(path, str(arrays[PROTOCOL]), network)
    return Statistics(mean, covariance, int(arrays.get("N", 0)), f"{path.name} {file_hash(path)[:16]}", described)


def write_statistics(path: Path, moments: Moments, network: Features) -> None:
    """Writes statistics that pytorch-fid and kgen read, with the number of images and the protocol of the features.

    Raises:
        RunError: the file exists already, or cannot be written.
    """
    told = json.dumps(dict(network.protocol), sort_keys=True)
    try:
        with path.open("xb") as file:
            np.savez(
                file, mu=moments.mean, sigma=moments.covariance, N=np.array(moments.count), protocol=np.array(told)
            )
    except FileExistsError as error:
        raise RunError(f"{path} exists: kgen replaces no file: give another name") from error
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error


def _require_same(path: Path, protocol: str, network: Features) -> None:
    wanted = dict(network.protocol)
    try:
        told = dict(json.loads(protocol))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged: its protocol is not a mapping in JSON") from error
    if differ := sorted(name for name in {*told, *wanted} if told.get(name) != wanted.get(name)):
        name = differ[0]
        raise DataError(
            f"{path} holds statistics of other features: {name} is '{told.get(name)}' there, and '{wanted.get(name)}' "
            f"here: compute them again for {network.name}, or choose its features"
        )


def _published_images(path: Path) -> np.ndarray:
    images = _arrays(path, ("arr_0",), ())["arr_0"]
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise DataError(f"{path}: arr_0 must be images, uint8 (N, H, W, 3), not {images.dtype} {images.shape}")
    return in_color(images)


def _arrays(path: Path, needed: tuple[str, ...], allowed: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Some arrays of a file."""
    if not path.is_file():
        raise DataError(f"reference: there is no file {path}")
    try:
        with np.load(path) as file:
            names = set(file.files)
            if missing := [name for name in needed if name not in names]:
                what = "images" if missing == ["arr_0"] else "statistics"
                found = ", ".join(sorted(names)) or "nothing"
                raise DataError(f"{path} holds no {what}: it has {found}, but {missing[0]} is needed")
            return {name: file[name] for name in (*needed, *allowed) if name in names}
    except UNREADABLE as error:
        raise DataError(f"{path} is not a file of arrays as numpy.savez writes: {error}") from error


def _split(dataset: Dataset, reference: str) -> Split:
    split = next(split for split in SPLITS if split == reference)
    if not dataset.captions(split):
        raise DataError(f"reference: the dataset has no images in the split '{split}': choose another")
    return split


def _batches(dataset: Dataset, split: Split) -> Iterator[np.ndarray]:
    count = len(dataset.captions(split))
    for start in range(0, count, BATCH):
        yield in_color(np.stack([dataset.image(split, row) for row in range(start, min(start + BATCH, count))]))


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
