"""Rows on disk: in several files, in half precision, checked when they are used."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from kgen import DataError
from kgen.data import stored
from kgen.data.stored import read_rows, write_rows

pytestmark = pytest.mark.portable

FLOATS = np.random.default_rng(0).normal(size=(23, 3, 2)).astype(np.float32)
NUMBERS = np.arange(23, dtype=np.int32)


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file holds at most 4 rows of float32, or 8 in half precision."""
    monkeypatch.setattr(stored, "FILE_BYTES", 100)


def batches(size: int) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, 23, size):
        yield {"floats": FLOATS[start : start + size], "numbers": NUMBERS[start : start + size]}


@pytest.mark.parametrize("size", [1, 5, 23])
@pytest.mark.parametrize(("dtype", "files"), [(None, 6), ("float16", 3), ("bfloat16", 3)])
def test_rows_come_back_in_any_order(tmp_path: Path, size: int, dtype: str | None, files: int) -> None:
    write_rows(tmp_path, 23, batches(size), dtype)
    assert len(list(tmp_path.glob("floats-*.npy"))) == files
    kinds = {None: np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
    expected = FLOATS.astype(kinds[dtype]).astype(np.float32)
    found = pickle.loads(pickle.dumps(read_rows(tmp_path)))
    assert len(found["floats"]) == 23 and found["floats"].shape == (3, 2)
    for rows in (range(23), [22, 0, 7, 7, 4], np.array([5]), [-1], []):
        np.testing.assert_array_equal(found["floats"][rows], expected[list(rows)])
        np.testing.assert_array_equal(found["numbers"][rows], NUMBERS[list(rows)])
    assert found["floats"][[0]].dtype == np.float32 and found["numbers"][[0]].dtype == np.int32
    with pytest.raises(IndexError):
        found["floats"][[23]]


def test_reading_is_thread_safe(tmp_path: Path) -> None:
    write_rows(tmp_path, 23, batches(5))
    rows = read_rows(tmp_path)["floats"]
    with ThreadPoolExecutor(8) as pool:
        for index, found in enumerate(pool.map(lambda n: rows[[n % 23]], range(200))):
            np.testing.assert_array_equal(found, FLOATS[[index % 23]])


def test_only_files_that_are_used_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path, 23, batches(5))
    read: list[str] = []
    checksum = stored._checksum
    monkeypatch.setattr(stored, "_checksum", lambda path: (read.append(path.name), checksum(path))[1])
    rows = read_rows(tmp_path)["floats"]
    assert not read
    for _ in range(2):
        rows[[0, 22]]
    assert read == ["floats-00000.npy", "floats-00005.npy"], "each is compared once"


@pytest.mark.parametrize("damage", ["flipped", "short", "gone"])
def test_a_damaged_file_is_named_when_it_is_used(tmp_path: Path, damage: str) -> None:
    write_rows(tmp_path, 23, batches(5))
    rows = read_rows(tmp_path)["floats"]
    file = tmp_path / "floats-00002.npy"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data if damage == "flipped" else data[:-8])
    if damage == "gone":
        file.unlink()
    np.testing.assert_array_equal(rows[[0, 22]], FLOATS[[0, 22]])
    with pytest.raises(DataError, match=r"floats-00002\.npy is damaged .*: the next start computes .* again"):
        rows[[1, 9]]
    with pytest.raises(ValueError, match="is damaged"):
        read_rows(tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_numbers_that_do_not_fit_are_refused(tmp_path: Path, dtype: str) -> None:
    large = np.array([[1.0, 7e4]], np.float32)
    if dtype == "float16":
        with pytest.raises(OverflowError, match="too large for float16"):
            write_rows(tmp_path, 1, [{"x": large}], dtype)
    else:
        write_rows(tmp_path, 1, [{"x": large}], dtype)
        np.testing.assert_allclose(read_rows(tmp_path)["x"][[0]], large, rtol=2**-8)


def test_missing_rows_and_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'floats' has 20 rows, but 23 are to be written"):
        write_rows(tmp_path, 23, itertools.islice(batches(5), 4))
    write_rows(tmp_path, 23, batches(5))
    (tmp_path / "floats-00001.npy").unlink()
    with pytest.raises(ValueError, match=r"floats-00001\.npy is missing"):
        read_rows(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"count": 23}))
    with pytest.raises(KeyError):
        read_rows(tmp_path)
