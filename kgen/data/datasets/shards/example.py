"""Reads serialized tf.train.Example messages, without TensorFlow.

The messages (tensorflow/core/example/feature.proto) are nested fields in the wire format of protocol buffers::

    Example:  features = 1              Features: map<string, Feature> feature = 1
    Feature:  bytes_list = 1, float_list = 2, int64_list = 3     *List:    repeated value = 1
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from kgen.data.encoded.varint import read_varint

Value = list[bytes] | list[float] | list[int]
"""The values of a feature."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LISTS = {1: "bytes", 2: "floats", 3: "integers"}


class ExampleError(ValueError):
    """The bytes are not a tf.train.Example."""


def read_example(data: bytes) -> dict[str, Value]:
    """The features of an example by name. If a name occurs twice, its last value counts.

    Raises:
        ExampleError: the bytes are damaged, or are something else.
    """
    found: dict[str, Value] = {}
    for features in _messages(data, 1):
        for entry in _messages(features, 1):
            parts = {
                number: value for number, kind, value in _fields(entry) if kind == _BYTES and isinstance(value, bytes)
            }
            try:
                found[parts.get(1, b"").decode()] = _values(parts.get(2, b""))
            except UnicodeDecodeError as error:
                raise ExampleError("the name of a feature is not UTF-8 text") from error
    if not found:
        raise ExampleError("it has no features")
    return found


def _values(feature: bytes) -> Value:
    """The values of a feature; [] if it has no list."""
    values: Value = []
    for number, kind, data in _fields(feature):
        if number not in _LISTS:
            continue
        if kind != _BYTES or not isinstance(data, bytes):
            raise ExampleError(f"a list of {_LISTS[number]} is damaged")
        values = {1: _bytes_in, 2: _floats_in, 3: _integers_in}[number](data)
    return values


def _bytes_in(data: bytes) -> Value:
    return list(_messages(data, 1))


def _floats_in(data: bytes) -> Value:
    found: list[float] = []
    for number, kind, value in _fields(data):
        if number == 1 and isinstance(value, bytes) and kind in (_BYTES, _FIXED32):
            if len(value) % 4:
                raise ExampleError("a list of floats is damaged")
            found += struct.unpack(f"<{len(value) // 4}f", value)
    return found


def _integers_in(data: bytes) -> Value:
    found: list[int] = []
    for number, kind, value in _fields(data):
        if number != 1:
            continue
        if isinstance(value, int):
            found.append(_signed(value))
        elif kind == _BYTES:
            at = 0
            while at < len(value):
                one, at = _varint(value, at)
                found.append(_signed(one))
    return found


def _messages(data: bytes, wanted: int) -> Iterator[bytes]:
    """The values of the fields with the number `wanted`. Raises ExampleError if one is not bytes."""
    for number, kind, value in _fields(data):
        if number == wanted:
            if kind != _BYTES or not isinstance(value, bytes):
                raise ExampleError("a field holds a number where bytes must be")
            yield value


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes | int]]:
    """The number, the wire type and the value of each field. Raises ExampleError."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if not number or kind not in (_VARINT, _FIXED64, _BYTES, _FIXED32):
            raise ExampleError(f"a field has the number {number} and the unknown type {kind}")
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, kind, value
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if length is None:
            length, at = _varint(data, at)
        if at + length > len(data):
            raise ExampleError("it ends in the middle of a field")
        yield number, kind, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    try:
        return read_varint(data, at)
    except IndexError:
        raise ExampleError("it ends in the middle of a number") from None
    except ValueError:
        raise ExampleError("a number is too long") from None


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
