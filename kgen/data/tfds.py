"""Datasets of tensorflow-datasets, or stored in its format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from kgen.components.dataset import Dataset, Problem, Split
from kgen.data.images import PictureError, Resize, background_colour, decode, fit
from kgen.data.problems import OnError, refuse
from kgen.data.splits import check_holdout
from kgen.errors import DataError
from kgen.spaces import Space

MEMORY_LIMIT = 2**31
"""Most bytes of a dataset that must be held in memory, as its files allow no random access."""

Row = tuple[str, int]
"""Where an example is: in which split of tensorflow-datasets, and at which index."""


class TFDS(Dataset):
    """Pictures with captions, or with labels made into captions, from tensorflow-datasets.

    Files in the formats array_record and parquet are read at random, without TensorFlow; others are read into memory,
    pictures still compressed. What kgen has tensorflow-datasets prepare becomes array_record.

    Args:
        dataset: Its name there, such as "cifar10" or "name/config:1.0.0"; null: `data_dir` is itself the folder of one
            version (it holds dataset_info.json).
        data_dir: Where datasets are, or shall be prepared; null: as tensorflow-datasets is set up.
        split: To train on, such as "train", "train[:90%]", "train+test".
        validation: Split on which only the loss is measured; null: none.
        image_key: Name of the pictures.
        caption_key: Name of the text or label, "/" between nested names; of several captions the first is taken. null:
            the only text there is, else the only label.
        template: Caption made of a label's name ("_" becomes a space).
        size: Height and width of the pictures, in pixels.
        resize: What becomes of pictures that are not square: "crop" takes the middle, "pad" adds background, "stretch"
            distorts them.
        channels: 3, or 1 for grey.
        background: Seen through transparent parts, and around padded pictures.
        holdout: Captions to keep out of training.
        on_error: What to do about examples without a caption: "refuse" to train, or "skip" them.

    Raises:
        DataError: tensorflow-datasets is not installed; the dataset, a split or a key is not there; the data cannot be
            prepared; an example has no caption.
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
        self._colour = background_colour(background, "tfds")
        if "{label}" not in template:
            raise DataError(f"tfds: template '{template}' must hold {{label}}")
        if split == validation:
            raise DataError(f"tfds: validation must not be the split that is trained on, '{split}'")
        builder = _builder(dataset, data_dir)
        info = builder.info
        self.credit = f"Dataset {info.full_name} of TensorFlow Datasets{f', {info.homepage}' if info.homepage else ''}"
        self._place = str(info.full_name)
        self._key, self._names = _caption_feature(info.features, image_key, caption_key)
        self._sources = {name: _source(builder, name) for name in dict.fromkeys((split, validation)) if name}
        self._rows, self._captions, self._problems = self._read_captions()

    @property
    def image_space(self) -> Space:
        return Space("continuous", (self.size, self.size, self.channels))

    def captions(self, split: Split) -> Sequence[str]:
        return self._captions[split]

    def image(self, split: Split, index: int) -> np.ndarray:
        name, number = self._rows[split][index]
        value = self._sources[name][number][self.image_key]
        try:
            picture = decode(value, self._colour, least=2 * self.size) if isinstance(value, bytes) else _picture(value)
        except PictureError as error:
            raise DataError(f"tfds: {self._place}, '{name}', example {number}: {error}") from error
        return fit(picture if self.channels == 3 else picture.convert("L"), self.size, self.resize, self._colour)

    def problems(self) -> Sequence[Problem]:
        return self._problems

    def _read_captions(self) -> tuple[dict[str, list[Row]], dict[str, list[str]], tuple[Problem, ...]]:
        """Rows and captions by split, and what has no caption. Pictures are not decoded for it."""
        found: list[tuple[Row, str]] = []
        problems: list[Problem] = []
        for name, source in self._sources.items():
            for number in range(len(source)):
                if caption := self._caption(source[number]):
                    found.append(((name, number), caption))
                else:
                    problems.append(Problem(f"{name}, example {number}", f"'{self._key}' holds no caption"))
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
        value = example
        for key in self._key.split("/"):
            value = value[key]
        while isinstance(value, list | tuple | np.ndarray) and np.ndim(value):
            if not len(value):
                return ""
            value = value[0]
        if self._names is not None:
            number = int(value)  # -1 where the label is not told, in some test splits
            label = self._names[number].replace("_", " ") if number >= 0 else ""
            return self.template.replace("{label}", label) if label else ""
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        return " ".join(text.split())


def _tfds() -> Any:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise DataError(f'tfds: tensorflow-datasets is not installed ({error}): pip install "kgen[tfds]"') from error
    return tensorflow_datasets


def _builder(dataset: str | None, data_dir: str | None) -> Any:
    """The builder of a dataset whose files are there; they are prepared, if need be."""
    tfds = _tfds()
    if dataset is None and data_dir is None:
        raise DataError("tfds: needs 'dataset', a name such as 'cifar10', or 'data_dir', or both")
    what = f"'{dataset}'" if dataset else str(data_dir)
    try:
        builder = tfds.builder(dataset, data_dir=data_dir) if dataset else tfds.builder_from_directory(data_dir)
    except Exception as error:  # registry, parser and file system each raise their own
        raise DataError(f"tfds: there is no dataset {what}: {_first_line(error)}") from error
    if not builder.is_prepared():
        try:
            builder.download_and_prepare(file_format="array_record")
        except Exception as error:  # the network, a full disk, a missing package: all that preparing may meet
            raise DataError(f"tfds: dataset {what} cannot be prepared: {_first_line(error)}") from error
    return builder


def _source(builder: Any, split: str) -> Sequence[Any]:
    """The examples of a split, their pictures still compressed."""
    tfds = _tfds()
    features = builder.info.features
    skip = {key: tfds.decode.SkipDecoding() for key in features if isinstance(features[key], tfds.features.Image)}
    try:
        if not builder.info.splits[split].num_examples:
            return []
    except (KeyError, ValueError) as error:
        known = ", ".join(f"'{name}'" for name in builder.info.splits)
        raise DataError(f"tfds: {builder.info.full_name} has no split '{split}': there are {known}") from error
    try:
        return builder.as_data_source(split, decoders=skip)  # type: ignore[no-any-return]
    except NotImplementedError:
        whole = tfds.as_numpy(builder.as_dataset(split=split, decoders=skip, shuffle_files=False))
        return _in_memory(whole, f"{builder.info.full_name}, '{split}',")


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


def _caption_feature(features: Any, image_key: str, caption_key: str | None) -> tuple[str, Sequence[str] | None]:
    """Where captions are, and the names of the labels if that is what is there. Checks that there are pictures too."""
    tfds = _tfds()
    leaves = dict(_leaves(features, ""))
    if image_key not in features:
        pictures = [key for key, leaf in leaves.items() if isinstance(leaf, tfds.features.Image)]
        raise DataError(
            f"tfds: there is no image_key '{image_key}': pictures are in {pictures or 'none of its features'}"
        )
    texts = [key for key, leaf in leaves.items() if isinstance(leaf, tfds.features.Text)]
    labels = [key for key, leaf in leaves.items() if isinstance(leaf, tfds.features.ClassLabel)]
    if caption_key is None:
        candidates = texts if texts else labels
        if len(candidates) != 1:
            raise DataError(f"tfds: caption_key must name one of the texts {texts} or labels {labels}")
        (caption_key,) = candidates
    elif caption_key not in texts + labels:
        raise DataError(
            f"tfds: there is no caption_key '{caption_key}': there are the texts {texts} and labels {labels}"
        )
    return caption_key, tuple(leaves[caption_key].names) if caption_key in labels else None


def _leaves(feature: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Features that are no collection, with their names."""
    tfds = _tfds()
    if isinstance(feature, tfds.features.FeaturesDict):
        for key in feature:
            yield from _leaves(feature[key], f"{path}/{key}" if path else key)
    elif isinstance(feature, tfds.features.Sequence):
        yield from _leaves(feature.feature, path)
    else:
        yield path, feature


def _picture(value: Any) -> Image.Image:
    """Pixels that are stored as numbers: uint8 (height, width), or (height, width, 1 or 3)."""
    pixels = np.asarray(value)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] != 3):
        raise PictureError(f"an array {pixels.dtype} {pixels.shape} is no picture: it must be uint8, grey or RGB")
    return Image.fromarray(pixels).convert("RGB")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
