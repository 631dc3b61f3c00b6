"""Published files with statistics of real images, or with real images."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kgen import DataError, RunError
from kgen_plugin_metrics.features.contract import Features, file_hash, in_color
from kgen_plugin_metrics.formulas.moments import Moments

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
        source: A description of their source.
        described: Whether it is certain that the features have the same protocol: the file says so, or kgen computed
            them.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int
    source: str
    described: bool = True


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


def published_images(path: Path) -> np.ndarray:
    """Reads images as guided-diffusion publishes them: "arr_0", uint8 (N, H, W, 3).

    Raises:
        DataError: the file is missing or damaged, or holds no images.
    """
    images = _arrays(path, ("arr_0",), ())["arr_0"]
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise DataError(f"{path}: arr_0 must be images, uint8 (N, H, W, 3), not {images.dtype} {images.shape}")
    return in_color(images)


def _arrays(path: Path, needed: tuple[str, ...], allowed: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Reads the needed arrays of a file, and those of the allowed arrays that it has.

    Raises:
        DataError: the file is missing or damaged, or lacks a needed array.
    """
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
    except (*UNREADABLE, TypeError) as error:  # numpy.load returns an array, or advises to unpickle, for other files
        raise DataError(f"{path} is damaged, or is not a file of arrays as numpy.savez writes") from error
