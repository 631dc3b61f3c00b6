"""Which images changed: the digests that a run keeps, and the sentence that they give."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kgen import Dataset, Space, Split
from kgen.data.datasets.imagefolder import ImageFolder
from kgen.data.inventory import changes, read_inventory, write_inventory


class Plain(Dataset):
    """Says nothing about itself beyond what the contract asks for."""

    @property
    def image_space(self) -> Space:
        return Space("continuous", (4, 4, 3))

    def captions(self, split: Split) -> Sequence[str]:
        return ["a", "b"] if split == "train" else ["c"] if split == "holdout" else []

    def image(self, split: Split, index: int) -> np.ndarray:
        return np.zeros((4, 4, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    for i in range(6):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(path / f"{i}.png")
        (path / f"{i}.txt").write_text(f"image {i}")
    return path


def test_changed_files_are_named(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "run" / "inventory.jsonl.gz"
    write_inventory(ImageFolder(path=str(folder)), kept)
    before = read_inventory(kept)
    assert before == ImageFolder(path=str(folder)).inventory() and len(before) == 6
    assert changes(before, before) == ""
    Image.new("RGB", (16, 16), (9, 9, 9)).save(folder / "1.png")
    for name in ("2", "3", "4", "5"):
        (folder / f"{name}.txt").write_text("another")
    (folder / "0.png").rename(folder / "zero.png")
    (folder / "0.txt").rename(folder / "zero.txt")
    assert changes(before, ImageFolder(path=str(folder)).inventory()) == (
        "1 image was added (zero.png), 1 image was removed (0.png), 1 image changed (1.png), "
        "the captions of 4 changed (2.png, 3.png, 4.png, ...)"
    )


def test_an_image_that_moves_to_another_split_has_changed(folder: Path) -> None:
    before = ImageFolder(path=str(folder)).inventory()
    after = ImageFolder(path=str(folder), holdout=("image 4",)).inventory()
    assert changes(before, after) == "the captions of 1 changed (4.png)"


def test_the_file_is_small_and_the_same_each_time(folder: Path, tmp_path: Path) -> None:
    dataset = ImageFolder(path=str(folder))
    for name in ("a", "b"):
        write_inventory(dataset, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").stat().st_size < 300


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        b"text",
        b"\x1f\x8b\x08\x00damaged",
        b"{}",
        gzip.compress(b"", mtime=0),
        gzip.compress(b'["a", "b", "c"]\n', mtime=0),
    ],
)
def test_a_damaged_file_or_one_of_another_version_is_like_a_missing_one(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "a").write_bytes(data)
    assert read_inventory(tmp_path / "a") is None


def test_the_default_looks_at_captions(tmp_path: Path) -> None:
    write_inventory(Plain(), tmp_path / "a")
    found = read_inventory(tmp_path / "a")
    assert found is not None and list(found) == ["holdout 0", "train 0", "train 1"]
    assert found["train 0"][1] != found["train 1"][1]
