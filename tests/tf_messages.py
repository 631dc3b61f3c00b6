"""Writes messages tf.train.Example by hand, without TensorFlow."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any


def varint(value: int) -> bytes:
    value %= 2**64
    found = b""
    while value >= 128:
        found += bytes([value % 128 + 128])
        value //= 128
    return found + bytes([value])


def field(number: int, data: bytes) -> bytes:
    return varint(number * 8 + 2) + varint(len(data)) + data


def feature(values: Sequence[Any]) -> bytes:
    if values and isinstance(values[0], bytes):
        return field(1, b"".join(field(1, value) for value in values))
    if values and isinstance(values[0], float):
        return field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
    return field(3, field(1, b"".join(map(varint, values))))


def example(features: Mapping[str, Any]) -> bytes:
    lists = {name: value if isinstance(value, list) else [value] for name, value in features.items()}
    entries = [field(1, name.encode()) + field(2, feature(values)) for name, values in lists.items()]
    return field(1, b"".join(field(1, entry) for entry in entries))
