"""Keeps the listings of shards in kgen's cache, so that a later start reads no shard."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from kgen.data.cache import cache_folder, hash_of
from kgen.data.datasets.shards.listing import Listing
from kgen.data.encoded.checked import Stamp, settled
from kgen.errors import KgenError
from kgen.storage.files import atomic_file

FORMAT = 2


def read_listing(path: Path, stamp: Stamp, options: dict[str, Any]) -> Listing | None:
    """The listing of a shard in the cache; None if there is none, if it is damaged, or if the shard has changed.

    Args:
        path: The shard.
        stamp: The present size and times of the shard.
        options: The options on which the listing depends, as plain data.
    """
    with suppress(OSError, ValueError):
        digest, _, content = _cache_file(path, options).read_bytes().partition(b"\n")
        if digest == _digest(content):
            stored = json.loads(content)
            if stored["stamp"] == list(stamp):
                return Listing(**stored["found"])
    return None


def write_listing(path: Path, stamp: Stamp, options: dict[str, Any], listing: Listing) -> None:
    """Writes the listing of a shard to the cache, in place of an earlier one.

    It writes nothing if the shard changed just now, or if the cache cannot be written.
    """
    if not settled(stamp):
        return
    content = json.dumps({"stamp": stamp, "found": dataclasses.asdict(listing)}).encode()
    with suppress(OSError, KgenError), atomic_file(_cache_file(path, options)) as temporary:
        temporary.write_bytes(_digest(content) + b"\n" + content)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).hexdigest().encode()


def _cache_file(path: Path, options: dict[str, Any]) -> Path:
    key = hash_of({"format": FORMAT, "place": str(path.resolve()), **options})
    return cache_folder() / "shards" / f"{key}.json"
