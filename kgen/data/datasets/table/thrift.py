"""Reads structures in Thrift's compact protocol, which Parquet uses for the headers of its pages."""

from __future__ import annotations

import struct
from typing import Any

from kgen.data.encoded.varint import read_varint

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)


def read_struct(data: bytes, place: int) -> tuple[dict[int, Any], int]:
    """Returns the fields of a structure by their ids, and the place after it.

    Raises:
        IndexError: the data end before the structure does.
        ValueError: the data are not such a structure.
    """
    fields: dict[int, Any] = {}
    last = 0
    while head := data[place]:
        place += 1
        kind = head & 15
        if head >> 4:
            last += head >> 4
        else:
            last, place = _signed(data, place)
        if kind in (TRUE, FALSE):
            fields[last] = kind == TRUE
        else:
            fields[last], place = _value(data, place, kind)
    return fields, place + 1


def _signed(data: bytes, place: int) -> tuple[int, int]:
    value, place = read_varint(data, place)
    return (value >> 1) ^ -(value & 1), place


def _value(data: bytes, place: int, kind: int) -> tuple[Any, int]:
    if kind in (I16, I32, I64):
        return _signed(data, place)
    if kind == STRUCT:
        return read_struct(data, place)
    if kind in (LIST, SET):
        return _list(data, place)
    if kind == MAP:
        return _map(data, place)
    if kind == BINARY:
        size, place = read_varint(data, place)
    elif kind in (BYTE, TRUE, FALSE, DOUBLE):  # a boolean in a list takes a byte
        size = 8 if kind == DOUBLE else 1
    else:
        raise ValueError(f"Thrift has no type {kind}")
    if place + size > len(data):
        raise IndexError(place + size)
    found = data[place : place + size]
    return (struct.unpack("<d", found)[0] if kind == DOUBLE else found), place + size


def _list(data: bytes, place: int) -> tuple[list[Any], int]:
    head = data[place]
    count, place = (head >> 4, place + 1) if head >> 4 != 15 else read_varint(data, place + 1)
    items = []
    for _ in range(count):
        item, place = _value(data, place, head & 15)
        items.append(item)
    return items, place


def _map(data: bytes, place: int) -> tuple[list[Any], int]:
    count, place = read_varint(data, place)
    if not count:
        return [], place
    kinds = data[place]
    place += 1
    items = []
    for _ in range(count):
        key, place = _value(data, place, kinds >> 4)
        item, place = _value(data, place, kinds & 15)
        items.append((key, item))
    return items, place
