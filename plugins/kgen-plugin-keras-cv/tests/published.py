"""Published models with random weights, as small as those of keras-cv in these tests, which their libraries save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"

TEXT = {
    1: {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 12, "num_attention_heads": 12},
    2: {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 23, "num_attention_heads": 16},
}
ACTIVATIONS = {1: "quick_gelu", 2: "gelu"}


def perturbed(model: Any) -> Any:
    """Makes no weight zero or one, because that would hide weights that were swapped."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.copy_(torch.randn_like(weight) * 0.3 + ("norm" in name and name.endswith("weight")))
    return model.eval()


def autoencoder(**options: Any) -> Any:
    """The autoencoder of Stable Diffusion 1 and 2, with an eighth of the channels."""
    torch.manual_seed(0)
    small = {"block_out_channels": (16, 32, 64, 64), "norm_num_groups": 8, "layers_per_block": 2}
    types = {"down_block_types": (DOWN,) * 4, "up_block_types": (UP,) * 4}
    return perturbed(diffusers.AutoencoderKL(**{**small, **types, **options}))


def text_encoder(version: int, **options: Any) -> Any:
    """The text encoder of a version of Stable Diffusion, with an eighth of the features."""
    torch.manual_seed(0)
    given = {**TEXT[version], "vocab_size": 49408, "hidden_act": ACTIVATIONS[version], "eos_token_id": 49407}
    return perturbed(transformers.CLIPTextModel(transformers.CLIPTextConfig(**{**given, **options})))


HEADS = {1: 8, 2: (5, 10, 20, 20)}


def unet(version: int, **options: Any) -> Any:
    """The diffusion model of a version of Stable Diffusion, with an eighth of the channels."""
    torch.manual_seed(0)
    given = {
        "block_out_channels": (40, 80, 160, 160),
        "norm_num_groups": 8,
        "cross_attention_dim": TEXT[version]["hidden_size"],
        "attention_head_dim": HEADS[version],
        "use_linear_projection": version == 2,
    }
    return perturbed(diffusers.UNet2DConditionModel(**{**given, **options}))


def save(model: Any, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, safe_serialization=True, **options)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def as_theirs(array: np.ndarray) -> Any:
    """(B, H, W, C) -> a tensor (B, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def as_ours(tensor: Any) -> np.ndarray:
    """(B, C, H, W) -> (B, H, W, C)."""
    return np.moveaxis(tensor.detach().numpy(), 1, -1)
