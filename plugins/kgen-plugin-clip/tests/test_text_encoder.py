"""The text towers of published pipelines have the same outputs as in transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_clip.text_encoder import ClipText
from safetensors.numpy import load_file, save_file

import kgen
from kgen.testing import EncoderConformance

pytestmark = pytest.mark.portable


def save(published: ModuleType, folder: Path, projection: bool = False, padding: str | None = None) -> Any:
    """Saves a text tower and its tokenizer like a pipeline, and returns the tower."""
    model = published.random_text_model(projection)
    model.save_pretrained(folder / "text_encoder")
    tokenizer = published.tokenizer()
    if padding is not None:
        tokenizer.pad_token = padding
    tokenizer.save_pretrained(folder / "tokenizer")
    return model


@pytest.fixture(scope="module")
def pipeline(published: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("pipeline")
    save(published, folder)
    return folder


def opened(folder: Path, **options: Any) -> ClipText:
    encoder = kgen.make_encoder({"name": "clip/text", "pretrained": str(folder), **options}, None)
    assert isinstance(encoder, ClipText)
    return encoder


def condition(encoder: ClipText, texts: list[str]) -> dict[str, np.ndarray]:
    tokens = {name: ops.convert_to_tensor(array) for name, array in encoder.tokenize(texts).items()}
    return {name: ops.convert_to_numpy(value) for name, value in encoder(tokens).items()}


@pytest.mark.parametrize(
    ("projection", "padding", "options"),
    [
        (False, None, {}),  # Stable Diffusion 1
        (False, "!", {}),  # Stable Diffusion 2, whose folder lacks the last block
        (False, None, {"skip": 1}),
        (True, "!", {"skip": 1, "norm": False}),  # the second tower of SDXL
    ],
)
def test_all_positions_are_those_of_transformers(
    projection: bool, padding: str | None, options: dict[str, Any], published: ModuleType, tmp_path: Path
) -> None:
    import torch

    model, encoder = save(published, tmp_path, projection, padding), opened(tmp_path, **options)
    tokenizer = published.transformers.CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    ids = tokenizer(
        published.TEXTS, padding="max_length", max_length=11, truncation=True, return_tensors="pt"
    ).input_ids
    np.testing.assert_array_equal(encoder.tokenize(published.TEXTS)["ids"], ids.numpy())
    with torch.no_grad():
        made = model(ids, output_hidden_states=True)
        state = made.hidden_states[-1 - options.get("skip", 0)]
        norm = getattr(model, "text_model", model).final_layer_norm
        expected = norm(state) if options.get("norm", True) else state
        pooled = made.text_embeds if projection else made.pooler_output
    found = condition(encoder, published.TEXTS)
    np.testing.assert_allclose(found["sequence"], expected.numpy(), atol=3e-5)
    np.testing.assert_allclose(found["pooled"], pooled.numpy(), atol=3e-5)
    np.testing.assert_array_equal(found["mask"], np.ones((len(ids), 11)))
    assert encoder.condition_space == kgen.ConditionSpace(11, 16, 10 if projection else 16)


def test_names_with_and_without_their_first_part(pipeline: Path, tmp_path: Path) -> None:
    """Versions of transformers differ in the names of the tensors."""
    arrays = load_file(pipeline / "text_encoder" / "model.safetensors")
    bare = {name.removeprefix("text_model."): array for name, array in arrays.items()}
    expected = condition(opened(pipeline), ["a red heart"])["sequence"]
    for prefix in ("", "text_model."):
        folder = tmp_path / f"x{prefix}"
        (folder / "text_encoder").mkdir(parents=True)
        (folder / "tokenizer").symlink_to(pipeline / "tokenizer")
        (folder / "text_encoder" / "config.json").write_bytes((pipeline / "text_encoder" / "config.json").read_bytes())
        named = {prefix + name: array for name, array in bare.items()}
        named["text_model.embeddings.position_ids"] = np.arange(11)[None]
        save_file(named, folder / "text_encoder" / "model.fp16.safetensors")
        found = condition(opened(folder / "text_encoder", variant="fp16"), ["a red heart"])["sequence"]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "clip"}, r"'model_type' must be 'clip_text_model', not 'clip'"),
        ({"architectures": ["CLIPModel"]}, r"'architectures' must be \['CLIPTextModel'\] or .*, not \['CLIPModel'\]"),
        ({"sliding_window": 3}, r"'sliding_window': unknown"),
        ({"num_hidden_layers": 1}, r"unknown; kgen's model may compute something else"),
    ],
)
def test_problems_are_named(change: dict[str, Any], message: str, published: ModuleType, tmp_path: Path) -> None:
    save(published, tmp_path)
    file = tmp_path / "text_encoder" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(kgen.ConfigError, match=message):
        opened(tmp_path).null_condition()


def test_more_blocks_are_left_out_than_there_are(pipeline: Path) -> None:
    with pytest.raises(kgen.ConfigError, match="skip must be smaller than the 2 blocks"):
        opened(pipeline, skip=2)
    with pytest.raises(kgen.ConfigError, match="there is no such folder"):
        opened(pipeline / "nowhere")


class Known:
    path = ""


@pytest.fixture(scope="module", autouse=True)
def known(pipeline: Path) -> Iterator[None]:
    Known.path = str(pipeline)
    yield


class TestConformance(EncoderConformance):
    pads = False  # all positions are real

    def build(self) -> ClipText:
        return ClipText(pretrained=Known.path)
