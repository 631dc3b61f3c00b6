"""Reads the shapes of images from their headers. kgen's cache remembers them, so that each header is read once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from kgen.contracts.dataset import Problem
from kgen.data.cache import cache_folder, hash_of
from kgen.data.encoded.checked import Stamp, settled, stamp_hashes
from kgen.data.encoded.scan import scan
from kgen.data.images import ImageError, Shape, header_shape
from kgen.errors import KgenError
from kgen.storage.files import atomic_file

FORMAT = 1

RECORD = np.dtype([("hash", np.uint64), ("height", np.uint32), ("width", np.uint32)])
"""What the cache holds for an image: the hash of its name and stamp, and its shape. Ten million images take 160 MB."""


def read_shapes(
    place: Path, stamps: Mapping[str, Stamp], open_: Callable[[str], IO[bytes]], what: str
) -> tuple[dict[str, Shape], dict[str, str]]:
    """The shapes of images as they are decoded, and what is wrong with images whose header cannot be read.

    Args:
        place: The folder or file that holds them.
        stamps: The stamps of the images, by name.
        open_: Opens an image; it is called from several threads. It raises OSError or ImageError.
        what: The name of the images in progress messages.
    """
    known, keys = _read(_cache_file(place)), stamp_hashes(stamps)
    at = np.minimum(np.searchsorted(known["hash"], keys), max(0, len(known) - 1))
    seen = known["hash"][at] == keys if len(known) else np.zeros(len(keys), bool)
    names = list(stamps)
    shapes = {
        names[number]: (int(known["height"][at[number]]), int(known["width"][at[number]]))
        for number in np.flatnonzero(seen).tolist()
    }
    unknown = [names[number] for number in np.flatnonzero(~seen).tolist()]

    def look(name: str) -> Shape | Problem:
        try:
            with open_(name) as file:
                return header_shape(file)
        except (ImageError, OSError) as error:
            return Problem(name, getattr(error, "strerror", None) or str(error))

    found = dict(zip(unknown, scan(unknown, look, what, unit="headers"), strict=True))
    shapes |= {name: shape for name, shape in found.items() if not isinstance(shape, Problem)}
    if unknown:
        _write(place, {name: (stamps[name], shape) for name, shape in shapes.items()})
    return shapes, {name: problem.what for name, problem in found.items() if isinstance(problem, Problem)}


def _write(place: Path, found: Mapping[str, tuple[Stamp, Shape]]) -> None:
    """Writes shapes to the cache, in place of the earlier ones. It leaves out files that changed just now."""
    kept = {name: both for name, both in found.items() if settled(both[0])}
    records = np.zeros(len(kept), RECORD)
    records["hash"] = stamp_hashes({name: stamp for name, (stamp, _) in kept.items()})
    shapes = np.array([shape for _, shape in kept.values()], np.uint32).reshape(-1, 2)
    records["height"], records["width"] = shapes.T
    with suppress(OSError, KgenError), atomic_file(_cache_file(place)) as temporary, temporary.open("wb") as file:
        np.save(file, np.sort(records, order="hash"))


def _read(path: Path) -> np.ndarray:
    """The records in a file; none if the file is missing or damaged."""
    with suppress(OSError, EOFError, ValueError):
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray) and found.dtype == RECORD and found.ndim == 1:
            return found
    return np.empty(0, RECORD)


def _cache_file(place: Path) -> Path:
    return cache_folder() / f"shapes-{hash_of({'format': FORMAT, 'place': str(place.resolve())})}.npy"
