"""Chooses the columns of images, captions and labels by their types, their names and Hugging Face's metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kgen.data.encoded.captions import CAPTION_COLUMNS, alternatives
from kgen.errors import DataError


@dataclass(frozen=True)
class Columns:
    """The columns that are read.

    Attributes:
        image: The encoded images.
        caption: The captions; None: captions are made from the labels, or all images have the same caption.
        label: The labels, numbers or texts; None: there are none.
        classes: The names of the labels 0, 1, 2 ...; empty: a number is its own name.
    """

    image: str
    caption: str | None
    label: str | None
    classes: tuple[str, ...] = ()

    @property
    def texts(self) -> list[str]:
        """The columns that are read at the start."""
        return [name for name in (self.caption, self.label) if name is not None]


@dataclass(frozen=True)
class ColumnOptions:
    """The options of a dataset that name columns or replace captions."""

    image_key: str | None
    caption_key: str | None
    template: str


def choose_columns(schema: Any, options: ColumnOptions, where: str) -> Columns:
    """Chooses the columns of a `pyarrow.Schema`.

    Args:
        where: The dataset and the file, for messages.

    Raises:
        DataError: a column does not exist, or several columns could be meant.
    """
    features = _features(schema)
    image = _image(schema, features, options, where)
    labels = [
        field.name
        for field in schema
        if field.name != image and (_is_text(field.type) or _is_integer(field.type)) and not _is_list(field.type)
    ]
    classes = [name for name in labels if features.get(name, {}).get("_type") == "ClassLabel"]
    caption = _caption(schema, image, classes, options, where)
    label = _label(labels, classes, caption, options)
    if caption is None and label is None and "{label}" in options.template:
        others = [name for name in schema.names if name != image]
        raise DataError(
            f"{where} holds no captions: besides the images in '{image}', it has {_and(others)}. Name the column of "
            "captions with caption_key; or set template: an image, to give all images the same caption"
        )
    names = tuple(map(str, features.get(label, {}).get("names") or ())) if label in classes else ()
    return Columns(image, caption, label, names)


def check_same_columns(schema: Any, columns: Columns, first: Any, where: str, before: str) -> None:
    """Raises DataError if a file lacks a column that the first file has, or if a column has another type there."""
    for name in (columns.image, *columns.texts):
        if name not in schema.names:
            raise DataError(f"{where} has no column '{name}', but {before} has: it has {_and(schema.names)}")
        one, other = schema.field(name).type, first.field(name).type
        kinds = _is_image, _is_text, _is_integer
        if [kind(one) for kind in kinds] != [kind(other) for kind in kinds]:
            raise DataError(f"{where}: its column '{name}' holds {one}, but that of {before} holds {other}")
    mine = _features(schema).get(columns.label, {}).get("names") or columns.classes
    if columns.classes and tuple(map(str, mine)) != columns.classes:
        raise DataError(f"{where}: the names of the classes in '{columns.label}' differ from those of {before}")


def _features(schema: Any) -> Mapping[Any, Any]:
    """The types of columns that the package `datasets` stores in the metadata of a schema; {} if there are none."""
    with suppress(ValueError, KeyError, TypeError):
        found = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in found.items() if isinstance(feature, dict)}
    return {}


def _image(schema: Any, features: Mapping[Any, Any], options: ColumnOptions, where: str) -> str:
    found: list[str] = [field.name for field in schema if _is_image(field.type)]
    if options.image_key is not None:
        if options.image_key in found:
            return options.image_key
        if options.image_key in schema.names:
            kind = schema.field(options.image_key).type
            raise DataError(f"{where}: its column '{options.image_key}' holds {kind}, not encoded images")
        hint = (
            f"image_key can be {alternatives(found)}"
            if found
            else f"it has {_and(schema.names)}, and none holds images"
        )
        raise DataError(f"{where} has no column '{options.image_key}': {hint}")
    declared: list[str] = [name for name in found if features.get(name, {}).get("_type") == "Image"] or found
    if len(declared) == 1:
        return declared[0]
    if declared:
        raise DataError(f"{where} has several columns of images: set image_key to {alternatives(declared)}")
    advice = ""
    if {"file_name", "image_path"} & set(schema.names):
        advice = ". If it names image files, call it metadata.parquet, beside them, and use the dataset imagefolder"
    raise DataError(
        f"{where} has no column of images, which are bytes, or bytes with a path, as Hugging Face stores them: it has "
        f"{_and(schema.names)}{advice}"
    )


def _caption(schema: Any, image: str, classes: Sequence[str], options: ColumnOptions, where: str) -> str | None:
    texts = [field.name for field in schema if _is_text(field.type) and field.name != image]
    key = options.caption_key
    if key is not None:
        if key in texts:
            return key
        if key in classes or (key in schema.names and _is_integer(schema.field(key).type)):
            return None
        choices = [*texts, *classes]
        hint = f"caption_key can be {alternatives(choices)}" if choices else f"it has {_and(schema.names)}"
        raise DataError(f"{where} has no column '{key}' of texts: {hint}")
    known = [name for usual in CAPTION_COLUMNS for name in texts if name.lower() == usual]
    if len(known) > 1 and known[0].lower() != "text":
        raise DataError(f"{where} does not say what is a caption: set caption_key to {alternatives(known)}")
    return known[0] if known else None


def _label(labels: Sequence[str], classes: Sequence[str], caption: str | None, options: ColumnOptions) -> str | None:
    if caption is None and options.caption_key is not None:
        return options.caption_key
    if usual := [name for name in labels if name.lower() == "label" and name != caption]:
        return usual[0]
    return classes[0] if len(classes) == 1 else None


def _is_image(kind: Any) -> bool:
    """Whether a column of this type can hold encoded images: bytes, or structures with the field "bytes"."""
    from pyarrow import types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _is_image(field.type) for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if _is_list(kind):
        return _is_text(kind.value_type)
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    tests: Sequence[Callable[[Any], bool]] = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _is_integer(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind))


def _and(names: Sequence[str]) -> str:
    return " and ".join(f"'{name}'" for name in names) or "no other column"
