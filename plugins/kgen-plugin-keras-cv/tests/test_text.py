"""The text encoders of keras-cv encode as those of the package transformers, with the same tokens."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from keras import ops
from kgen_plugin_keras_cv import vocabulary as vocabularies
from kgen_plugin_keras_cv.library import new_model
from kgen_plugin_keras_cv.text import LENGTH, ClipText
from safetensors.numpy import load_file, save_file

import kgen
from kgen import ConfigError, PluginError
from kgen.testing import EncoderConformance

pytestmark = pytest.mark.portable

TEXTS = ["red heart", "", "a big blue circle", "word " * 100]


@pytest.fixture(scope="session")
def folders(published: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A text encoder of each version, in a folder of its pipeline."""
    root = tmp_path_factory.mktemp("pipelines")
    return {v: published.save(published.text_encoder(v), root / str(v) / "text_encoder").parent for v in (1, 2)}


def opened(vocabulary: Path | None, **options: Any) -> ClipText:
    encoder = ClipText(vocabulary=None if vocabulary is None else str(vocabulary), **options)
    encoder.adapt([])
    return encoder


def encoded(encoder: ClipText, texts: list[str] = TEXTS) -> dict[str, np.ndarray]:
    tokens = {name: ops.convert_to_tensor(array) for name, array in encoder.tokenize(texts).items()}
    return {name: ops.convert_to_numpy(value) for name, value in encoder(tokens).items()}


def compare(encoder: ClipText, model: Any, tolerance: float) -> None:
    import torch

    ids = encoder.tokenize(TEXTS)["ids"]
    with torch.no_grad():
        expected = model(torch.from_numpy(ids.astype("int64"))).last_hidden_state.numpy()
    found = encoded(encoder)
    error, size = np.abs(found["sequence"] - expected).max(), np.abs(expected).max()
    assert error <= tolerance * size, f"off by {error:.2g}, of numbers up to {size:.2g}"
    assert found["mask"].all()
    ends = [list(row).index(49407) for row in ids]
    np.testing.assert_array_equal(found["pooled"], found["sequence"][range(len(TEXTS)), ends])


@pytest.mark.backends
def test_version_1(published: ModuleType, folders: dict[int, Path], vocabulary: Path) -> None:
    compare(opened(vocabulary, pretrained=str(folders[1])), published.text_encoder(1), tolerance=1e-4)


def test_version_2(published: ModuleType, folders: dict[int, Path], vocabulary: Path) -> None:
    """keras-cv approximates the GELU of version 2 by a tanh."""
    encoder = opened(vocabulary, version=2, pretrained=str(folders[2]))
    compare(encoder, published.text_encoder(2), tolerance=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(("version", "tolerance", "size"), [(1, 1e-4, 123_060_480), (2, 1e-2, 340_387_840)])
def test_the_full_size(
    version: int, tolerance: float, size: int, published: ModuleType, vocabulary: Path, tmp_path: Path
) -> None:
    """All weights are random: the published ones could not be downloaded here."""
    small = published.TEXT[version]
    wide = {key: small[key] * 8 for key in ("hidden_size", "intermediate_size")}
    model = published.text_encoder(version, **wide)
    encoder = opened(vocabulary, version=version, pretrained=str(published.save(model, tmp_path / "text_encoder")))
    assert sum(int(np.prod(weight.shape)) for weight in encoder.weights) == size
    compare(encoder, model, tolerance)


def test_tokens_are_those_of_keras_cv(vocabulary: Path) -> None:
    from keras_cv.src.models.stable_diffusion.stable_diffusion import SimpleTokenizer

    tokenizer, encoder = SimpleTokenizer(str(vocabulary)), opened(vocabulary)
    for text in ("red heart", "a RED  Heart, &amp; 3 blue ones!", "grüne Äpfel 🍏", ""):
        expected = tokenizer.encode(text)
        found = encoder.tokenize([text])
        assert list(found["ids"][0]) == expected + [49407] * (LENGTH - len(expected))
        assert found["end"][0] == len(expected) - 1
        assert encoder.unread(text) == ""
    long = "heart " * 76
    ids = encoder.tokenize([long])["ids"][0]
    assert list(ids) == [*tokenizer.encode(long)[:76], 49407]
    assert encoder.unread(long) == "only the first 77 of its 78 tokens are read"
    assert encoder.unread("heart " * 75) == "" and list(ids) == tokenizer.encode("heart " * 75)
    zero = opened(vocabulary, padding="zero").tokenize(["red heart"])["ids"][0]
    assert list(zero) == [*tokenizer.encode("red heart"), *[0] * 73]


# ---- files --------------------------------------------------------------------------------------------------------


def test_a_file_of_keras_3(folders: dict[int, Path], vocabulary: Path, tmp_path: Path) -> None:
    """The tests of the autoencoder read files of Keras 2."""
    encoder = opened(vocabulary, pretrained=str(folders[1]))
    model, file = new_model("TextEncoder", "float32", LENGTH), tmp_path / "encoder.weights.h5"
    for mine, its in zip(model.weights, encoder.weights, strict=True):
        mine.assign(its)
    model.save_weights(file)
    again = opened(vocabulary, pretrained=str(file))
    np.testing.assert_array_equal(encoded(again)["sequence"], encoded(encoder)["sequence"])


def test_names_without_the_first_part(folders: dict[int, Path], vocabulary: Path, tmp_path: Path) -> None:
    folder, own = tmp_path / "text_encoder", folders[1] / "text_encoder"
    folder.mkdir()
    (folder / "config.json").write_bytes((own / "config.json").read_bytes())
    arrays = load_file(own / "model.safetensors")
    arrays = {name.removeprefix("text_model."): array for name, array in arrays.items()}
    arrays["embeddings.position_ids"] = np.arange(LENGTH)[None]
    save_file(arrays, folder / "model.fp16.safetensors")
    encoder, other = (
        opened(vocabulary, pretrained=str(folder), variant="fp16"),
        opened(vocabulary, pretrained=str(folders[1])),
    )
    np.testing.assert_array_equal(encoded(encoder)["sequence"], encoded(other)["sequence"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, r"config\.json: 'hidden_act' must be 'quick_gelu', not 'gelu'"),
        ({"num_attention_heads": 6}, r"config\.json: 'num_attention_heads' must be 12, not 6"),
        ({"layer_norm_eps": 1e-6}, r"config\.json: 'layer_norm_eps' must be 1e-05, not 1e-06"),
        ({"model_type": "clip"}, r"config\.json: 'model_type' must be 'clip_text_model', not 'clip'"),
        ({"adapter": 1}, r"config\.json: 'adapter': unknown"),
    ],
)
def test_other_models_are_refused(
    changes: dict[str, Any],
    message: str,
    published: ModuleType,
    folders: dict[int, Path],
    vocabulary: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_bytes((folders[1] / "text_encoder" / "config.json").read_bytes())
    published.change_config(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message):
        opened(vocabulary, pretrained=str(tmp_path))


def test_another_version_is_refused(folders: dict[int, Path], vocabulary: Path) -> None:
    with pytest.raises(ConfigError, match=r"'hidden_act' must be 'gelu', not 'quick_gelu'"):
        opened(vocabulary, version=2, pretrained=str(folders[1]))
    with pytest.raises(ConfigError, match=r"no/folder: there is no such folder; give a folder of diffusers or transf"):
        opened(vocabulary, pretrained="no/folder")
    with pytest.raises(ValueError, match="variant is an option for the weights in a folder"):
        ClipText(variant="fp16")


# ---- the vocabulary -----------------------------------------------------------------------------------------------


def test_the_vocabulary_of_an_installed_package(
    vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is found, and not imported."""
    monkeypatch.setattr(vocabularies, "PACKAGE", "an_open_clip")
    with pytest.raises(PluginError, match=r"set the option 'vocabulary' to the file bpe_.*pip install 'kgen-plu"):
        opened(None)
    package = tmp_path / "an_open_clip"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('it imports PyTorch')")
    (package / vocabulary.name).write_bytes(vocabulary.read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    encoder = opened(None)
    assert "an_open_clip" not in sys.modules
    np.testing.assert_array_equal(encoder.tokenize(TEXTS)["ids"], opened(vocabulary).tokenize(TEXTS)["ids"])


@pytest.mark.parametrize("name", ["merges.txt", "tokenizer.json"])
def test_the_vocabulary_of_a_folder(name: str, vocabulary: Path, tmp_path: Path) -> None:
    merges = vocabularies.read_vocabulary(str(vocabulary), None)
    (tmp_path / "tokenizer").mkdir()
    pairs = [line.split() for line in merges.split("\n")[1:]]
    text = merges + "\n" if name == "merges.txt" else json.dumps({"model": {"merges": pairs}})
    (tmp_path / "tokenizer" / name).write_text(text)
    assert vocabularies.read_vocabulary(None, tmp_path / "text_encoder") == merges


def test_vocabularies_that_cannot_be_read(vocabulary: Path, tmp_path: Path) -> None:
    file = tmp_path / "merges.txt"
    with pytest.raises(ConfigError, match=r"merges\.txt': there is no such file"):
        vocabularies.read_vocabulary(str(file), None)
    file.write_text("#version: 0.2\nt h\n")
    with pytest.raises(ConfigError, match=r"merges\.txt' is not CLIP's, which has 48,894 merges of two pieces"):
        vocabularies.read_vocabulary(str(file), None)
    damaged = tmp_path / "vocabulary.gz"
    damaged.write_bytes(vocabulary.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"vocabulary\.gz' cannot be read"):
        vocabularies.read_vocabulary(str(damaged), None)


def test_without_keras_cv(vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras_cv.src.models.stable_diffusion", None)
    with pytest.raises(PluginError, match=r"keras-cv cannot be imported: .* also needs TensorFlow, .* on every"):
        opened(vocabulary)


# ---- the contract -------------------------------------------------------------------------------------------------


class Known:
    vocabulary = ""


@pytest.fixture(scope="module", autouse=True)
def known(vocabulary: Path) -> Iterator[None]:
    Known.vocabulary = str(vocabulary)
    yield


class TestConformance(EncoderConformance):
    pads: ClassVar = False  # Stable Diffusion attends to the padding, too

    def build(self) -> ClipText:
        return ClipText(vocabulary=Known.vocabulary)


def test_a_saved_pipeline_holds_the_model(vocabulary: Path, folders: dict[int, Path], tmp_path: Path) -> None:
    """It needs neither the folder nor the vocabulary, and training leaves the encoder as it is."""
    encoder = {"name": "keras-cv/clip-text", "pretrained": str(folders[1]), "vocabulary": str(vocabulary)}
    generator = {"name": "diffusion/diffusion", "network": {"kind": "dit", "width": 8, "depth": 1, "heads": 1}}
    pipeline = kgen.assemble(encoder=encoder, generator=generator, image_space=(8, 8, 3))
    assert pipeline.encoder.weights and not pipeline.encoder.trainable_weights
    expected = encoded(pipeline.encoder)
    kgen.save(pipeline, tmp_path / "saved")
    text = (tmp_path / "saved" / "pipeline.yaml").read_text()
    assert str(folders[1]) in text and str(vocabulary) in text
    text = text.replace(str(folders[1]), "no/folder").replace(str(vocabulary), "no/file")
    (tmp_path / "saved" / "pipeline.yaml").write_text(text)
    found = encoded(kgen.load(tmp_path / "saved").encoder)
    np.testing.assert_array_equal(found["sequence"], expected["sequence"])
