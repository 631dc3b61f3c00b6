"""Makes batches from the arguments of `Pipeline.fit` and `evaluate`, or refuses them and says what to call instead."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kgen.contracts.dataset import Dataset
from kgen.errors import DataError, ImageRangeWarning
from kgen.spaces import Space

Batch = dict[str, Any]
MakeBatch = Callable[[Any, Any], Batch]
"""Function that makes a batch from images, and from captions or other inputs of the encoder, which may be None."""

CALL = "call fit(pipeline.inputs(images, captions)), with images uint8 (N, height, width, channels) and N captions"
ONE_OF = (("image", "latent"), ("tokens", "condition"))
OPTIONAL = ("weight",)

TOLERANCE = 1e-3
"""How far images may exceed [-1, 1], which is the error of resizing in half precision."""


def check_images(images: Any, space: Space | None = None) -> np.ndarray:
    """Converts images to an array that a pipeline reads: uint8 unchanged, floats in [-1, 1] as float32.

    Args:
        images: One array, or a sequence of arrays.
        space: The space of the images; None: any size.

    Raises:
        DataError: the images have another size or type, or contain numbers outside of [-1, 1], or NaN.

    Warns:
        ImageRangeWarning: the images are floats without negative numbers, as if they were in [0, 1].
    """
    try:
        array = np.asarray(images)
    except ValueError as error:
        raise DataError(f"all images must have the same size: {error}") from error
    if space is not None and array.shape[1:] != space.shape:
        raise DataError(f"images must be (N, {', '.join(map(str, space.shape))}), not {array.shape}")
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
        raise DataError(f"images must be uint8 in 0..255, or float in [-1, 1], not {array.dtype}: convert them")
    array = array.astype(np.float32)
    if not array.size:
        return array
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise DataError("images hold numbers that are not finite (NaN or infinity)")
    if low < -1.0 - TOLERANCE or high > 1.0 + TOLERANCE:
        hint = (
            ": for images in 0..255, give uint8, or divide by 127.5 and subtract 1" if low >= 0 and high <= 255 else ""
        )
        raise DataError(f"float images must be in [-1, 1], but these are in [{low:g}, {high:g}]{hint}")
    if low >= 0:
        warnings.warn(
            f"all numbers of these float images are in [{low:g}, {high:g}], as if black were 0, but kgen reads -1 as "
            "black and 1 as white: for images in [0, 1], give 2 * images - 1",
            ImageRangeWarning,
            stacklevel=3,
        )
    return array


def batches(x: Any, y: Any, make: MakeBatch) -> Any:
    """Converts the arguments of `fit` for Keras's loops.

    Args:
        x: A batch of arrays (see `Pipeline`); an iterator of such batches or of pairs (images, captions); or images. A
            tf.data.Dataset and other loaders of Keras are returned unchanged.
        y: The captions, or other inputs of the encoder, if `x` contains images.
        make: Function that makes a batch from images and captions.

    Raises:
        DataError: `x` is something else.
    """
    if isinstance(x, Dataset):
        raise DataError(
            f"fit reads no dataset: {CALL}, here np.stack([dataset.image('train', i) for i in range(N)]) and "
            "dataset.captions('train'); or train with 'kgen run', which reads datasets that memory cannot hold"
        )
    if isinstance(x, Mapping):
        if y is not None:
            raise DataError(f"a batch holds its captions itself, as tokens, so that there is no y: {CALL}")
        return _checked(x)
    if isinstance(x, np.ndarray | list | tuple):
        return make(x, _captions(y))
    if y is not None:
        raise DataError(f"y is read with images only, not with {type(x).__name__}: {CALL}")
    if isinstance(x, Iterator):
        return (_item(item, make) for item in x)
    _check_elements(x)
    return x


def validation_batches(data: Any, make: MakeBatch) -> Any:
    """Converts the `validation_data` of `fit`: a pair (images, captions), or anything else that `batches` accepts."""
    if isinstance(data, tuple) and len(data) == 2:
        return batches(data[0], data[1], make)
    return None if data is None else batches(data, None, make)


def _checked(batch: Mapping[str, Any]) -> Batch:
    found = dict(batch)
    for names in ONE_OF:
        if sum(name in found for name in names) != 1:
            raise DataError(f"a batch holds either {' or '.join(map(repr, names))}, but not {sorted(found)}: {CALL}")
    if unknown := sorted(set(found) - {name for names in (*ONE_OF, OPTIONAL) for name in names}):
        raise DataError(f"a batch holds no {', '.join(map(repr, unknown))}: {CALL}")
    if isinstance(found.get("image"), np.ndarray | list):
        found["image"] = check_images(found["image"])
    return found


def _item(item: Any, make: MakeBatch) -> tuple[Batch]:
    """One batch of an iterator, in a tuple, because Keras does not accept dicts from an iterator."""
    if isinstance(item, tuple) and len(item) == 1:
        (item,) = item
    if isinstance(item, Mapping):
        return (_checked(item),)
    if isinstance(item, tuple) and len(item) == 2:
        return (make(item[0], _captions(item[1])),)
    raise DataError(f"an iterator must give batches, or pairs (images, captions), not {type(item).__name__}: {CALL}")


def _captions(y: Any) -> list[Any] | None:
    """Captions, or other inputs of an encoder, as a list. Raises DataError if `y` is not a sequence of them."""
    if y is None:
        return None
    if not isinstance(y, Sequence | np.ndarray) or isinstance(y, str | bytes):
        raise DataError(f"the captions must be texts, one per image: {CALL}")
    return list(y)


def _check_elements(x: Any) -> None:
    """Refuses objects that Keras cannot read, and a tf.data.Dataset whose elements are not batches."""
    spec = getattr(x, "element_spec", None)
    if isinstance(spec, tuple) and len(spec) == 1:
        (spec,) = spec
    if spec is not None and not isinstance(spec, Mapping):
        raise DataError(f"a tf.data.Dataset must give batches as dicts, made with pipeline.inputs: {CALL}")
    if (not hasattr(x, "__iter__") and not hasattr(x, "__getitem__")) or isinstance(x, str | bytes):
        raise DataError(f"fit cannot read {type(x).__name__}: {CALL}")
