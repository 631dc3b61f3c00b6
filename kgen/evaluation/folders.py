"""Compares two folders of images. No run is needed."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kgen.contracts.dataset import Dataset, Split, short_digest
from kgen.contracts.metric import GeneratedImages, Metric, Plain
from kgen.data.datasets.folder.files import SUFFIXES, find_files
from kgen.data.images import read_image
from kgen.errors import ConfigError, DataError, KgenError, PluginError
from kgen.evaluation.results import Result, metric_results
from kgen.evaluation.scoring import OnImages
from kgen.experiments.prompts import spread
from kgen.experiments.trainer import Log
from kgen.options import options
from kgen.parts.construction import Choice, find, make_metric
from kgen.plugins.discovery import registry
from kgen.spaces import Space

MAX_PROBLEMS = 3
"""Largest number of problems with files in a message."""

BATCH = 64
"""Largest number of images that are in memory at the same time."""


@dataclass(frozen=True)
class _File:
    path: Path
    size: tuple[int, int]  # width, height


class ImageFiles(Dataset):
    """The images of a folder, in their own sizes, sorted by size and then by name.

    All of them are in the split "train". Their captions are the names of the files.

    Args:
        path: The folder. Folders inside it are searched, too, and links are followed.
        limit: Largest number of images, which are evenly spaced in the order of their names; 0: all images.

    Attributes:
        names: The path of each image relative to the folder, without its extension.

    Raises:
        DataError: there is no image, a link is broken, a folder cannot be read, or a file is damaged.
    """

    def __init__(self, *, path: str, limit: int = 0) -> None:
        self.path, self.limit = path, limit
        found = _image_files(Path(path))
        chosen = spread(found, limit) if limit else found
        files = [_File(file, _size(file)) for file in chosen]
        self._files = sorted(files, key=lambda file: file.size)  # a stable sort
        self.names = [_name(file.path, path) for file in self._files]

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
        """Yields the indices of images of one size, at most `BATCH` of them at a time."""
        batch: list[int] = []
        for index, file in enumerate(self._files):
            if batch and (file.size != self._files[batch[0]].size or len(batch) == BATCH):
                yield batch
                batch = []
            batch.append(index)
        yield batch


def evaluate_folders(
    images: str | Path,
    references: str | Path,
    *,
    metrics: Sequence[Choice] = (),
    limit: int | None = None,
    log: Log = print,
    on_images: OnImages | None = None,
) -> list[Result]:
    """Compares the images of a folder with those of another one.

    Metrics of pairs, such as PSNR, compare images whose files have the same name. All other metrics compare the sets.

    Args:
        images: The folder of the images to score.
        references: The folder of the reference images.
        metrics: Names of metrics, or mappings with names and options; empty: all metrics that can compare these
            folders and need no options.
        limit: Largest number of images to score, and of reference images for metrics of sets. The images are evenly
            spaced in the order of their names. None: all images.
        log: Receives notes.
        on_images: Called with the number of images measured so far, and with the number of all images.

    Returns:
        The results. Their split is "train", and their seed is 0.

    Raises:
        ConfigError: a metric is unknown, is given twice, or cannot compare folders.
        DataError: a folder holds no images or a broken link, an image is damaged, or a metric in `metrics` needs more
            images, reference images or pairs.
    """
    own, others = (ImageFiles(path=str(folder), limit=limit or 0) for folder in (images, references))
    pairs = _Pairs(own, Path(references))
    measured = _measurable(metrics, own, others, pairs, log)
    if not measured:
        raise DataError(
            f"{images} and {references} cannot be compared by any installed metric: the notes say why. Install "
            "kgen-plugin-metrics for more metrics"
        )
    if pairs.missing and any(metric.pairs for metric in measured.values()):
        log(
            f"note: {pairs.missing:,} of {len(own.names):,} images have no reference of the same name, so that "
            "metrics of pairs leave them out"
        )
    for metric in measured.values():
        metric.start(others, "train")
    _measure(measured, own, pairs, None if metrics else log, on_images)
    for note in dict.fromkeys(note for metric in measured.values() for note in metric.caveats(others)):
        log(f"note: {note}")
    return [result for name, metric in measured.items() for result in _results(name, metric, own, others, pairs)]


def _measurable(
    metrics: Sequence[Choice], own: ImageFiles, others: ImageFiles, pairs: _Pairs, log: Log
) -> dict[str, Metric]:
    """The chosen metrics, or else all metrics for which there are enough images, references or pairs, by name.

    Raises:
        ConfigError: a chosen metric is unknown, is given twice, or cannot compare folders.
        DataError: a chosen metric needs more images or pairs.
    """
    found: dict[str, Metric] = {}
    for name, metric in (_chosen(metrics) if metrics else _all_metrics(log)).items():
        why = pairs.refusal(metric) if metric.pairs else _too_few(metric, len(own.names), len(others.names))
        if why and metrics:
            raise DataError(f"{name}: {why}")
        if why:
            log(f"note: {name} is left out: {why}")
        else:
            found[name] = metric
    return found


def _chosen(metrics: Sequence[Choice]) -> dict[str, Metric]:
    """The chosen metrics, by name.

    Raises:
        ConfigError: a metric is unknown, is given twice, or cannot compare folders.
    """
    found: dict[str, Metric] = {}
    for choice in metrics:
        component, _ = find("metric", choice)
        if not _compares_folders(component.load()):
            usable = ", ".join(_usable()) or "none that is installed; try kgen-plugin-metrics"
            raise ConfigError(
                f"{component.id} needs prompts or a dataset, which folders of images do not have; metrics that can "
                f"compare folders: {usable}"
            )
        if isinstance(choice, Mapping) and choice.get("reference", "train") != "train":
            raise ConfigError(f"{component.id}: the second folder is the reference: leave the option reference out")
        if component.name in found:
            raise ConfigError(f"the metric '{component.name}' is given twice: keep one")
        found[component.name] = make_metric(choice)
    return found


def _compares_folders(cls: type[Metric]) -> bool:
    return cls.requires is None and (cls.pairs or not cls.reads_prompts)


def _usable() -> dict[str, type[Metric]]:
    """The classes of all metrics that can compare folders, by id."""
    found = {}
    for component in registry().of_kind("metric"):
        with contextlib.suppress(PluginError):  # 'kgen plugins list' says what is wrong with it
            cls = component.load()
            if _compares_folders(cls):
                found[component.id] = cls
    return found


def _all_metrics(log: Log) -> dict[str, Metric]:
    """All metrics that can compare folders and need no option, by name, or by id if two have the same name."""
    usable = {name: cls for name, cls in _usable().items() if not _required(cls)}
    bare = Counter(name.split("/")[-1] for name in usable)
    found: dict[str, Metric] = {}
    for name in usable:
        try:
            short = name.split("/")[-1]
            found[short if bare[short] == 1 else name] = make_metric(name)
        except KgenError as error:
            log(f"note: {name} is left out: {error}")
    return found


def _required(cls: type[Metric]) -> list[str]:
    """The options that a metric needs, such as a file of weights."""
    return [name for name, option in options(cls).items() if option.default is option.empty]


class _Pairs:
    """The pairs of an image and the reference image of the same name.

    Args:
        own: The images.
        references: The folder of the reference images.

    Attributes:
        files: The path of the reference image, by the index of the image.
        missing: The number of images without a reference.
    """

    def __init__(self, own: ImageFiles, references: Path) -> None:
        self._own, self._folder = own, references
        self._references = [(_name(file, references), file) for file in _image_files(references)]
        by_name = dict(self._references)
        self.files = {number: by_name[name] for number, name in enumerate(own.names) if name in by_name}
        self.missing = len(own.names) - len(self.files)

    def refusal(self, metric: Metric) -> str:
        """Why a metric of pairs cannot compare the folders; "" if it can."""
        if not self.files:
            return "it compares pairs, but no two images of the folders have the same name"
        paired = {self._own.names[number] for number in self.files}
        for folder, names in ((self._own.path, self._own.names), (self._folder, [n for n, _ in self._references])):
            name, count = Counter(name for name in names if name in paired).most_common(1)[0]
            if count > 1:
                return f"it compares pairs, but {folder} has {count} images named {name}: rename or remove one"
        return _too_few(metric, len(self.files), len(self.files))

    def of(self, batch: GeneratedImages, numbers: Sequence[int]) -> GeneratedImages | None:
        """The images of a batch that have references, with their references; None if no image has one.

        Args:
            batch: The images (B, H, W, 3).
            numbers: The B indices of the images.

        Raises:
            DataError: an image and its reference have different sizes.
        """
        rows = [row for row, number in enumerate(numbers) if number in self.files]
        references = [read_image(self.files[numbers[row]], 3) for row in rows]
        for row, reference in zip(rows, references, strict=True):
            if reference.shape != batch.images[row].shape:
                here, there = (f"{shape[1]}x{shape[0]}" for shape in (batch.images[row].shape, reference.shape))
                raise DataError(f"{batch.prompts[row]} has {here} pixels, but its reference has {there}: resize one")
        if not rows:
            return None
        return GeneratedImages(batch.images[rows], [batch.prompts[row] for row in rows], np.stack(references))


def _too_few(metric: Metric, count: int, references: int) -> str:
    """Why a metric needs more images, or more reference images; "" if there are enough."""
    what = "pairs" if metric.pairs else "images"
    for least, found, whose in ((metric.min_images, count, what), (metric.min_references, references, "references")):
        if found < least:
            return f"it needs at least {least} {whose}, and there {'is' if found == 1 else 'are'} only {found}"
    return ""


def _measure(
    metrics: dict[str, Metric], own: ImageFiles, pairs: _Pairs, log: Log | None, on_images: OnImages | None
) -> None:
    """Updates the metrics with all images, in batches of one size.

    Args:
        metrics: The metrics by name.
        own: The images.
        pairs: Their references.
        log: Receives a note about each metric that refuses the images, such as small ones. It is then left out of
            `metrics`. None: its error is raised.
        on_images: Called with the number of images measured so far, and with the number of all images.
    """
    done = 0
    for numbers in own.batches():
        images = np.stack([own.image("train", number) for number in numbers])  # (B, H, W, 3)
        batch = GeneratedImages(images, [own.names[number] for number in numbers])
        paired = pairs.of(batch, numbers) if any(metric.pairs for metric in metrics.values()) else None
        for name, metric in list(metrics.items()):
            given = paired if metric.pairs else batch
            try:
                if given is not None:
                    metric.update(given)
            except DataError as error:
                if log is None or len(metrics) == 1:
                    raise
                log(f"note: {name} is left out: {error}")
                del metrics[name]
        done += len(numbers)
        if on_images is not None:
            on_images(done, len(own.names))


def _results(name: str, metric: Metric, own: ImageFiles, others: ImageFiles, pairs: _Pairs) -> list[Result]:
    """The results of a metric that has measured all images."""
    numbers = {number: {0: float(value)} for number, value in metric.compute().items()}
    known: dict[str, Plain] = {
        "images": len(pairs.files) if metric.pairs else len(own.names),
        "source format": own.formats,
        "reference": f"{len(others.names)} images {others.fingerprint()}",
        "reference format": others.formats,
    }
    return metric_results(name, metric, "train", numbers, known)


def _image_files(folder: Path) -> list[Path]:
    """The images of a folder and of the folders below it, in the order of their names.

    Raises:
        DataError: there is none, a link is broken, or a folder cannot be read.
    """
    found = find_files(folder, "folders of images")
    if found.problems:
        listed = [f"{folder / problem.where}: {problem.what}" for problem in found.problems[:MAX_PROBLEMS]]
        more = len(found.problems) - len(listed)
        told = "; ".join(listed) + (f"; and {more} more" if more else "")
        raise DataError(f"{told}. Repair what is named, or move it away")
    if not found.images:
        raise DataError(f"{folder} holds no image: the names of images end with {', '.join(sorted(SUFFIXES))}")
    return [folder / name for name in found.images]


def _name(file: Path, folder: str | Path) -> str:
    """The path of an image relative to a folder, without its extension."""
    return file.relative_to(folder).with_suffix("").as_posix()


def _size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, after the rotation that the EXIF data ask for."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5
    except Exception as error:  # damaged files make Pillow's codecs fail in many ways
        raise DataError(f"{path}: is not an image, or is damaged: {error}") from error
    return (height, width) if turned else (width, height)
