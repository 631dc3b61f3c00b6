"""Remembers the samples of shards, so that a later start reads no shard."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from kgen.data.cache import cache_folder, hash_of
from kgen.data.encoded.checked import Stamp, settled
from kgen.errors import KgenError
from kgen.storage.files import atomic_file

FORMAT = 1


def recall(path: Path, stamp: Stamp, described: dict[str, Any]) -> dict[str, Any] | None:
    """What `remember` stored of a shard; None if it stored nothing, if the shard has changed, or if it is damaged.

    Args:
        path: The shard.
        stamp: Its size and times now.
        described: The options on which the result depends, as plain data.
    """
    with suppress(OSError, ValueError):
        digest, _, content = _memory(path, described).read_bytes().partition(b"\n")
        if digest == _digest(content):
            stored = json.loads(content)
            if stored["stamp"] == list(stamp):
                return stored["found"]  # type: ignore[no-any-return]
    return None


def remember(path: Path, stamp: Stamp, described: dict[str, Any], found: dict[str, Any]) -> None:
    """Stores what was found in a shard, in place of what was stored before.

    If the shard changed just now, or if kgen's cache cannot be written, nothing is stored.
    """
    if not settled(stamp):
        return
    content = json.dumps({"stamp": stamp, "found": found}).encode()
    with suppress(OSError, KgenError), atomic_file(_memory(path, described)) as temporary:
        temporary.write_bytes(_digest(content) + b"\n" + content)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).hexdigest().encode()


def _memory(path: Path, described: dict[str, Any]) -> Path:
    key = hash_of({"format": FORMAT, "place": str(path.resolve()), **described})
    return cache_folder() / "shards" / f"{key}.json"
