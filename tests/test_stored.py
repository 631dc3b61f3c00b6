"""Rows on disk: computed when they are first read, in half precision, and checked."""

from __future__ import annotations

import errno
import io
import json
import os
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from kgen import DataError
from kgen.data.frozen.stored import StoredRows, _write_at, create_rows
from kgen.storage.files import locked_folder

pytestmark = pytest.mark.portable

FLOATS = np.random.default_rng(0).normal(size=(23, 3, 2)).astype(np.float32)
NUMBERS = np.arange(23, dtype=np.int32)
SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}


def opened(folder: Path, dtype: str = "float32") -> StoredRows:
    folder.mkdir(exist_ok=True)
    if not (folder / "index.json").exists():
        create_rows(folder, 23, {"floats": (dtype, (3, 2)), "numbers": ("int32", ())})
    return StoredRows(folder)


def compute(rows: list[int]) -> dict[str, np.ndarray]:
    return {"floats": FLOATS[rows], "numbers": NUMBERS[rows]}


def refuse(rows: list[int]) -> dict[str, np.ndarray]:
    raise AssertionError(f"{rows} are computed again")


@pytest.mark.parametrize("dtype", SIZES)
def test_rows_are_computed_when_they_are_read_and_come_back_in_any_order(tmp_path: Path, dtype: str) -> None:
    rows = opened(tmp_path, dtype)
    kinds = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
    expected = FLOATS.astype(kinds[dtype]).astype(np.float32)
    for wanted in ([22, 0, 7, 7, 4], np.array([5]), [-1], [], range(23)):
        for read in (lambda w: rows.read(w, compute), lambda w: opened(tmp_path).read(w, refuse)):
            found = read(wanted)
            np.testing.assert_array_equal(found["floats"], expected[list(wanted)])
            np.testing.assert_array_equal(found["numbers"], NUMBERS[list(wanted)])
    assert found["floats"].dtype == np.float32 and found["numbers"].dtype == np.int32
    little = FLOATS.astype(kinds[dtype]).astype(np.dtype(kinds[dtype]).newbyteorder("<")), NUMBERS.astype("<i4")
    content = b"".join(floats.tobytes() + number.tobytes() for floats, number in zip(*little, strict=True))
    assert (tmp_path / "rows.bin").read_bytes() == content, "also on another computer"
    with pytest.raises(IndexError):
        rows.read([23])


def test_only_missing_rows_are_computed(tmp_path: Path) -> None:
    computed: list[list[int]] = []
    rows = opened(tmp_path)
    for wanted in ([4, 2], [2, 3, 4, 3]):
        rows.read(wanted, lambda missing: (computed.append(missing), compute(missing))[1])
    assert computed == [[2, 4], [3]]
    np.testing.assert_array_equal(np.flatnonzero(rows.marks()), [2, 3, 4])
    assert rows.ends() == [2, 4]


def test_processes_divide_the_missing_rows(tmp_path: Path) -> None:
    """Two processes take turns. Neither of them chooses a row that was there, nor leaves one out."""
    one, other = opened(tmp_path), opened(tmp_path)
    one.read([3, 4, 20], compute)
    assert len({tuple(next(one.missing(4))) for _ in range(200)}) == 5  # anywhere: 5 * 0.8^200 is 2e-19
    chosen: list[int] = []
    for own in (blocks := one.missing(4)):
        assert 0 < len(own) <= 4 and not one.marks()[own].any()
        other.read(others := next(other.missing(4)), compute)
        one.read(own, lambda rows: (chosen.extend(rows), compute(rows))[1])
        chosen.extend(others)
    assert not list(blocks) and not list(other.missing(4))
    assert sorted(chosen) == sorted(set(range(23)) - {3, 4, 20})


def test_threads_do_not_compute_a_row_twice(tmp_path: Path) -> None:
    rows, computed = opened(tmp_path), []

    def slowly(missing: list[int]) -> dict[str, np.ndarray]:
        computed.extend(missing)
        time.sleep(0.01)
        return compute(missing)

    with ThreadPoolExecutor(8) as pool:
        for first, found in enumerate(pool.map(lambda n: rows.read([n % 23, (n + 1) % 23], slowly), range(46))):
            np.testing.assert_array_equal(found["numbers"], [first % 23, (first + 1) % 23])
    assert sorted(computed) == list(range(23))


def test_the_process_that_is_first_writes_a_row(tmp_path: Path) -> None:
    """Two processes share a folder. Both use what the first one wrote, even if they compute different numbers."""
    one, other = opened(tmp_path), opened(tmp_path)

    def overtaken(missing: list[int]) -> dict[str, np.ndarray]:
        other.read([3], compute)
        return {"floats": FLOATS[missing] + 1, "numbers": NUMBERS[missing]}

    np.testing.assert_array_equal(one.read([3], overtaken)["floats"], FLOATS[[3]])
    np.testing.assert_array_equal(other.read([3], refuse)["floats"], FLOATS[[3]])


def test_an_error_of_one_thread_does_not_stop_the_others(tmp_path: Path) -> None:
    rows, begun, failing = opened(tmp_path), threading.Event(), threading.Event()

    def fails(missing: list[int]) -> dict[str, np.ndarray]:
        begun.set()
        failing.wait(10)
        raise RuntimeError("out of memory")

    with ThreadPoolExecutor(2) as pool:
        failed = pool.submit(rows.read, [1], fails)
        begun.wait(10)
        waiting = pool.submit(rows.read, [1], compute)
        failing.set()
        np.testing.assert_array_equal(waiting.result(10)["floats"], FLOATS[[1]])
        with pytest.raises(RuntimeError, match="out of memory"):
            failed.result()


@pytest.mark.parametrize("name", ["rows.bin", "marks.bin"])
def test_a_damaged_row_is_computed_again_or_named(tmp_path: Path, name: str) -> None:
    """A row whose mark is there, but which is not, as after a power failure."""
    opened(tmp_path).read(range(23), compute)
    file = tmp_path / name
    data = bytearray(file.read_bytes())
    data[len(data) // 23 * 7 + 2] ^= 1
    file.write_bytes(data)
    np.testing.assert_array_equal(opened(tmp_path).read([6, 8], refuse)["numbers"], [6, 8])
    computed: list[int] = []
    opened(tmp_path).read([6, 7, 8], lambda missing: (computed.extend(missing), compute(missing))[1])
    assert computed == [7]
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"rows\.bin is damaged \(row 7\): the next start computes it again"):
        opened(tmp_path).read([6, 7, 8])
    assert np.count_nonzero(opened(tmp_path).marks()) == 22
    np.testing.assert_array_equal(opened(tmp_path).read([7], compute)["floats"], FLOATS[[7]])


def test_a_checksum_is_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path).read(range(23), compute)
    rows, found, checksum = opened(tmp_path), list[int](), zlib.crc32
    monkeypatch.setattr("zlib.crc32", lambda content: (found.append(len(content)), checksum(content))[1])
    for wanted in ([1, 2], [2, 3], [1, 2, 3]):
        np.testing.assert_array_equal(rows.read(wanted)["numbers"], wanted)
    assert len(found) == 3


def test_a_file_that_was_cut_in_the_meantime_is_damaged(tmp_path: Path) -> None:
    rows = opened(tmp_path)
    rows.read(range(23), compute)
    os.truncate(tmp_path / "rows.bin", 20 * 28)
    np.testing.assert_array_equal(rows.read([19])["numbers"], [19])
    with pytest.raises(DataError, match=r"rows\.bin is damaged \(row 20\)"):
        rows.read([19, 20, 22])


def test_a_row_that_cannot_be_read_again_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StoredRows, "_write", lambda *given: None)
    with pytest.raises(DataError, match=r"rows\.bin was written, but cannot be read again"):
        opened(tmp_path).read([5], compute)


def test_one_process_at_a_time_writes(tmp_path: Path) -> None:
    rows = opened(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        with locked_folder(tmp_path):  # as another process does
            writing = pool.submit(rows.read, [5], compute)
            with pytest.raises(TimeoutError):
                writing.result(0.2)
            assert not rows.marks().any()
        assert writing.result(10)["numbers"] == [5]


class Full:
    """A file on a disk that has room for a few more bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, content: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(content[: self.room])
        self.room -= written
        return int(written)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


@pytest.mark.parametrize("wanted", [[3], [3, 4]])
@pytest.mark.parametrize("name", ["rows.bin", "marks.bin"])
def test_a_full_disk_is_an_error_and_leaves_no_wrong_row(
    tmp_path: Path, name: str, wanted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, open_ = opened(tmp_path), StoredRows._open

    def full(self: StoredRows, found: str, mode: str = "rb") -> Any:
        file = open_(self, found, mode)
        return Full(file, 5) if (found, mode) == (name, "r+b") else file

    monkeypatch.setattr(StoredRows, "_open", full)
    with pytest.raises(DataError, match=r"rows\.bin cannot be written: No space left on device.* set KGEN_CACHE"):
        rows.read(wanted, compute)
    monkeypatch.undo()
    np.testing.assert_array_equal(opened(tmp_path).read(wanted, compute)["floats"], FLOATS[wanted])


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    "damage",
    [
        without("rows.bin"),
        without("index.json"),
        lambda folder: (folder / "marks.bin").write_bytes(bytes(8)),
        lambda folder: (folder / "index.json").write_text(json.dumps({"count": 23})),
    ],
)
def test_a_damaged_folder_cannot_be_opened(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    opened(tmp_path)
    damage(tmp_path)
    with pytest.raises((OSError, ValueError, KeyError)):
        StoredRows(tmp_path)


def test_arrays_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'floats' has the shape \(1, 2, 3\), not \(1, 3, 2\)"):
        opened(tmp_path).read([0], lambda rows: {"floats": np.zeros((1, 2, 3)), "numbers": NUMBERS[rows]})


def test_the_files_take_no_space_before_rows_are_written(tmp_path: Path) -> None:
    create_rows(tmp_path, 10**6, {"x": ("float16", (32, 32, 4))})
    assert StoredRows(tmp_path).read([10**6 - 1], lambda rows: {"x": np.ones((1, 32, 32, 4))})["x"].mean() == 1
    if hasattr(used := (tmp_path / "rows.bin").stat(), "st_blocks"):
        assert used.st_size > 8 * 10**9 and 512 * used.st_blocks < 10**6


def test_a_write_that_is_cut_short_is_continued() -> None:
    class Slow(io.BytesIO):
        def write(self, content: Any) -> int:
            return super().write(content[:3])

    file = Slow(b"." * 12)
    _write_at(file, 2, b"0123456")
    assert file.getvalue() == b"..0123456..."
