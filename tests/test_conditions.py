"""The cache of a frozen encoder's outputs: right, never stale, and safe against interruption."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from kgen import ConditionSpace, DataError, Encoder, RunError
from kgen.data.frozen.conditions import BATCH, ConditionCache, cached_conditions, is_cached
from kgen.data.frozen.filling import Filling, weights_fingerprint

pytestmark = pytest.mark.portable

CAPTIONS = [f"caption {i} of \U0001f49c" for i in range(2 * BATCH + 7)] * 2


class Frozen(Encoder):
    """A random vector for every byte."""

    def __init__(self, *, scale: float = 1.0, length: int = 24, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale
        self.length = length
        self.trainable = False
        self.batches: list[int] = []
        self.before_batch: Callable[[int], None] = lambda number: None

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(self.length, 6, 3)

    def build(self, input_shape: Any) -> None:
        values = np.random.default_rng(0).normal(size=(257, 6))
        self.table = self.add_weight(shape=(257, 6), initializer="zeros", name="table")
        self.table.assign(values)

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        ids = np.zeros((len(texts), self.length), np.int32)
        ids[:, 0] = 256
        for row, text in zip(ids, texts, strict=True):
            found = list(text.encode())[-self.length + 1 :]
            row[1 : 1 + len(found)] = found
        return {"ids": ids}

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        mask = ops.cast(ops.not_equal(tokens["ids"], 0), self.compute_dtype)
        x = self.scale * ops.cast(ops.take(self.table, tokens["ids"], axis=0), self.compute_dtype) * mask[..., None]
        return {"sequence": x, "mask": mask, "pooled": ops.sum(x, axis=1)[:, :3]}


class Counting(Frozen):
    """Counts what is encoded, and lets a test act between batches."""

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        if len(texts) == BATCH:
            self.before_batch(len(self.batches))
            self.batches.append(len(texts))
        return super().tokenize(texts)


def expected(encoder: Encoder, texts: Sequence[str]) -> dict[str, np.ndarray]:
    made = encoder(encoder.tokenize(texts))
    return {name: ops.convert_to_numpy(ops.cast(value, "float32")) for name, value in made.items()}


def folders(cache_dir: Path) -> list[str]:
    """All that lies there but the lock."""
    return sorted(path.name for path in cache_dir.iterdir() if path.name != ".lock")


def assert_holds(cache: ConditionCache, encoder: Encoder, texts: Sequence[str]) -> None:
    found, right = cache.lookup(texts), expected(encoder, texts)
    assert found.keys() == right.keys()
    for name, value in right.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], value, 2**-8, 1e-5, err_msg=name)  # bfloat16


@pytest.mark.backends
def test_holds_the_conditions_of_the_encoder(tmp_path: Path) -> None:
    encoder = Frozen()
    cache = cached_conditions(encoder, CAPTIONS, tmp_path / "new" / "cache")
    assert len(cache) == len(set(CAPTIONS)) + 1
    assert_holds(cache, encoder, CAPTIONS)
    assert_holds(cache, encoder, [CAPTIONS[60], "", CAPTIONS[3], ""])


@pytest.mark.backends
def test_reads_again_without_encoding(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    cached_conditions(first, CAPTIONS, tmp_path)
    before = folders(tmp_path)
    shuffled = list(reversed(CAPTIONS))[: len(CAPTIONS) // 2]
    cache = cached_conditions(second, shuffled, tmp_path)
    assert folders(tmp_path) == before
    whole = -(-len(cache) // BATCH)
    assert len(first.batches) == 2 * whole - 1  # tokens for the key (its last batch is short), then the conditions
    assert len(second.batches) == whole - 1  # tokens for the key alone
    assert_holds(cache, Frozen(), CAPTIONS)


def change_weights(encoder: Frozen) -> Frozen:
    encoder(encoder.tokenize([""]))
    table = ops.convert_to_numpy(encoder.table).copy()
    table[5, 5] += 1e-3  # one number that no caption uses
    encoder.table.assign(table)
    return encoder


@pytest.mark.parametrize(
    ("encoder", "captions"),
    [
        (lambda: Counting(), CAPTIONS),
        (lambda: Frozen(scale=2.0), CAPTIONS),
        (lambda: change_weights(Frozen()), CAPTIONS),
        (lambda: Frozen(), [*CAPTIONS, "one more"]),
        (lambda: Frozen(dtype="mixed_bfloat16"), CAPTIONS),
    ],
    ids=["class", "configuration", "weights", "captions", "precision"],
)
def test_different_inputs_have_separate_caches(
    encoder: Callable[[], Frozen], captions: Sequence[str], tmp_path: Path
) -> None:
    cached_conditions(Frozen(), CAPTIONS, tmp_path)
    other = encoder()
    assert_holds(cached_conditions(other, captions, tmp_path), other, captions)
    assert len(folders(tmp_path)) == 2


def test_changed_tokens_have_a_separate_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_conditions(Frozen(), CAPTIONS, tmp_path)
    tokenize = Frozen.tokenize
    monkeypatch.setattr(Frozen, "tokenize", lambda self, texts: tokenize(self, [t.upper() for t in texts]))
    encoder = Frozen()
    assert_holds(cached_conditions(encoder, CAPTIONS, tmp_path), encoder, CAPTIONS)
    assert len(folders(tmp_path)) == 2


def test_the_name_follows_all_captions_and_the_tokens_of_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start with millions of captions does not tokenize all of them."""
    monkeypatch.setattr("kgen.data.frozen.conditions.SAMPLE", 20)
    encoder, tokenized, tokenize = Frozen(), list[str](), Frozen.tokenize
    monkeypatch.setattr(
        Frozen, "tokenize", lambda self, texts: (tokenized.extend(filter(None, texts)), tokenize(self, texts))[1]
    )
    captions = [f"caption {i:02}" for i in range(90)]
    names = set()
    for number in range(5):
        changed = [f"{text}!" if place == 20 + number else text for place, text in enumerate(captions)]
        names.add(cached_conditions(encoder, changed, tmp_path, Filling()).folder.name)
    assert len(names) == 5
    assert len(tokenized) == 5 * 18 and len(set(tokenized)) < 30  # every fifth of 91 keys, but the null input


class Vocabulary(Frozen):
    """Has a vocabulary, which is an asset."""

    words: Sequence[str] = ("heart",)

    def save_assets(self, path: str | Path) -> None:
        (Path(path) / "vocabulary.json").write_text(json.dumps(list(self.words)))


def test_the_name_follows_the_assets(tmp_path: Path) -> None:
    """Another vocabulary can change the tokens of a caption that is not in the sample."""
    encoder = Vocabulary()
    first, same = (cached_conditions(encoder, CAPTIONS, tmp_path, Filling()).folder for _ in range(2))
    encoder.words = ("heart", "star")
    other = cached_conditions(encoder, CAPTIONS, tmp_path, Filling()).folder
    assert first == same != other


def test_changed_code_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_conditions(Frozen(), CAPTIONS, tmp_path)
    call = Frozen.call
    monkeypatch.setattr(
        Frozen,
        "call",
        lambda self, tokens, training=False: {k: v + (k == "pooled") for k, v in call(self, tokens).items()},
    )
    encoder = Frozen()
    assert_holds(cached_conditions(encoder, CAPTIONS, tmp_path), encoder, CAPTIONS)
    assert len(folders(tmp_path)) == 1


@pytest.mark.parametrize("name", ["rows.bin", "marks.bin", "captions.json", "index.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_damage_is_repaired(name: str, damage: str, tmp_path: Path) -> None:
    encoder = Frozen()
    file = cached_conditions(encoder, CAPTIONS, tmp_path).folder / name
    whole = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    assert_holds(cached_conditions(encoder, CAPTIONS, tmp_path), encoder, CAPTIONS)


def test_interrupted_filling_is_continued(tmp_path: Path) -> None:
    def stop(number: int) -> None:
        if number == 4:
            raise KeyboardInterrupt

    first, second = Counting(), Counting()
    first.before_batch = stop
    with pytest.raises(KeyboardInterrupt):
        cached_conditions(first, CAPTIONS, tmp_path)
    before = folders(tmp_path)
    cache = cached_conditions(second, CAPTIONS, tmp_path)
    assert folders(tmp_path) == before
    whole = -(-len(cache) // BATCH)
    assert len(first.batches) == 4 and len(second.batches) == 2 * whole - 1 - 2, "two batches were there"
    assert_holds(cache, Frozen(), CAPTIONS)


def test_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".conditions-abc.0123abcd.kgen" / "new").mkdir(parents=True)
    cache = cached_conditions(Frozen(), CAPTIONS, tmp_path)
    assert folders(tmp_path) == [cache.folder.name]


def test_two_writers_at_once(tmp_path: Path) -> None:
    slow, fast = Counting(), Counting()

    def overtake(number: int) -> None:
        if number == 4:
            cached_conditions(fast, CAPTIONS, tmp_path)

    slow.before_batch = overtake
    cache = cached_conditions(slow, CAPTIONS, tmp_path)
    assert len(folders(tmp_path)) == 1
    assert_holds(cache, Frozen(), CAPTIONS)


def test_pickles_and_reads_from_threads(tmp_path: Path) -> None:
    cache = pickle.loads(pickle.dumps(cached_conditions(Frozen(), CAPTIONS, tmp_path)))
    right = expected(Frozen(), CAPTIONS)["pooled"]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda caption: cache.lookup([caption])["pooled"][0], CAPTIONS))
    np.testing.assert_allclose(np.stack(found), right, 2**-8, 1e-5)  # bfloat16


class Classes(Frozen):
    """It knows no class without a name, but the null input."""

    null = None

    def tokenize(self, texts: Sequence[str | None]) -> dict[str, np.ndarray]:
        assert "" not in texts
        return super().tokenize([text or "" for text in texts])


def test_an_empty_input_is_the_null_input(tmp_path: Path) -> None:
    encoder = Classes()
    cache = cached_conditions(encoder, ["heart", ""], tmp_path, Filling())
    assert len(cache) == 2
    pooled = cache.lookup(["", "heart"])["pooled"]
    np.testing.assert_array_equal(cache.lookup([None])["pooled"], pooled[:1])
    np.testing.assert_allclose(pooled, expected(encoder, [None, "heart"])["pooled"], 2**-8, 1e-5)  # type: ignore[list-item]


class Weightless(Frozen):
    def build(self, input_shape: Any) -> None:
        self.table = np.ones((257, 6), np.float32)


def test_an_encoder_without_weights_needs_no_cache() -> None:
    for encoder, cached in ((Frozen(), True), (Weightless(), False)):
        encoder(encoder.tokenize([""]))
        assert is_cached(encoder, ()) == cached


def test_refuses_a_caption_that_was_not_encoded(tmp_path: Path) -> None:
    cache = cached_conditions(Frozen(), ["red heart"], tmp_path)
    with pytest.raises(DataError, match="'blue heart' is not among the 2"):
        cache.lookup(["red heart", "blue heart"])


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="KGEN_CACHE"):
        cached_conditions(Frozen(), CAPTIONS, tmp_path / "file")


def test_a_list_of_other_inputs_is_damage(tmp_path: Path) -> None:
    file = cached_conditions(Frozen(), CAPTIONS, tmp_path).folder / "captions.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8"))[:-1]), encoding="utf-8")
    assert_holds(cached_conditions(Frozen(), CAPTIONS, tmp_path), Frozen(), CAPTIONS)


def test_fingerprint_sees_shapes_and_types() -> None:
    made = set()
    for shape, dtype in (((2, 3), "float32"), ((3, 2), "float32"), ((2, 3), "int32")):
        layer = keras.layers.Layer()
        layer.add_weight(shape=shape, dtype=dtype, initializer="zeros", trainable=False)
        made.add(weights_fingerprint(layer))
    assert len(made) == 3


@pytest.mark.backends
def test_fingerprint_sees_every_weight_and_its_place() -> None:
    encoder = Frozen()
    encoder(encoder.tokenize([""]))
    first = weights_fingerprint(encoder)
    assert weights_fingerprint(change_weights(Frozen())) != first
    table = ops.convert_to_numpy(encoder.table).copy()
    encoder.table.assign(np.roll(table, 1, axis=0))
    assert weights_fingerprint(encoder) != first
    encoder.table.assign(table)
    assert weights_fingerprint(encoder) == first
