"""The cache of a decoder's latents: what is in it, when it is used, and what becomes of a damaged or hindered one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from full_disk import full_disk
from keras import ops
from kgen_plugin_superres.regression import Regression

from kgen.backend.compiled import Compiled, Snapshot
from kgen.contracts.dataset import Problem, Split
from kgen.data.datasets.shapes import Shapes
from kgen.data.frozen import filling
from kgen.data.frozen.encoding import Encoding, described, packed, plain, read_problems, unpacked, write_problems
from kgen.data.frozen.filling import Filling
from kgen.data.frozen.latents import LatentCache, cached_latents
from kgen.data.frozen.stored import StoredRows, create_rows
from kgen.errors import RunError
from kgen.spaces import Space

DATASET = Shapes(size=16, count=70, objects=1)  # more than one batch, and not a multiple

HALF = 2.0**-11
"""The relative error of rounding to float16."""


def make_decoder(cls: type[Regression] = Regression) -> Regression:
    made = cls(DATASET.image_space, factor=4, width=4, blocks=1)
    made.build(None)
    return made


@pytest.fixture(scope="module")
def decoder() -> Regression:
    return make_decoder()


def small(image: np.ndarray) -> np.ndarray:
    """uint8 (16, 16, 3) -> (4, 4, 3) in [-1, 1]."""
    return image.reshape(4, 4, 4, 4, 3).mean((1, 3)) / 127.5 - 1.0


@pytest.mark.backends
@pytest.mark.parametrize("flip", [False, True])
def test_holds_the_latents_of_the_decoder(decoder: Regression, tmp_path: Path, flip: bool) -> None:
    cache = cached_latents(decoder, DATASET, "train", tmp_path, flip=flip)
    count = len(DATASET.captions("train"))
    assert len(cache) == (2 if flip else 1) * count
    rows = [0, 3, count - 1]
    wanted = np.stack([small(DATASET.image("train", row)) for row in rows])
    np.testing.assert_allclose(cache.lookup([row * (2 if flip else 1) for row in rows]), wanted, HALF, 1e-5)
    if flip:
        np.testing.assert_allclose(cache.lookup([2 * row + 1 for row in rows]), wanted[:, :, ::-1], HALF, 1e-5)


@pytest.mark.backends
def test_is_read_again_without_encoding(decoder: Regression, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cached_latents(decoder, DATASET, "train", tmp_path)

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("images are encoded again")

    monkeypatch.setattr(Compiled, "__init__", refuse)
    second = cached_latents(decoder, DATASET, "train", tmp_path)
    np.testing.assert_array_equal(second.lookup(range(len(first))), first.lookup(range(len(first))))


def test_different_inputs_have_separate_caches(decoder: Regression, tmp_path: Path) -> None:
    def folders() -> int:
        return len(list(tmp_path.glob("latents-*")))

    cached_latents(decoder, DATASET, "train", tmp_path)
    cached_latents(decoder, DATASET, "train", tmp_path, flip=True)
    cached_latents(decoder, Shapes(size=16, count=70, objects=1, seed=5), "train", tmp_path)
    assert folders() == 3
    weight = decoder.trainable_weights[0]
    before = ops.convert_to_numpy(weight).copy()
    weight.assign(before + 1.0)
    try:
        cached_latents(decoder, DATASET, "train", tmp_path)
    finally:
        weight.assign(before)
    assert folders() == 4


def test_the_name_depends_on_all_that_latents_depend_on(
    decoder: Regression, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def data(seed: int = 0, fingerprint: str = "the same") -> Shapes:
        found = Shapes(size=16, count=70, objects=1, holdout=["purple square"], seed=seed)
        found.fingerprint = lambda: fingerprint  # type: ignore[method-assign]
        return found

    def name(dataset: Shapes, split: Split = "train", **options: Any) -> str:
        return cached_latents(decoder, dataset, split, tmp_path, filling=Filling(), **options).folder.name

    names = [name(data()), name(data(seed=1)), name(data(fingerprint="another")), name(data(), "holdout")]
    names += [name(data(), views=3), name(data(), flip=True), name(data(), views=2)]
    monkeypatch.setattr(keras.backend, "backend", lambda: "another")
    names.append(name(data()))
    assert len(set(names)) == len(names) == 8


@pytest.mark.parametrize("damage", ["flipped", "short", "gone", "no index"])
def test_a_damaged_file_is_found_and_rewritten(decoder: Regression, tmp_path: Path, damage: str) -> None:
    cache = cached_latents(decoder, DATASET, "train", tmp_path)
    good = cache.lookup(range(len(cache)))
    array = cache.folder / "rows.bin"
    data = bytearray(array.read_bytes())
    del cache
    if damage == "flipped":
        data[len(data) // 2] ^= 1  # in the middle: neither the first nor the last row
        array.write_bytes(data)
    elif damage == "short":
        array.write_bytes(data[:-40])
    else:
        (array if damage == "gone" else array.with_name("index.json")).unlink()
    again = cached_latents(decoder, DATASET, "train", tmp_path)
    np.testing.assert_array_equal(again.lookup(range(len(again))), good)


def test_changed_code_is_noticed(decoder: Regression, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_latents(decoder, DATASET, "train", tmp_path)
    encode = Regression.encode
    monkeypatch.setattr(Regression, "encode", lambda self, images: -encode(self, images))
    cache = cached_latents(decoder, DATASET, "train", tmp_path)
    np.testing.assert_allclose(cache.lookup([1])[0], -small(DATASET.image("train", 1)), HALF, 1e-5)


def test_a_folder_that_cannot_be_written_is_named(decoder: Regression, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"latents cannot be kept in .*file.*KGEN_CACHE"):
        cached_latents(decoder, DATASET, "train", tmp_path / "file")


def test_a_full_disk_leaves_no_files_behind(decoder: Regression, tmp_path: Path) -> None:
    """No file may grow beyond a kilobyte, as far as this process is concerned."""
    with full_disk(1024), pytest.raises(RunError, match=f"latents cannot be kept in {tmp_path}.*KGEN_CACHE"):
        cached_latents(decoder, DATASET, "train", tmp_path)
    assert not list(tmp_path.iterdir())
    assert isinstance(cached_latents(decoder, DATASET, "train", tmp_path), LatentCache)


class Damaged:
    """Images, one of which a process has found damaged; and their dataset."""

    def __init__(self, name: str) -> None:
        self.dataset, self.name, self.reported = self, name, list[str]()

    def read(self, rows: Sequence[int]) -> np.ndarray:
        return np.zeros((len(rows), 4, 4, 3), np.uint8)

    def problems(self) -> list[Problem]:
        return [Problem(self.name, "is damaged")]

    def report(self, problem: Problem) -> None:
        self.reported.append(problem.where)


@pytest.mark.portable
def test_processes_tell_each_other_of_damaged_images_once(tmp_path: Path) -> None:
    write_problems(tmp_path, [])
    images = [Damaged("a.png"), Damaged("b.png")]
    one, other = (Encoding(tmp_path, each, lambda batch: np.zeros((len(batch), 2))) for each in images)  # type: ignore[arg-type]
    one([0])
    other([0])
    assert [problem.where for problem in read_problems(tmp_path)] == ["a.png", "b.png"]
    for _ in range(2):
        one.learn_problems()
    assert images[0].reported == ["a.png", "b.png"]


@pytest.mark.portable
def test_all_images_are_encoded_by_one_program(tmp_path: Path) -> None:
    """The last batch is filled up, because another program could compute other latents."""
    write_problems(tmp_path, [])
    sizes: list[int] = []

    def encode(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return np.full((len(batch), 2), len(sizes), np.float32)

    found = unpacked(Encoding(tmp_path, Damaged("a.png"), encode)(range(37)))  # type: ignore[arg-type]
    assert sizes == [16] * 3
    np.testing.assert_array_equal(found[:, 0], [1] * 16 + [2] * 16 + [3] * 5)


# while a model trains


class Convolved(Regression):
    """Latents that depend on weights. (Those of `Regression` are the mean of pixels.)"""

    def encode(self, images: Any) -> Any:
        return ops.matmul(super().encode(images), self.network.conv_in.kernel[0, 0, :, :3])


@pytest.mark.backends
def test_missing_latents_are_computed_when_threads_need_them(tmp_path: Path) -> None:
    """They do not depend on the batch that first needs them, nor on whether the cache was filled before."""
    decoder = make_decoder(Convolved)
    whole = cached_latents(decoder, DATASET, "train", tmp_path / "filled")
    lines: list[str] = []
    cache = cached_latents(decoder, DATASET, "train", tmp_path / "needed", filling=Filling(lines.append))
    assert (
        lines
        == [
            "0 of 70 latents of the split 'train' are cached. The others are computed when the training first "
            "needs them"
        ]
        and cache.written == 0
    )
    expected = whole.lookup(range(70))
    assert len(np.unique(expected)) > 100
    if keras.backend.backend() == "jax":
        for variable in decoder.variables:  # as a training step does
            variable.value.delete()
    batches = np.random.default_rng(0).permutation(70).reshape(14, 5)
    with ThreadPoolExecutor(3) as pool:
        for rows, found in zip(batches, pool.map(cache.lookup, batches), strict=True):
            np.testing.assert_array_equal(found, expected[rows])
    assert cache.written == 70


def test_a_partial_cache_is_continued(decoder: Regression, tmp_path: Path) -> None:
    lines: list[str] = []
    for written, rows in ((0, [5, 9]), (2, [9, 60]), (3, range(70)), (70, [4])):
        cache = cached_latents(decoder, DATASET, "train", tmp_path, filling=Filling(lines.append))
        assert cache.written == written
        wanted = np.stack([small(DATASET.image("train", row)) for row in rows])
        np.testing.assert_allclose(cache.lookup(rows), wanted, HALF, 1e-5)
    assert [line.split(" latents")[0] for line in lines] == ["0 of 70", "2 of 70", "3 of 70", "all 70"]


@pytest.mark.backends
def test_a_cache_is_filled_first_if_it_must_be(
    decoder: Regression, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    cache = cached_latents(decoder, DATASET, "train", tmp_path / "devices", filling=Filling(lines.append, devices=2))
    assert cache.written == 70 and "The others are computed now, because 2 devices share every batch" in lines[0]
    monkeypatch.setattr(filling, "MAX_COPY_BYTES", 10)
    cache = cached_latents(decoder, DATASET, "train", tmp_path / "memory", filling=Filling(lines.append))
    copies = keras.backend.backend() == "jax"
    assert cache.written == (70 if copies else 0) and ("a copy of the weights would take" in lines[1]) == copies


@pytest.mark.portable
def test_the_programs_of_a_part_share_a_copy_of_its_weights(
    decoder: Regression, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[Any] = []
    monkeypatch.setattr(filling, "Snapshot", lambda part: (copied.append(part), Snapshot(part))[1])
    deciding = Filling()
    for _ in range(2):
        deciding.program(decoder, decoder.encode)
    assert copied == [decoder]


@pytest.mark.portable
def test_a_snapshot_runs_one_program_at_a_time(decoder: Regression) -> None:
    """Keras compiles a program in its first call, which must not happen twice at the same time."""
    running: list[int] = []

    def slow(images: Any) -> Any:
        running.append(1)
        time.sleep(0.1)
        assert len(running) == 1
        running.pop()
        return images

    program = Snapshot(decoder).program(slow)
    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(program, [np.zeros((1, 16, 16, 3), np.float32)] * 2))) == 2


@pytest.mark.portable
def test_a_cache_of_another_length_is_made_again(decoder: Regression, tmp_path: Path) -> None:
    cache = cached_latents(decoder, DATASET, "train", tmp_path)
    expected = cache.lookup(range(70))
    create_rows(cache.folder, 69, described(decoder.latent_space))
    np.testing.assert_array_equal(cached_latents(decoder, DATASET, "train", tmp_path).lookup(range(70)), expected)


@pytest.mark.portable
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_tokens_are_stored_as_they_are(dtype: str, tmp_path: Path) -> None:
    """Also those that neither float16 nor float32 can represent."""
    largest = 255 if dtype == "uint8" else 2**24 + 1
    tokens = plain(np.array([[0, 1], [largest, 3]], dtype))
    space = Space("tokens", (2,), vocabulary=2**25)
    create_rows(tmp_path, 2, described(space))
    stored = unpacked(StoredRows(tmp_path).read([0, 1], lambda rows: packed(tokens)))
    assert tokens.dtype == stored.dtype == np.int32
    np.testing.assert_array_equal(stored, [[0, 1], [largest, 3]])


@pytest.mark.portable
def test_numbers_that_are_not_finite_change_no_others(tmp_path: Path) -> None:
    """A row may also hold large numbers, or only zeros, or only small numbers."""
    rows = [[np.nan, 1.5, 2.0**22 - 1], [np.inf, 0.0, 2.0], [0, 0, 0], [1e-40, 0, 0], [2.0**-12, -(2.0**-14), 0]]
    latents = np.array(rows, np.float32)
    create_rows(tmp_path, 5, described(Space("continuous", (3,), bounded=False)))
    found = unpacked(StoredRows(tmp_path).read(range(5), lambda rows: packed(plain(latents))))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, latents, HALF, 1e-7)


@pytest.mark.portable
def test_large_numbers_have_the_same_relative_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, decoder = Regression.encode, make_decoder()
    monkeypatch.setattr(Regression, "encode", lambda self, images: 3e6 * encode(self, images))
    cache = cached_latents(decoder, DATASET, "train", tmp_path)
    wanted = 3e6 * np.stack([small(DATASET.image("train", row)) for row in range(70)])
    assert np.abs(wanted).max() > 65504
    np.testing.assert_allclose(cache.lookup(range(70)), wanted, 2 * HALF, 1)
