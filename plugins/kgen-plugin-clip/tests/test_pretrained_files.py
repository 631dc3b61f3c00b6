"""Folders that have no CLIP, or whose files do not fit: messages name the file, and the key or the tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import kgen

pytestmark = pytest.mark.portable


def opened(folder: Path) -> None:
    kgen.make_encoder({"name": "clip/clip", "pretrained": str(folder)}, []).null_condition()


def changed_json(file: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = json.loads((folder / file).read_text())
        change(data)
        (folder / file).write_text(json.dumps(data))

    return apply


def changed_weights(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        arrays = load_file(folder / "model.safetensors")
        change(arrays)
        save_file(arrays, folder / "model.safetensors")

    return apply


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without(*names: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return apply


TENSOR = "text_model.encoder.layers.1.mlp.fc1.bias"

PROBLEMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "another model": (
        changed_json("config.json", lambda d: d.update(model_type="siglip")),
        r"config\.json: 'model_type' must be 'clip', not 'siglip'",
    ),
    "unknown key": (
        changed_json("config.json", lambda d: d["text_config"].update(rope_theta=1)),
        r"config\.json: 'text_config\.rope_theta': unknown",
    ),
    "missing section": (changed_json("config.json", lambda d: d.pop("vision_config")), r"'vision_config' is missing"),
    "activation": (
        changed_json("config.json", lambda d: d["vision_config"].update(hidden_act="relu")),
        r"'vision_config\.hidden_act' must be 'quick_gelu' or 'gelu'",
    ),
    "size": (
        changed_json("config.json", lambda d: d["vision_config"].update(image_size="large")),
        r"'vision_config\.image_size' must be one positive integer",
    ),
    "patches": (
        changed_json("config.json", lambda d: d["vision_config"].update(patch_size=5)),
        r"'vision_config\.patch_size' must divide",
    ),
    "heads": (
        changed_json("config.json", lambda d: d["text_config"].update(num_attention_heads=3)),
        r"'text_config\.hidden_size' must be a multiple of the 3",
    ),
    "end": (
        changed_json("config.json", lambda d: d["text_config"].update(eos_token_id=7)),
        r"'text_config\.eos_token_id' must be",
    ),
    "no processor": (without("preprocessor_config.json"), r"preprocessor_config\.json is missing"),
    "squashed": (
        changed_json("preprocessor_config.json", lambda d: d.update(size={"height": 12, "width": 12})),
        r"preprocessor_config\.json: 'size' must be one positive integer \(shortest_edge\)",
    ),
    "crop": (
        changed_json("preprocessor_config.json", lambda d: d.update(crop_size=8)),
        r"'crop_size' must be 12, the image_size of the model",
    ),
    "no normalization": (
        changed_json("preprocessor_config.json", lambda d: d.update(do_normalize=False)),
        r"'do_normalize' must be True",
    ),
    "no tokenizer": (
        without("tokenizer.json"),
        r"has no tokenizer: it needs tokenizer\.json, or vocab\.json and merges",
    ),
    "lacking tensor": (changed_weights(lambda d: d.pop(TENSOR)), rf"model\.safetensors lacks '{TENSOR}'"),
    "unknown tensor": (
        changed_weights(lambda d: d.update({"text_model.adapter": d[TENSOR].copy()})),
        r"model\.safetensors: 'text_model\.adapter': unknown",
    ),
    "shape": (
        changed_weights(lambda d: d.update({TENSOR: d[TENSOR][:3].copy()})),
        rf"model\.safetensors: '{TENSOR}' has the shape \(3,\)",
    ),
    "damage": (lambda folder: (folder / "model.safetensors").write_bytes(b"half") and None, r"cannot be read"),
    "pickle": (only_a_pickle, r"model\.safetensors is missing: pytorch_model\.bin is a format .* a pickle can run any"),
    "no model": (without("config.json"), r"is not the folder of a CLIP: it has neither config\.json nor open_clip"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_problems_are_named(problem: str, copied: Path) -> None:
    change, message = PROBLEMS[problem]
    change(copied)
    with pytest.raises(kgen.ConfigError, match=message):
        opened(copied)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        (
            "vision_cfg",
            "timm_model_name",
            "vit",
            r"config\.json: 'model_cfg\.vision_cfg\.timm_model_name'",
        ),
        ("text_cfg", "vocab_size", 600, r"'model_cfg\.text_cfg\.vocab_size' must be"),
        ("vision_cfg", "layers", [1, 2, 3, 4], r"'model_cfg\.vision_cfg\.layers' must be a positive integer"),
    ],
)
def test_problems_of_openclip_are_named(
    section: str, key: str, value: Any, message: str, tmp_path: Path, published: ModuleType
) -> None:
    folder = published.save_open_clip(published.random_model("gelu", 1e-5), tmp_path / "own")
    changed_json("open_clip_config.json", lambda d: d["model_cfg"][section].update({key: value}))(folder)
    with pytest.raises(kgen.ConfigError, match=message):
        opened(folder)
