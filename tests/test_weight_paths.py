"""Weights have readable paths, by which a part of a model is loaded into another, or frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from parts import Codec, Painter, Patterns, Words

import kgen
from kgen.parts.initial import short_patterns
from kgen.parts.patterns import matches
from kgen.parts.saving import load_decoder, save_decoder
from kgen.plugins.migrations import positions_became_paths
from kgen.storage.paths import weight_paths
from kgen.storage.weights import read_arrays, save_variables
from kgen.training.optimizers.averaging import averaging
from kgen.training.optimizers.of_keras import AdamW

OLD = Path(__file__).parent / "fixtures" / "contract-0" / "run"


class Inner(layers.Layer):
    """Layers in a list of pairs and in a dict, a weight in a list, one without an attribute, and random numbers."""

    def __init__(self, shared: layers.Layer) -> None:
        super().__init__()
        self._hidden = [(layers.Dense(2), layers.LayerNormalization()), (layers.Dense(2), None)]
        self.heads = {"left": layers.Dense(1, use_bias=False)}
        self.again = shared
        self.drop = layers.Dropout(0.5, seed=1)

    def build(self, shape: Any) -> None:
        for dense, norm in self._hidden:
            dense.build((None, 2))
            if norm is not None:
                norm.build((None, 2))
        self.heads["left"].build((None, 2))
        self.tables = [self.add_weight(shape=(3,), name="same") for _ in range(2)]
        self.add_weight(shape=(4,), name="loose")
        self.add_weight(shape=(4,), name="loose", trainable=False)


class Outer(layers.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.zebra = layers.Dense(2)
        self.block = Inner(self.zebra)
        self.stack = keras.Sequential([layers.Dense(3), layers.Dense(2), layers.Dense(1, name="out")])
        self.attention = layers.MultiHeadAttention(2, 4)

    def build(self, shape: Any) -> None:
        self.zebra.build((None, 2))
        self.block.build(shape)
        self.stack.build((None, 2))
        self.attention.build((None, 3, 4), (None, 3, 4))


PATHS = {
    "zebra/kernel": (2, 2),
    "zebra/bias": (2,),
    "block/hidden/0/0/kernel": (2, 2),
    "block/hidden/0/0/bias": (2,),
    "block/hidden/0/1/gamma": (2,),
    "block/hidden/0/1/beta": (2,),
    "block/hidden/1/0/kernel": (2, 2),
    "block/hidden/1/0/bias": (2,),
    "block/heads/left/kernel": (2, 1),
    "block/tables/0": (3,),
    "block/tables/1": (3,),
    "block/loose": (4,),
    "block/loose_1": (4,),
    "block/drop/seed_generator/random_state": (2,),
    "stack/dense/kernel": (2, 3),
    "stack/dense/bias": (3,),
    "stack/dense_1/kernel": (3, 2),
    "stack/dense_1/bias": (2,),
    "stack/out/kernel": (2, 1),
    "stack/out/bias": (1,),
    **{f"attention/{name}_dense/kernel": (4, 2, 4) for name in ("query", "key", "value")},
    **{f"attention/{name}_dense/bias": (2, 4) for name in ("query", "key", "value")},
    "attention/output_dense/kernel": (2, 4, 4),
    "attention/output_dense/bias": (4,),
    "attention/dropout_layer/seed_generator/random_state": (2,),
}


@pytest.mark.backends
def test_paths_depend_only_on_the_attributes() -> None:
    for layer in (Outer(), Outer()):  # Keras numbers the layers of the second one on
        layer.build((None, 2))
        found = kgen.weight_paths(layer)
        shapes = {path: tuple(variable.shape) for path, variable in found.items()}
        if "attention/dropout_layer/seed_generator/random_state" not in shapes:  # Keras makes it where there is dropout
            shapes["attention/dropout_layer/seed_generator/random_state"] = (2,)
        assert shapes == PATHS
        assert {id(v) for v in found.values()} == {id(v) for v in layer.variables}
        assert kgen.weight_paths(layer, layer.weights).keys() == {p for p in found if not p.endswith("random_state")}


def test_a_weight_of_another_layer_has_no_path() -> None:
    one, other = Outer(), layers.Dense(2)
    one.build((None, 2))
    other.build((None, 2))
    with pytest.raises(ValueError, match=r"holds no layer with the weights .*dense.*/kernel"):
        kgen.weight_paths(one, other.weights)


def test_a_command_lists_paths(saved: Path, tmp_path: Path, kgen: Any) -> None:
    outcome = kgen("weights", saved)
    assert outcome.status == 0 and f"{'encoder/table':28}  (5, 8)\n" in outcome.out, outcome
    assert outcome.out.endswith("\n5 weights, 3,448 parameters\n")
    assert kgen("weights", saved / "weights.safetensors", "generator/*/bias").out.splitlines() == [
        "generator/net/dense/bias    (16,)",
        "generator/net/dense_1/bias  (192,)",
        "2 weights, 208 parameters",
    ]
    kgen("weights", tmp_path).refuses("contains no trained weights; give a finished run")
    kgen("weights", saved, "generator/nett").refuses(
        "'generator/nett' matches no weight; did you mean 'generator/net/*'"
    )
    kgen("weights", OLD).refuses("contains no weights of encoder/* or generator/* or decoder/*: if an older kgen")
    layer = Outer()
    layer.build((None, 2))
    variables = {f"encoder/{path}": variable for path, variable in weight_paths(layer).items()}
    save_variables(tmp_path / "weights.safetensors", variables, {})
    listed = kgen("weights", tmp_path).out
    assert "random_state" not in listed and listed.endswith("\n27 weights, 214 parameters\n")


# ---- taking weights from elsewhere -------------------------------------------------------------------------------


def assemble(dim: int = 8, width: int = 16, count: int = 4, seed: int = 0, **options: Any) -> kgen.Pipeline:
    keras.utils.set_random_seed(seed)
    dataset, encoder = Patterns(count=count), Words(dim=dim)
    encoder.adapt(dataset.captions("train"))
    generator = Painter(dataset.image_space, encoder.condition_space, width=width)
    return kgen.assemble(encoder=encoder, generator=generator, dataset=dataset, **options)


def values(pipeline: kgen.Pipeline) -> dict[str, np.ndarray]:
    return {path: np.array(v.numpy()) for path, v in kgen.weight_paths(pipeline, pipeline.weights).items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> set[str]:
    return {path for path, array in one.items() if path in other and np.array_equal(array, other[path])}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    kgen.save(assemble(seed=1), folder)
    return folder


GENERATOR = {f"generator/net/{name}" for name in ("dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias")}


def test_a_file_holds_paths(saved: Path) -> None:
    assert read_arrays(saved / "weights.safetensors")[0].keys() == {"encoder/table", *GENERATOR}


@pytest.mark.backends
def test_weights_of_pipelines_and_of_parts_are_loaded(saved: Path) -> None:
    there = values(kgen.load(saved, custom=(Words, Painter)))
    pipeline = assemble(seed=2)
    before = values(pipeline)
    result = kgen.init_weights(pipeline, saved, include=["generator/net"], exclude=["*/bias"])
    assert set(result.taken) == {path for path in GENERATOR if path.endswith("kernel")}
    assert set(result.fresh) == {"encoder/table", *(path for path in GENERATOR if path.endswith("bias"))}
    assert set(result.unused) == set(result.fresh)
    now = values(pipeline)
    assert {path for path in now if path not in same(now, before)} == set(result.taken) <= same(now, there)
    assert set(kgen.init_weights(pipeline, saved / "weights.safetensors").taken) == there.keys()
    assert same(values(pipeline), there) == there.keys()


def test_weights_that_do_not_fit_are_named_and_none_is_assigned(saved: Path) -> None:
    pipeline = assemble(dim=6, seed=2)
    before = values(pipeline)
    with pytest.raises(kgen.RunError) as caught:
        kgen.init_weights(pipeline, saved)
    message = str(caught.value)
    assert "encoder/table: (5, 8) in the source, (5, 6) in the model" in message
    assert "generator/net/dense/kernel: (8, 16) in the source, (6, 16) in the model" in message
    assert message.endswith("exclude [encoder/table, generator/*/dense/kernel]")
    assert same(values(pipeline), before) == before.keys()
    result = kgen.init_weights(pipeline, saved, exclude=["encoder/table", "generator/*/dense/kernel"])
    assert set(result.fresh) == {"encoder/table", "generator/net/dense/kernel"}


def test_the_suggested_patterns_match_no_other_weights() -> None:
    bad = ["g/down/0/cross/kv/kernel", "g/up/3/cross/kv/kernel", "g/text/kernel", "g/alone"]
    good = ["g/down/0/self/qkv/kernel", "g/up/3/cross/kv/bias", "g/other/text/bias"]
    found = short_patterns(bad, good)
    assert found == ["g/*/kv/kernel", "g/text/kernel", "g/alone"]
    assert all(matches(path, found) for path in bad) and not any(matches(path, found) for path in good)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        (
            {},
            {"include": ["generator/nett/*"]},
            r"include: 'generator/nett/\*' matches no weight; did you mean 'generator",
        ),
        (
            {},
            {"exclude": ["quite/other"]},
            "exclude: 'quite/other' matches no weight; the weights are encoder/assets, encoder/table, generator/net/",
        ),
        ({}, {"include": "generator/*"}, "include must be a list of patterns"),
        ({"count": 6}, {}, r"has other assets \(words.txt\).*exclude encoder/\*"),
        ({"count": 6}, {"exclude": ["encoder/assets"]}, r"table: \(5, 8\) in the source, \(7, 8\) in the model"),
    ],
)
def test_sources_without_usable_weights_are_refused(
    saved: Path, changes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(kgen.KgenError, match=message):
        kgen.init_weights(assemble(**changes), saved, **options)


def test_there_must_be_weights(saved: Path, tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "nowhere", "there is no such file"),
        (tmp_path, "it contains no trained weights"),
    ):
        with pytest.raises(kgen.RunError, match=message):
            kgen.init_weights(assemble(), path)
    (tmp_path / "lone.safetensors").write_bytes((saved / "weights.safetensors").read_bytes())
    with pytest.raises(kgen.RunError, match=r"does not contain the assets of its encoder \(words.txt\)"):
        kgen.init_weights(assemble(), tmp_path / "lone.safetensors")
    pipeline = assemble(seed=3)
    kgen.init_weights(pipeline, tmp_path / "lone.safetensors", include=["generator/*"])
    assert same(values(pipeline), values(kgen.load(saved, custom=(Words, Painter)))) == GENERATOR


def test_a_decoder_alone(tmp_path: Path) -> None:
    space = kgen.Space("continuous", (8, 8, 3))
    decoders = [Codec(space), Codec(space)]
    for decoder in decoders:
        decoder.build(None)
    save_decoder(decoders[0], tmp_path / "decoder")
    assert read_arrays(tmp_path / "decoder" / "weights.safetensors")[0].keys() == {
        *(f"decoder/{way}/{name}" for way in ("up", "down") for name in ("kernel", "bias")),
        "decoder/deviation",
    }
    fresh = Codec(space)
    load_decoder(tmp_path / "decoder", fresh)
    np.testing.assert_array_equal(fresh.down.kernel.numpy(), decoders[0].down.kernel.numpy())


# ---- frozen weights ----------------------------------------------------------------------------------------------


def train(pipeline: kgen.Pipeline, steps: int = 3) -> None:
    dataset = Patterns(count=4)
    images = np.stack([dataset.image("train", i) for i in range(3)])
    pipeline.fit(images, dataset.captions("train")[:3], batch_size=1, epochs=steps, verbose=0)


@pytest.mark.backends
@pytest.mark.parametrize(
    ("frozen", "trainable", "moved"),
    [
        (["encoder/*"], ["*"], GENERATOR),
        (
            ["generator/net/dense"],
            ["*"],
            {"encoder/table", "generator/net/dense_1/kernel", "generator/net/dense_1/bias"},
        ),
        (["*/bias"], ["generator/*"], {"generator/net/dense/kernel", "generator/net/dense_1/kernel"}),
    ],
)
def test_frozen_weights_stay_bit_for_bit(frozen: list[str], trainable: list[str], moved: set[str]) -> None:
    pipeline = assemble()
    named = kgen.freeze(pipeline, frozen, trainable=trainable)
    before = values(pipeline)
    assert named == sorted(before.keys() - moved)
    pipeline.compile(averaging(AdamW)(0.1, weight_decay=0.5, clip_norm=0.5, average=0.9))
    train(pipeline)
    now = values(pipeline)
    assert now.keys() - same(now, before) == moved
    assert pipeline.encoder.trainable == (frozen != ["encoder/*"] and trainable == ["*"])


def test_a_frozen_layer_updates_no_statistics() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([layers.Dense(2), layers.BatchNormalization(), layers.Dense(1)])
    model.build((None, 3))
    kgen.freeze(model, ["batch_normalization"])
    model(np.ones((2, 3), np.float32), training=True)
    np.testing.assert_array_equal(model.layers[1].moving_mean.numpy(), 0.0)
    assert len(model.trainable_variables) == 4


def test_patterns_that_cannot_be_frozen_are_refused() -> None:
    pipeline = assemble()
    with pytest.raises(kgen.ConfigError, match=r"frozen: 'decoder/\*' matches no weight"):
        kgen.freeze(pipeline, ["decoder/*"])
    with pytest.raises(kgen.ConfigError, match="no weight is left to train"):
        kgen.freeze(pipeline, ["*"])
    pipeline.compile("sgd")
    with pytest.raises(kgen.ConfigError, match="before compile"):
        kgen.freeze(pipeline, ["encoder/*"])


@pytest.mark.backends
def test_the_empty_text_of_a_frozen_encoder_is_that_of_its_loaded_weights(saved: Path) -> None:
    """Training drops conditions; a frozen encoder encodes the empty text once, with the weights that it has then."""
    pipeline = assemble(seed=4, condition_dropout=0.9)
    kgen.freeze(pipeline, ["encoder/*"])
    kgen.init_weights(pipeline, saved)
    pipeline.compile("sgd")
    train(pipeline, steps=1)
    null = pipeline.null_condition()["pooled"]
    np.testing.assert_allclose(null[0], pipeline.encoder.table.numpy()[0], rtol=1e-6)
    assert isinstance(null, np.ndarray)


def test_numbers_are_paths_only_in_a_model_with_as_many_weights() -> None:
    arrays = {f"part.000{i}.kernel": np.full(2, i) for i in range(2)}
    first, second, third = object(), object(), object()
    paths = {"part/a": second, "part/b": first, "part/c": third}
    found = positions_became_paths(arrays, {"part": [first, second]}, paths)
    assert {path: int(array[0]) for path, array in found.items()} == {"part/b": 0, "part/a": 1}
    for others in ([first], [first, second, third], []):
        assert positions_became_paths(arrays, {"part": others}, paths).keys() == arrays.keys()
