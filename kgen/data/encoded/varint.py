"""Reads integers of variable length, as protocol buffers, Thrift and Parquet store them."""

from __future__ import annotations


def read_varint(data: bytes, place: int) -> tuple[int, int]:
    """Reads an unsigned integer in groups of 7 bits, the lowest first. Returns it, and the position after it.

    Raises:
        IndexError: the data end before the integer does.
        ValueError: the integer has more than ten groups.
    """
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), place
    raise ValueError("an integer has more than 64 bits")
