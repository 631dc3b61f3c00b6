"""The cache of arrays that plugins use: computed once, by what they are, and again if they are damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import kgen
from kgen import RunError
from kgen.data.cache import open_or_write

ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)


def compute(calls: list[int]) -> Iterator[dict[str, np.ndarray]]:
    calls.append(1)
    for start in (0, 4):
        yield {"rows": ROWS[start : start + 4], "sums": ROWS[start : start + 4].sum(1)}


def test_arrays_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path))
    calls: list[int] = []
    for described in ({"a": 1, "b": [2]}, {"b": [2], "a": 1}, {"a": 2}):
        found = kgen.cached_arrays("things", described, 6, lambda: compute(calls))
        np.testing.assert_array_equal(found["rows"], ROWS)
        np.testing.assert_array_equal(found["sums"], ROWS.sum(1))
    assert len(calls) == 2
    folders = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    assert len(folders) == 2 and all(folder.name.startswith("things-") for folder in folders)
    for folder in folders:
        (folder / "rows.npy").write_bytes(b"damaged")
    np.testing.assert_array_equal(kgen.cached_arrays("things", {"a": 2}, 6, lambda: compute(calls))["rows"], ROWS)
    assert len(calls) == 3
    (intact,) = (folder for folder in folders if (folder / "rows.npy").read_bytes() != b"damaged")
    data = bytearray((intact / "sums.npy").read_bytes())
    data[-1] ^= 1  # a bit of a number
    (intact / "sums.npy").write_bytes(data)
    found = kgen.cached_arrays("things", {"a": 2}, 6, lambda: compute(calls))
    np.testing.assert_array_equal(found["sums"], ROWS.sum(1))
    assert len(calls) == 4


def test_the_folder_of_a_faster_process_is_kept(tmp_path: Path) -> None:
    def opened(folder: Path) -> str | None:
        return (folder / "who").read_text() if folder.is_dir() else None

    def fast(folder: Path) -> None:
        (folder / "who").write_text("fast")

    def slow(folder: Path) -> None:
        assert open_or_write(tmp_path, "things-1", open_=opened, write=fast) == "fast"
        (folder / "who").write_text("slow")

    assert open_or_write(tmp_path, "things-1", open_=opened, write=slow) == "fast"
    assert opened(tmp_path / "things-1") == "fast"


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "file"))
    with pytest.raises(RunError, match=r"things cannot be kept in .*file: .*; set KGEN_CACHE"):
        kgen.cached_arrays("things", {}, 6, lambda: compute([]))
