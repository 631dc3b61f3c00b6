"""Reads the headers of tar archives: the names of files, and the positions of their bytes.

It reads the formats of POSIX (ustar, and pax with its extended headers) and of GNU tar. Python's `tarfile` reads them
too, but takes 1.5 times as long, and does not notice that the end of an archive is missing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Literal, NamedTuple

BLOCK = 512
"""Headers and files begin at multiples of this number of bytes."""

MAX_HEADER = 2**20
"""Largest size of an extended header, in bytes. Such a header holds a name and a few attributes."""

MAX_DIGITS = 20
"""Largest number of digits of a size in an extended header. All numbers of 64 bits have at most so many."""

MemberKind = Literal["file", "folder", "link", "sparse", "other"]

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\3\4": "zip"}
_FILES = b"0\0" + b"7"
_KINDS: dict[bytes, MemberKind] = {b"5": "folder", b"1": "link", b"2": "link", b"S": "sparse"}
_WITHOUT_DATA = b"123456"
_SIGNED = struct.Struct(f"{BLOCK}b")


class TarError(ValueError):
    """An archive is damaged; the message says how.

    Attributes:
        lost: The name of the last file, whose sample may be incomplete, because the rest of the archive is missing or
            cannot be read; "" if nothing is lost.
    """

    def __init__(self, message: str, lost: str = "") -> None:
        super().__init__(message)
        self.lost = lost


class Member(NamedTuple):
    """A file in an archive, or something else with a name.

    Args:
        name: The path in the archive. Bytes that are not UTF-8 become surrogates, as in file names of Python.
        kind: The kind of the member; "other" is a device, or a type that only some programs know.
        offset: The position of the first byte of the file.
        size: The number of bytes.
    """

    name: str
    kind: MemberKind
    offset: int
    size: int


def members(file: BinaryIO) -> Iterator[Member]:
    """Yields what an archive holds, in order.

    Raises:
        TarError: the file is not a tar archive, or is damaged. All members before the damage were yielded.
    """
    total = file.seek(0, 2)
    if not total:
        raise TarError("the file is empty")
    at = 0
    common: dict[str, str] = {}
    own: dict[str, str] = {}
    last = ""
    while True:
        file.seek(at)
        head = file.read(BLOCK)
        if at and len(head) < BLOCK:
            raise _cut("the end of the archive is missing", last)
        if not head.strip(b"\0"):
            return _check_end(file)
        if not _is_header(head):
            raise _cut(f"the header at byte {at:,} is damaged", last) if at else TarError(_no_archive(head))
        kind = head[156:157]
        size = _number(head[124:136])
        at += BLOCK
        if kind in b"xXgLK":
            if at + size > total:
                raise _cut("an extended header is cut off", last)
            if size > MAX_HEADER:
                raise _cut(f"an extended header of {size:,} bytes is too long", last)
            data = file.read(size)
            if kind == b"g":
                common |= _records(data)
            elif kind != b"K":  # the long name of a link's target
                own |= {"path": _text(data)} if kind == b"L" else _records(data)
            at += _blocks(size)
            continue
        member, length = _member(head, kind, size, common | own)
        own = {}
        if kind == b"S":
            at = _after_map(file, head, at)
        if at + length > total:
            raise TarError(f"it is cut off in the middle of {member.name}", member.name)
        yield member._replace(offset=at)
        last = member.name
        at += _blocks(length)


def _member(head: bytes, kind: bytes, size: int, extended: Mapping[str, str]) -> tuple[Member, int]:
    """A member without its offset, and the number of its bytes in the archive."""
    name = _text(head[:100])
    if kind in b"\0" and name.endswith("/"):  # so the first tar programs marked a folder
        kind = b"5"
    if head[257:265] != b"ustar  \0" and (prefix := _text(head[345:500])):  # GNU tar stores times in this field
        name = f"{prefix}/{name}"
    if "size" in extended:
        size = _decimal(extended["size"])
    if any(key.startswith("GNU.sparse.") for key in extended):
        kind = b"S"
    what: MemberKind = "file" if kind in _FILES else _KINDS.get(kind, "other")
    return Member(extended.get("path", name), what, 0, size), 0 if kind in _WITHOUT_DATA else size


def _is_header(head: bytes) -> bool:
    """Whether a block contains its own checksum. Some programs add up signed bytes."""
    if len(head) < BLOCK:
        return False
    try:
        expected = _number(head[148:156])
    except TarError:
        return False
    spaces = 8 * ord(" ")
    if sum(head) - sum(head[148:156]) + spaces == expected:
        return True
    signed: int = sum(_SIGNED.unpack(head[:148] + bytes(8) + head[156:]))
    return signed + spaces == expected


def _number(field: bytes) -> int:
    """A number in octal digits, or in binary if the first bit is set. Raises TarError."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        number = int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        number = -1
    if number < 0:
        raise TarError("a header is damaged: it holds no number where a size must be")
    return number


def _decimal(text: str) -> int:
    if not text.isdecimal() or len(text) > MAX_DIGITS:
        raise TarError(f"an extended header is damaged: its size is {text[: MAX_DIGITS + 1]!r}")
    return int(text)


def _records(data: bytes) -> dict[str, str]:
    """The records of a pax header, which have the form "LENGTH KEY=VALUE". Raises TarError."""
    found: dict[str, str] = {}
    while data.strip(b"\0"):
        digits = data.split(b" ", 1)[0]
        length = int(digits) if digits.isdigit() and len(digits) < 10 else 0
        key, equals, value = data[len(digits) + 1 : max(length, 1) - 1].partition(b"=")
        if not equals or data[length - 1 : length] != b"\n":
            raise TarError("an extended header is damaged")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    return found


def _after_map(file: BinaryIO, head: bytes, at: int) -> int:
    """The position of the bytes of a sparse file of GNU tar, which follow blocks with the map of its holes."""
    more = head[482]
    while more:
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise TarError("it ends in the middle of a header")
        more = block[504]
        at += BLOCK
    return at


def _check_end(file: BinaryIO) -> None:
    """Raises TarError if anything but zeros follows the end of the archive."""
    while chunk := file.read(2**20):
        if chunk.strip(b"\0"):
            raise TarError("data follow the end of the archive: were archives joined? Keep each one in its own file")


def _no_archive(head: bytes) -> str:
    kind = next((kind for magic, kind in _COMPRESSED.items() if head.startswith(magic)), None)
    return f"it is compressed ({kind}): decompress it" if kind else "it is not a tar archive"


def _cut(what: str, last: str) -> TarError:
    return TarError(f"it is cut off or damaged after {last}: {what}" if last else f"it is damaged: {what}", last)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
