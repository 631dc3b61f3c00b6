"""Datasets of tensorflow-datasets, and datasets in its file format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field

from kgen.contracts.dataset import Column, Dataset, Problem, Split, short_digest
from kgen.data.datasets.tfds_builder import open_builder, package
from kgen.data.encoded.scan import scan
from kgen.data.images import ImageError, Resize, background_color, decode, fit
from kgen.data.problems import OnError, refuse
from kgen.data.splits import check_holdout
from kgen.errors import DataError
from kgen.plugins.faults import reason
from kgen.spaces import Space

MEMORY_LIMIT = 2**31
"""Largest size in bytes of a dataset that must be held in memory because its files do not allow random access."""

CAPTION_KEYS = frozenset(("caption", "captions", "description", "text", "title"))
"""Names of texts that are captions by default. Other texts are often ids and file names."""

Row = tuple[str, int]
"""The place of an example: the split of tensorflow-datasets, and the index in it."""


class Keys(NamedTuple):
    """The keys of images and captions in an example, with "/" between nested names.

    `labels` holds the names of the labels if captions are made from labels.
    """

    image: str
    caption: str
    labels: tuple[str, ...] | None


class TFDS(Dataset):
    """Images with captions, or with captions made from labels, from tensorflow-datasets.

    If the captions are made from labels, the examples also have the field "label", the name of the label.

    Files in the formats array_record and parquet allow random access, without TensorFlow. Other files are read into
    memory, with compressed images. Datasets that kgen prepares are stored as array_record. Every example is read once
    before training, so that no damaged example can stop the training later.

    Args:
        dataset: Name of the dataset, such as "cifar10" or "name/config:1.0.0"; null: `data_dir` is the folder of one
            version, which contains dataset_info.json.
        data_dir: Folder of the datasets, in which they are also prepared; null: the default of tensorflow-datasets.
        split: Split for training, such as "train", "train[:90%]", "train+test".
        validation: Split for validation, such as "test" or "train[90%:]"; null: none.
        image_key: Key of the images, with "/" between nested names.
        caption_key: Key of the text or label. Of several captions, the first is used. null: the only text with a usual
            name ("caption", "text", ...), else "label", else the only label.
        template: Caption with {label} in place of the name of a label, in which "_" becomes a space.
        size: Height and width of the images, in pixels.
        resize: How images become square: "crop" cuts off the excess, "pad" adds background, "stretch" distorts them.
            "bucket" is refused.
        channels: Number of channels: 3, or 1 for gray.
        background: Color behind transparent parts, and around padded images.
        holdout: Captions to keep out of training.
        on_error: What to do about damaged images and missing captions: "refuse" to train, or "skip" them.

    Raises:
        DataError: tensorflow-datasets is not installed; the dataset, a split or a key does not exist; the data cannot
            be prepared or read; training and validation share examples; there is a problem that is not to be skipped.
    """

    def __init__(
        self,
        *,
        dataset: str | None = None,
        data_dir: str | None = None,
        split: str = "train",
        validation: str | None = None,
        image_key: str = "image",
        caption_key: str | None = None,
        template: str = "a photo of a {label}",
        size: Annotated[int, Field(ge=4, le=4096)] = 64,
        resize: Resize = "crop",
        channels: Literal[1, 3] = 3,
        background: str = "white",
        holdout: tuple[str, ...] = (),
        on_error: OnError = "refuse",
    ) -> None:
        self.dataset = dataset
        self.data_dir = data_dir
        self.split = split
        self.validation = validation
        self.image_key = image_key
        self.caption_key = caption_key
        self.template = template
        self.size = size
        self.resize = resize
        self.channels = channels
        self.background = background
        self.holdout = holdout
        self.on_error = on_error
        if resize == "bucket":
            raise DataError(
                "tfds: resize: bucket needs the shape of every image at the start, which TFDS does not tell: use "
                "resize: crop, or export the images, and read them with imagefolder, webdataset, parquet or hf"
            )
        self._color = background_color(background, "tfds")
        if "{label}" not in template:
            raise DataError(f"tfds: template '{template}' must hold {{label}}")
        builder = open_builder(dataset, data_dir)
        info = builder.info
        self.credit = f"Dataset {info.full_name} of TensorFlow Datasets{f', {info.homepage}' if info.homepage else ''}"
        self._place = str(info.full_name)
        self._keys = _keys(info.features, image_key, caption_key)
        names = [name for name in (split, validation) if name]
        _check_apart([_ranges(info, name) for name in names], names)
        self._sources = {name: _source(builder, name) for name in names}
        digest = hashlib.sha256(self._place.encode())
        self._digests: dict[Row, str] = {}
        if self._keys.labels is not None:
            self.fields = (*Dataset.fields, "label")
        self._rows, self._captions, self._problems = self._divide(*self._check(digest))
        self._digest = digest.digest()

    @property
    def image_space(self) -> Space:
        return Space("continuous", (self.size, self.size, self.channels))

    def captions(self, split: Split) -> Sequence[str]:
        return self._captions[split]

    def values(self, split: Split, field: str) -> Sequence[Any]:
        if field != "label" or self._keys.labels is None:
            return super().values(split, field)
        label_of = {self._of_label(label): label.replace("_", " ") for label in self._keys.labels}
        captions = self.captions(split)
        return Column(len(captions), lambda index: label_of[captions[index]])

    def image(self, split: Split, index: int) -> np.ndarray:
        name, number = self._rows[split][index]
        try:
            image = self._image(self._example(name, number))
        except ImageError as error:
            raise DataError(f"tfds: {self._place}, '{name}', example {number}: {error}") from error
        return fit(
            image if self.channels == 3 else image.convert("L"), (self.size, self.size), self.resize, self._color
        )

    def problems(self) -> Sequence[Problem]:
        return self._problems

    def fingerprint(self) -> str:
        """A digest of the captions, of all images, and of the options that affect arrays."""
        return hashlib.sha256(super().fingerprint().encode() + self._digest).hexdigest()[:16]

    def inventory(self) -> Mapping[str, tuple[str, str]]:
        return {
            f"{row[0]}, example {row[1]}": (self._digests[row], short_digest(f"{split}\0{caption}".encode()))
            for split, rows in self._rows.items()
            for row, caption in zip(rows, self._captions[split], strict=True)
        }

    def _example(self, name: str, number: int) -> Any:
        try:
            return self._sources[name][number]
        except Exception as error:  # readers of damaged files raise errors of C++
            raise ImageError(f"it cannot be read: {reason(error)}") from error

    def _image(self, example: Any) -> Image.Image:
        value = _at(example, self._keys.image)
        if isinstance(value, bytes):
            return decode(value, self._color, (self.size, self.size))
        return _from_pixels(value)

    def _check(self, digest: Any) -> tuple[list[tuple[Row, str]], list[Problem]]:
        """Reads and decodes every example once, and updates the digest of images.

        Returns:
            The rows with their captions, and the problems.
        """
        found: list[tuple[Row, str]] = []
        problems: list[Problem] = []

        def check(row: Row) -> tuple[Row, str, bytes]:
            """Returns the row, its caption and a digest. If the digest is empty, the text describes a problem."""
            try:
                example = self._example(*row)
                caption = self._caption(example)
                self._image(example)
            except ImageError as error:
                return row, str(error), b""
            if not caption:
                return row, f"'{self._keys.caption}' holds no caption", b""
            value = _at(example, self._keys.image)
            return row, caption, hashlib.sha256(value if isinstance(value, bytes) else value.tobytes()).digest()

        rows = [(name, number) for name, source in self._sources.items() for number in range(len(source))]
        for row, text, image in scan(rows, check, f"tfds {self._place}"):
            digest.update(image)
            if image:
                found.append((row, text))
                self._digests[row] = image.hex()[:12]
            else:
                problems.append(Problem(f"{row[0]}, example {row[1]}", text))
        return found, problems

    def _divide(
        self, found: list[tuple[Row, str]], problems: list[Problem]
    ) -> tuple[dict[str, list[Row]], dict[str, list[str]], tuple[Problem, ...]]:
        """Returns rows and captions by split; raises DataError for problems that are not to be skipped."""
        refuse(problems, self.on_error, any(name == self.split for (name, _), _ in found), "tfds", self._place)
        check_holdout(self.holdout, {caption for _, caption in found}, "tfds")
        rows: dict[str, list[Row]] = {"train": [], "validation": [], "holdout": []}
        captions: dict[str, list[str]] = {split: [] for split in rows}
        for row, caption in found:
            seen = "train" if row[0] == self.split else "validation"
            split = "holdout" if caption in self.holdout else seen
            rows[split].append(row)
            captions[split].append(caption)
        if not rows["train"]:
            raise DataError(f"tfds: split '{self.split}' of {self._place}, less holdout, has no example to train on")
        return rows, captions, tuple(problems)

    def _caption(self, example: Any) -> str:
        """The caption of an example; "" if there is none."""
        value = _at(example, self._keys.caption)
        if isinstance(value, list | np.ndarray) and np.ndim(value):
            value = value[0] if len(value) else None
        if value is None:
            return ""
        if self._keys.labels is not None:
            number = int(value)  # -1 if the label is unknown, as in some test splits
            return self._of_label(self._keys.labels[number]) if number >= 0 else ""
        try:
            text = value.decode() if isinstance(value, bytes) else str(value)
        except UnicodeDecodeError as error:
            raise ImageError(f"'{self._keys.caption}' is not UTF-8 text: {error}") from error
        return " ".join(text.split())

    def _of_label(self, label: str) -> str:
        """The caption for a label."""
        return self.template.replace("{label}", label.replace("_", " "))


def _ranges(info: Any, split: str) -> dict[str, list[tuple[int, int]]]:
    """The examples of a split: ranges [start, end) in each file."""
    try:
        instructions = info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        known = ", ".join(f"'{name}'" for name in info.splits)
        raise DataError(f"tfds: {info.full_name} has no split '{split}': there are {known}") from error
    ranges: dict[str, list[tuple[int, int]]] = {}
    for part in instructions:
        end = part.examples_in_shard if part.take < 0 else part.skip + part.take  # -1: up to the end
        ranges.setdefault(part.filename, []).append((part.skip, end))
    return ranges


def _check_apart(ranges: Sequence[dict[str, list[tuple[int, int]]]], names: Sequence[str]) -> None:
    """Raises DataError if the second of two splits contains examples of the first."""
    for file, parts in ranges[-1].items() if len(ranges) == 2 else ():
        for start, end in parts:
            if any(start < other_end and other_start < end for other_start, other_end in ranges[0].get(file, ())):
                raise DataError(f"tfds: validation '{names[1]}' holds examples of '{names[0]}', the training split")


def _source(builder: Any, split: str) -> Sequence[Any]:
    """The examples of a split, with compressed images."""
    tfds = package()
    what = f"{builder.info.full_name}, '{split}',"
    if not builder.info.splits[split].num_examples:
        return []
    skip: dict[str, Any] = {}
    for key, leaf, many in _leaves(builder.info.features, ""):
        if isinstance(leaf, tfds.features.Image) and not many:
            *folders, last = key.split("/")
            place = skip
            for folder in folders:
                place = place.setdefault(folder, {})
            place[last] = tfds.decode.SkipDecoding()
    try:
        return builder.as_data_source(split, decoders=skip)  # type: ignore[no-any-return]
    except NotImplementedError:  # no random access
        pass
    except Exception as error:
        raise DataError(f"tfds: {what} cannot be read: {reason(error)}") from error
    try:
        return _in_memory(tfds.as_numpy(builder.as_dataset(split=split, decoders=skip, shuffle_files=False)), what)
    except DataError:
        raise
    except ImportError as error:
        raise DataError(
            f"tfds: {what} allows no random access; reading it needs TensorFlow ({error}): "
            'pip install "kgen-core[tensorflow]", or prepare it as array_record'
        ) from error
    except Exception as error:
        raise DataError(f"tfds: {what} cannot be read: {reason(error)}") from error


def _in_memory(examples: Iterator[Any], what: str) -> list[Any]:
    kept, size = [], 0
    for example in examples:
        kept.append(example)
        size += _bytes(example)
        if size > MEMORY_LIMIT:
            raise DataError(
                f"tfds: {what} allows no random access and is too large for memory: prepare it again, as array_record, "
                'with tfds.builder(...).download_and_prepare(file_format="array_record")'
            )
    return kept


def _bytes(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    return len(value) if isinstance(value, bytes) else int(getattr(value, "nbytes", 64))


def _keys(features: Any, image_key: str, caption_key: str | None) -> Keys:
    """Finds the keys of images and captions among the features; raises DataError if they are missing."""
    tfds = package()
    leaves = sorted(_leaves(features, ""), key=lambda leaf: leaf[0])  # files keep no order
    images = [key for key, leaf, many in leaves if not many and _is_image(leaf)]
    if image_key not in images:
        there = f"there are images in {images}" if images else "nor any other image"
        raise DataError(f"tfds: there is no image in image_key '{image_key}': {there}")
    texts = [key for key, leaf, many in leaves if many < 2 and _is_text(leaf)]
    labels = {
        key: tuple(leaf.names)
        for key, leaf, many in leaves
        if many < 2 and isinstance(leaf, tfds.features.ClassLabel) and leaf.num_classes
    }
    if caption_key is None:
        named = [key for key in texts if CAPTION_KEYS & set(key.split("/"))]
        candidates = named or ["label"] * ("label" in labels) or list(labels)
        if len(candidates) != 1:
            raise DataError(f"tfds: caption_key must name one of the texts {texts} or labels {list(labels)}")
        (caption_key,) = candidates
    elif caption_key not in (*texts, *labels):
        raise DataError(
            f"tfds: there is no caption_key '{caption_key}': there are the texts {texts} and labels {list(labels)}"
        )
    return Keys(image_key, caption_key, labels.get(caption_key))


def _leaves(feature: Any, path: str, many: int = 0) -> Iterator[tuple[str, Any, int]]:
    """Yields all features that are not collections, with their keys and the number of sequences around them."""
    tfds = package()
    if isinstance(feature, tfds.features.FeaturesDict):
        for key in feature:
            yield from _leaves(feature[key], f"{path}/{key}" if path else key, many)
    elif isinstance(feature, tfds.features.Sequence):
        yield from _leaves(feature.feature, path, many + 1)
    else:
        yield path, feature, many


def _is_image(feature: Any) -> bool:
    """Whether a feature is an image of integers (floats are stored as if they were RGBA), or an array of pixels."""
    tfds = package()
    if isinstance(feature, tfds.features.Image):
        return np.issubdtype(feature.np_dtype, np.integer)
    return type(feature) is tfds.features.Tensor and feature.np_dtype == np.uint8 and len(feature.shape) in (2, 3)


def _is_text(feature: Any) -> bool:
    tfds = package()
    if isinstance(feature, tfds.features.Text):
        return True
    kinds = (tfds.features.Tensor, tfds.features.Scalar)
    return type(feature) in kinds and feature.shape == () and np.dtype(feature.np_dtype).kind in "OSU"


def _at(example: Any, path: str) -> Any:
    """The value at a path; None if it is missing, as in damaged files."""
    for key in path.split("/"):
        example = None if example is None else example[key]
    return example


def _from_pixels(value: Any) -> Image.Image:
    """Converts an array of pixels, uint8 (height, width) or (height, width, 1 or 3), to an image."""
    if value is None:
        raise ImageError("it holds no image")
    pixels = np.asarray(value)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] != 3):
        raise ImageError(f"an array {pixels.dtype} {pixels.shape} is not an image: it must be uint8, gray or RGB")
    return Image.fromarray(pixels).convert("RGB")
