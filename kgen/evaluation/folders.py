"""Compares two folders of images, without any run."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kgen.contracts.dataset import Dataset, Split, short_digest
from kgen.contracts.metric import GeneratedImages, Metric, Plain
from kgen.data.images import read_image
from kgen.errors import ConfigError, DataError, KgenError, PluginError
from kgen.evaluation.results import Result
from kgen.evaluation.scoring import OnImages
from kgen.experiments.prompts import spread
from kgen.parts.construction import find, make_metric
from kgen.plugins.discovery import registry
from kgen.spaces import Space

EXTENSIONS = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

BATCH = 64
"""Largest number of images that are in memory together."""


@dataclass(frozen=True)
class _File:
    path: Path
    size: tuple[int, int]  # width, height


class ImageFiles(Dataset):
    """The images of a folder, in their own sizes: neighbors mostly have the same size.

    They are the reference images of metrics, and their captions are the names of the files.

    Args:
        path: The folder, which is searched with all folders below it.
        limit: Largest number of images, evenly spaced in the order of their names; 0: all.

    Raises:
        DataError: there is no image, or a file is damaged.
    """

    def __init__(self, *, path: str, limit: int = 0) -> None:
        self.path, self.limit = path, limit
        folder = Path(path)
        found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in EXTENSIONS and file.is_file())
        if not found:
            raise DataError(f"{folder} holds no image: the names of images end with {', '.join(EXTENSIONS)}")
        chosen = spread(found, limit) if limit else found
        files = [_File(file, _size(file)) for file in chosen]
        self._files = sorted(files, key=lambda file: file.size)  # stable: of one size, the order of names

    @property
    def image_space(self) -> Space:
        """The space of the first image; others may have other sizes."""
        width, height = self._files[0].size
        return Space("continuous", (height, width, 3))

    @property
    def formats(self) -> str:
        """The formats of the files, such as "jpg, png"."""
        endings = {file.path.suffix.lower().removeprefix(".").replace("jpeg", "jpg") for file in self._files}
        return ", ".join(sorted(endings))

    @property
    def names(self) -> list[str]:
        """The path of each image below the folder, without its ending."""
        return [file.path.relative_to(self.path).with_suffix("").as_posix() for file in self._files]

    def captions(self, split: Split) -> Sequence[str]:
        return self.names if split == "train" else []

    def image(self, split: Split, index: int) -> np.ndarray:
        return read_image(self._files[index].path, 3)

    def fingerprint(self) -> str:
        stats = [(file.path, file.path.stat()) for file in self._files]
        text = "\0".join(
            f"{path.relative_to(self.path)}|{stat.st_size}|{stat.st_mtime_ns}" for path, stat in sorted(stats)
        )
        return short_digest(text.encode())

    def batches(self) -> Iterator[list[int]]:
        """The numbers of images of one size, at most `BATCH` at once."""
        batch: list[int] = []
        for index, file in enumerate(self._files):
            if batch and (file.size != self._files[batch[0]].size or len(batch) == BATCH):
                yield batch
                batch = []
            batch.append(index)
        yield batch


def evaluate_folders(
    images: Path,
    references: Path,
    *,
    metrics: Sequence[Any] = (),
    limit: int | None = None,
    log: Any = print,
    on_images: OnImages | None = None,
) -> list[Result]:
    """Compares the images of a folder with those of another.

    Metrics of pairs, such as PSNR, compare images whose files have the same name; all others compare the sets.

    Args:
        images: The folder of the images to score.
        references: The folder of the reference images.
        metrics: Names of metrics, or mappings with names and options; empty: all that can compare folders and work
            without options.
        limit: Largest number of images of each folder; None: all.
        log: Receives notes.
        on_images: Called with the number of images measured so far, and of all images.

    Raises:
        ConfigError: a metric cannot compare folders.
        DataError: a folder holds no images, an image is damaged, or a metric needs more images.
    """
    own, others = (ImageFiles(path=str(folder), limit=limit or 0) for folder in (images, references))
    chosen = _chosen(metrics) if metrics else _all_metrics(log)
    pairs = _pairs(own, others)
    measured = {}
    for name, metric in chosen.items():
        why = _refusal(metric, own, others, pairs)
        if why and metrics:
            raise DataError(f"{name}: {why}")
        if why:
            log(f"note: {name} is left out: {why}")
        else:
            measured[name] = metric
    alone = len(own.names) - len(pairs)
    if alone and any(metric.pairs for metric in measured.values()):
        log(f"note: {alone:,} of {len(own.names):,} images have no reference of the same name, and are in no pair")
    if not measured:
        raise DataError("no metric can compare these folders")
    for metric in measured.values():
        metric.start(others, "train")
    done, total = 0, len(own.names)
    for batch in own.batches():
        _update(measured, own, others, pairs, batch)
        done += len(batch)
        if on_images is not None:
            on_images(done, total)
    results = [result for name, metric in measured.items() for result in _results(name, metric, own, others, pairs)]
    for note in dict.fromkeys(note for metric in measured.values() for note in metric.caveats(others)):
        log(f"note: {note}")
    return results


def _chosen(metrics: Sequence[Any]) -> dict[str, Metric]:
    found: dict[str, Metric] = {}
    for choice in metrics:
        component, _ = find("metric", choice)
        cls = component.load()
        if not _compares_folders(cls):
            usable = ", ".join(_usable())
            raise ConfigError(
                f"{component.id} reads prompts, which folders of images do not have; metrics that can compare folders: "
                f"{usable}"
            )
        found[component.name] = make_metric(choice)
    return found


def _compares_folders(cls: type[Metric]) -> bool:
    return cls.pairs or not cls.reads_prompts


def _usable() -> dict[str, type[Metric]]:
    """The classes of all metrics that can compare folders, by name."""
    found = {}
    for component in registry().of_kind("metric"):
        with contextlib.suppress(PluginError):  # 'kgen plugins list' says what is wrong with it
            cls = component.load()
            if _compares_folders(cls):
                found[component.id] = cls
    return found


def _all_metrics(log: Any) -> dict[str, Metric]:
    """All metrics that can compare folders and need no option."""
    found: dict[str, Metric] = {}
    for name in _usable():
        try:
            found[name.split("/")[-1]] = make_metric({"name": name})
        except ConfigError:  # it needs an option, such as a file of weights
            continue
        except KgenError as error:
            log(f"note: {name} is left out: {error}")
    return found


def _pairs(own: ImageFiles, others: ImageFiles) -> dict[int, int]:
    """The number of the reference image of the same name, for each image that has one."""
    numbers = {name: number for number, name in enumerate(others.names)}
    return {index: numbers[name] for index, name in enumerate(own.names) if name in numbers}


def _refusal(metric: Metric, own: ImageFiles, others: ImageFiles, pairs: Mapping[int, int]) -> str:
    """Why a metric cannot compare the folders; "" if it can."""
    count = len(pairs) if metric.pairs else len(own.names)
    if metric.pairs and not pairs:
        return "it compares pairs, but no two images of the folders have the same name"
    for files in (own, others) if metric.pairs else ():
        name, number = Counter(files.names).most_common(1)[0]
        if number > 1:
            return f"it compares pairs, but {files.path} has {number} images of the name {name}"
    if count < metric.min_images:
        return f"it needs at least {metric.min_images} images, and here are {count}"
    return ""


def _update(
    metrics: Mapping[str, Metric], own: ImageFiles, others: ImageFiles, pairs: Mapping[int, int], batch: Sequence[int]
) -> None:
    images = np.stack([own.image("train", index) for index in batch])
    names = [own.names[index] for index in batch]
    whole = GeneratedImages(images, names)
    paired = [number for number, index in enumerate(batch) if index in pairs]
    matched = _matched(images, names, others, [(number, pairs[batch[number]]) for number in paired])
    for metric in metrics.values():
        if not metric.pairs:
            metric.update(whole)
        elif matched is not None:
            metric.update(matched)


def _matched(
    images: np.ndarray, names: Sequence[str], others: ImageFiles, pairs: Sequence[tuple[int, int]]
) -> GeneratedImages | None:
    """The images of a batch with their references; None if none has one."""
    if not pairs:
        return None
    references = [others.image("train", index) for _, index in pairs]
    for (number, _), reference in zip(pairs, references, strict=True):
        if reference.shape != images[number].shape:
            sizes = [f"{shape[1]}x{shape[0]}" for shape in (images[number].shape, reference.shape)]
            raise DataError(f"{names[number]} has {sizes[0]} pixels, but its reference has {sizes[1]}: resize one")
    rows = [number for number, _ in pairs]
    return GeneratedImages(images[rows], [names[row] for row in rows], np.stack(references))


def _results(
    name: str, metric: Metric, own: ImageFiles, others: ImageFiles, pairs: Mapping[int, int]
) -> Iterator[Result]:
    numbers = metric.compute()
    main = next(iter(numbers), "") if metric.headline is None else metric.headline
    protocol: dict[str, Plain] = {
        "metric": name,
        "images": len(pairs) if metric.pairs else len(own.names),
        **({} if metric.protocol() else {f"option {key}": str(value) for key, value in metric.config.items()}),
        **metric.protocol(),
        "source format": own.formats,
        "reference": f"{len(others.names)} images {others.fingerprint()}",
        "reference format": others.formats,
    }
    for key, value in numbers.items():
        yield Result(name, "train", key, {0: float(value)}, protocol, metric.better, key == main)


def _size(path: Path) -> tuple[int, int]:
    """Width and height as they are after the rotation that the EXIF data ask for."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5
    except Exception as error:  # damaged files make Pillow's codecs fail in many ways
        raise DataError(f"{path}: is not an image, or is damaged: {error}") from error
    return (height, width) if turned else (width, height)
