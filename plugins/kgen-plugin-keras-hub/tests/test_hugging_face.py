"""For folders in Hugging Face's format, the plugin computes the same as Hugging Face's library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_keras_hub.bert import BertText
from kgen_plugin_keras_hub.clip import ClipText
from kgen_plugin_keras_hub.t5 import T5Text
from safetensors.numpy import load_file, save_file

from kgen import ConfigError

pytestmark = pytest.mark.portable

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXTS = ["a red heart", "", "Big GREEN books & apples! " * 5, "hearts"]
Pairs = tuple[dict[str, int], list[str]]


def save(model: Any, folder: Path) -> Any:
    """Saves a model with random weights, because zeros and ones would hide weights that were swapped."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.eval().save_pretrained(folder)
    return model


def arguments(tokens: dict[str, np.ndarray]) -> dict[str, Any]:
    ids, mask = (torch.tensor(tokens[name], dtype=torch.long) for name in ("token_ids", "padding_mask"))
    return {"input_ids": ids, "attention_mask": mask}


def compare(encoder: Any, sequence: Any, pooled: Any = None) -> None:
    tokens = encoder.tokenize(TEXTS)
    made = {name: ops.convert_to_numpy(value) for name, value in encoder(tokens).items()}
    mask = tokens["padding_mask"].astype(bool)
    assert (made["mask"] == mask).all()
    assert np.abs(made["sequence"][mask]).max() > 0.1
    np.testing.assert_allclose(made["sequence"][mask], sequence.detach().numpy()[mask], atol=2e-5)
    if pooled is not None:
        np.testing.assert_allclose(made["pooled"], pooled.detach().numpy(), atol=2e-5)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_bert(activation: str, word_pieces: list[str], tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=len(word_pieces),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        hidden_act=activation,
    )
    model = save(transformers.BertModel(config), tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(word_pieces))
    encoder = BertText(preset=str(tmp_path), length=20, pooling="pooler")
    made = model(**arguments(encoder.tokenize(TEXTS)))
    compare(encoder, made.last_hidden_state, made.pooler_output)
    first = BertText(preset=str(tmp_path), length=20, pooling="cls")
    compare(first, made.last_hidden_state, made.last_hidden_state[:, 0])


def clip_text_config(pairs: Pairs, activation: str = "quick_gelu") -> Any:
    vocabulary = pairs[0]
    return transformers.CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=20,
        projection_dim=8,
        hidden_act=activation,
        layer_norm_eps=1e-2,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
    )


def write_byte_pairs(pairs: Pairs, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(pairs[0]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs[1]]))


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_text_tower(activation: str, byte_pairs: Pairs, tmp_path: Path) -> None:
    """The folder has the layout of Stable Diffusion: the tokenizer is in a folder beside the model's."""
    folder = tmp_path / "text_encoder"
    model = save(transformers.CLIPTextModel(clip_text_config(byte_pairs, activation)), folder)
    write_byte_pairs(byte_pairs, tmp_path / "tokenizer")
    encoder = ClipText(preset=str(folder), length=18)
    made = model(input_ids=arguments(encoder.tokenize(TEXTS))["input_ids"])
    compare(encoder, made.last_hidden_state, made.pooler_output)
    with pytest.raises(ConfigError, match="no projection"):
        ClipText(preset=str(folder), length=18, project=True)
    with pytest.raises(ValueError, match="more than the 20 positions"):
        ClipText(preset=str(folder))


def test_whole_clip(byte_pairs: Pairs, tmp_path: Path) -> None:
    """CLIP's image encoder has weights of the same names."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config=clip_text_config(byte_pairs).to_dict(),
        vision_config={**sizes, "image_size": 8, "patch_size": 4},
        projection_dim=8,
    )
    model = save(transformers.CLIPModel(config), tmp_path)
    write_byte_pairs(byte_pairs, tmp_path)
    encoder = ClipText(preset=str(tmp_path), length=18, project=True)
    assert encoder.condition_space.pooled_dim == 8
    made = model.text_model(input_ids=arguments(encoder.tokenize(TEXTS))["input_ids"])
    compare(encoder, made.last_hidden_state, model.text_projection(made.pooler_output))


@pytest.mark.parametrize(("feed_forward", "layers"), [("relu", 1), ("gated-gelu", 2)])
def test_t5(feed_forward: str, layers: int, sentence_pieces: bytes, tmp_path: Path) -> None:
    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=4, d_ff=32, num_layers=layers, num_heads=3, feed_forward_proj=feed_forward
    )
    model = save(transformers.T5ForConditionalGeneration(config), tmp_path)
    (tmp_path / "spiece.model").write_bytes(sentence_pieces)
    encoder = T5Text(preset=str(tmp_path), length=50)
    given = arguments(encoder.tokenize(TEXTS))
    sequence = model.encoder(**given).last_hidden_state
    share = given["attention_mask"][..., None] / given["attention_mask"].sum(1)[:, None, None]
    compare(encoder, sequence, (sequence * share).sum(1))
    assert not any("decoder" in weight.path for weight in encoder.weights)


def test_weights_in_several_files(sentence_pieces: bytes, tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2)
    model = transformers.T5EncoderModel(config)
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    (tmp_path / "spiece.model").write_bytes(sentence_pieces)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    encoder = T5Text(preset=str(tmp_path), length=50)
    compare(encoder, model.eval()(**arguments(encoder.tokenize(TEXTS))).last_hidden_state)


def test_weights_in_bfloat16(sentence_pieces: bytes, tmp_path: Path) -> None:
    """As many published models have them: kgen computes in float32, like `transformers` after `.float()`."""
    config = transformers.T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2)
    model = save(transformers.T5EncoderModel(config).bfloat16(), tmp_path).float()
    (tmp_path / "spiece.model").write_bytes(sentence_pieces)
    encoder = T5Text(preset=str(tmp_path), length=50)
    compare(encoder, model(**arguments(encoder.tokenize(TEXTS))).last_hidden_state)


def break_file(folder: Path, name: str, content: bytes | None) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)


def config_of_t5(**changes: object) -> bytes:
    sizes = {"vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return json.dumps({"model_type": "t5", **sizes, **changes}).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", None, "cannot be read as safetensors"),
        ("model.safetensors", b"half", "cannot be read as safetensors"),
        ("config.json", b"{", "config.json cannot be read"),
        ("config.json", b'{"model_type": "t5", "d_ff": 8}', "lacks d_kv, d_model, num_heads, num_layers, vocab_size"),
        ("config.json", None, "is not a model"),
        ("config.json", b"[" * 3000, "config.json cannot be read"),
        ("config.json", config_of_t5(d_model="wide"), "does not describe a model"),
        ("config.json", config_of_t5(feed_forward_proj=5), "does not describe a model"),
        ("config.json", config_of_t5(num_heads=0), "does not describe a model"),
        ("spiece.model", None, "needs tokenizer.json, or spiece.model"),
        ("spiece.model", b"junk", "cannot be read"),
    ],
)
def test_damage_is_named(
    name: str, content: bytes | None, message: str, sentence_pieces: bytes, tmp_path: Path
) -> None:
    config = transformers.T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2)
    transformers.T5EncoderModel(config).save_pretrained(tmp_path)
    (tmp_path / "spiece.model").write_bytes(sentence_pieces)
    break_file(tmp_path, name, content)
    with pytest.raises(ConfigError, match=message):
        T5Text(preset=str(tmp_path))


def test_missing_and_misshapen_weights_are_named(sentence_pieces: bytes, tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2)
    transformers.T5EncoderModel(config).save_pretrained(tmp_path)
    (tmp_path / "spiece.model").write_bytes(sentence_pieces)
    name = "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, name: weights[name][:3]}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"wo\.weight' has shape \(32, 3\)"):
        T5Text(preset=str(tmp_path))
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"lack .*wo\.weight"):
        T5Text(preset=str(tmp_path))
