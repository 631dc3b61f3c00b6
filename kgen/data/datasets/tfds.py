"""Datasets of tensorflow-datasets, or stored in its format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field

from kgen.contracts.dataset import Column, Dataset, Problem, Split, short_digest
from kgen.data.datasets.problems import OnError, refuse
from kgen.data.datasets.scan import scan
from kgen.data.datasets.splits import check_holdout
from kgen.data.datasets.tfds_builder import open_builder, package
from kgen.data.images import ImageError, Resize, background_color, decode, fit
from kgen.errors import DataError
from kgen.plugins.faults import reason
from kgen.spaces import Space

MEMORY_LIMIT = 2**31
"""Most bytes of a dataset that must be held in memory, as its files allow no random access."""

CAPTION_KEYS = frozenset(("caption", "captions", "description", "text", "title"))
"""Names of texts that are taken for captions unasked; other texts are often ids and file names."""

Row = tuple[str, int]
"""Where an example is: in which split of tensorflow-datasets, and at which index."""


class Keys(NamedTuple):
    """Where images and captions are in an example ("/" between nested names).

    `labels` are the names of the labels, if that is what captions are made of.
    """

    image: str
    caption: str
    labels: tuple[str, ...] | None


class TFDS(Dataset):
    """Images with captions, or with labels made into captions, from tensorflow-datasets.

    Where captions are made of labels, the examples have the field "label", too: the label's name.

    Files in the formats array_record and parquet are read at random, without TensorFlow; others are read into memory,
    images still compressed. What kgen has tensorflow-datasets prepare becomes array_record. Every example is read
    once before training, so that none can break it later.

    Args:
        dataset: Its name there, such as "cifar10" or "name/config:1.0.0"; null: `data_dir` is itself the folder of one
            version (it holds dataset_info.json).
        data_dir: Where datasets are, or shall be prepared; null: as tensorflow-datasets is set up.
        split: To train on, such as "train", "train[:90%]", "train+test".
        validation: Split on which only the loss is measured, such as "test" or "train[90%:]"; null: none.
        image_key: Name of the images, "/" between nested names.
        caption_key: Name of the text or label; of several captions the first is taken. null: the only text that is
            named as captions are ("caption", "text", ...), else "label", else the only label.
        template: Caption made of a label's name ("_" becomes a space).
        size: Height and width of the images, in pixels.
        resize: What becomes of images that are not square: "crop" takes the middle, "pad" adds background, "stretch"
            distorts them.
        channels: 3, or 1 for gray.
        background: Seen through transparent parts, and around padded images.
        holdout: Captions to keep out of training.
        on_error: What to do about broken images and missing captions: "refuse" to train, or "skip" them.

    Raises:
        DataError: tensorflow-datasets is not installed; the dataset, a split or a key is not there; the data cannot be
            prepared or read; training and validation share examples; a problem, unless problems are to be skipped.
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
        return fit(image if self.channels == 3 else image.convert("L"), self.size, self.resize, self._color)

    def problems(self) -> Sequence[Problem]:
        return self._problems

    def fingerprint(self) -> str:
        """Of the captions, all images, and how they are made into arrays."""
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
        except Exception as error:  # a damaged file: the readers raise what C++ does
            raise ImageError(f"it cannot be read: {reason(error)}") from error

    def _image(self, example: Any) -> Image.Image:
        value = _at(example, self._keys.image)
        if isinstance(value, bytes):
            return decode(value, self._color, least=2 * self.size)
        return _from_pixels(value)

    def _check(self, digest: Any) -> tuple[list[tuple[Row, str]], list[Problem]]:
        """Reads and decodes every example once: rows with captions, and problems; updates the digest of images."""
        found: list[tuple[Row, str]] = []
        problems: list[Problem] = []

        def check(row: Row) -> tuple[Row, str, bytes]:
            """Caption and digest; in place of the digest nothing: the text is a problem."""
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
        """Rows and captions by split. Raises DataError for problems that are not to be skipped."""
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
        """An example's caption; empty if there is none."""
        value = _at(example, self._keys.caption)
        if isinstance(value, list | np.ndarray) and np.ndim(value):
            value = value[0] if len(value) else None
        if value is None:
            return ""
        if self._keys.labels is not None:
            number = int(value)  # -1 where the label is not told, in some test splits
            return self._of_label(self._keys.labels[number]) if number >= 0 else ""
        try:
            text = value.decode() if isinstance(value, bytes) else str(value)
        except UnicodeDecodeError as error:
            raise ImageError(f"'{self._keys.caption}' is not UTF-8 text: {error}") from error
        return " ".join(text.split())

    def _of_label(self, label: str) -> str:
        """The caption that says a label."""
        return self.template.replace("{label}", label.replace("_", " "))


def _ranges(info: Any, split: str) -> dict[str, list[tuple[int, int]]]:
    """Which examples a split has: [start, end) of each file."""
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
    """Raises DataError if the second of two splits has examples of the first."""
    for file, parts in ranges[-1].items() if len(ranges) == 2 else ():
        for start, end in parts:
            if any(start < other_end and other_start < end for other_start, other_end in ranges[0].get(file, ())):
                raise DataError(f"tfds: validation '{names[1]}' holds examples of '{names[0]}', that is trained on")


def _source(builder: Any, split: str) -> Sequence[Any]:
    """The examples of a split, their images still compressed."""
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
            f"tfds: {what} allows no random access; to read it takes TensorFlow ({error}): "
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
    """Finds images and captions among the features. Raises DataError unless they are there."""
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
    """Features that are no collection, with their names, and how many sequences they are in."""
    tfds = package()
    if isinstance(feature, tfds.features.FeaturesDict):
        for key in feature:
            yield from _leaves(feature[key], f"{path}/{key}" if path else key, many)
    elif isinstance(feature, tfds.features.Sequence):
        yield from _leaves(feature.feature, path, many + 1)
    else:
        yield path, feature, many


def _is_image(feature: Any) -> bool:
    """An image whose file holds whole numbers (floats are stored as if they were RGBA), or pixels as an array."""
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
    """The value at a path; None if it is missing, as it is in damaged files."""
    for key in path.split("/"):
        example = None if example is None else example[key]
    return example


def _from_pixels(value: Any) -> Image.Image:
    """Pixels that are stored as numbers: uint8 (height, width), or (height, width, 1 or 3)."""
    if value is None:
        raise ImageError("it holds no image")
    pixels = np.asarray(value)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] != 3):
        raise ImageError(f"an array {pixels.dtype} {pixels.shape} is no image: it must be uint8, gray or RGB")
    return Image.fromarray(pixels).convert("RGB")
