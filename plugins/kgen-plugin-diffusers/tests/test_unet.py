"""Published U-Nets predict the same noise as in diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusers.unet import UNet

import kgen
from kgen import ConditionSpace, ConfigError, Space, SpaceError
from kgen.testing import GeneratorConformance

pytestmark = pytest.mark.portable

ATTENTION, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
UP_ATTENTION, UP_PLAIN = "CrossAttnUpBlock2D", "UpBlock2D"
TEXT, POOLED, LENGTH = 6, 5, 7

OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one stage": {
        "block_out_channels": (8,),
        "down_block_types": (ATTENTION,),
        "up_block_types": (UP_ATTENTION,),
    },
    "three stages": {
        "block_out_channels": (8, 12, 16),
        "down_block_types": (ATTENTION, ATTENTION, PLAIN),
        "up_block_types": (UP_PLAIN, UP_ATTENTION, UP_ATTENTION),
    },
    "attention on one way alone": {"up_block_types": (UP_ATTENTION, UP_PLAIN)},
    "blocks": {"layers_per_block": 2},
    "blocks of each stage": {"layers_per_block": (2, 1)},
    "heads": {"attention_head_dim": 4},
    "heads of each stage, like SD2": {"attention_head_dim": (2, 8)},
    "transformer blocks, like SDXL": {"transformer_layers_per_block": (1, 3)},
    "linear projections": {"use_linear_projection": True},
    "groups of one channel": {"norm_num_groups": 8},
    "epsilon": {"norm_eps": 0.3},
    "time scales and shifts": {"resnet_time_scale_shift": "scale_shift"},
    "padding at the end": {"downsample_padding": 0},
    "sines first": {"flip_sin_to_cos": False},
    "frequencies": {"freq_shift": 1},
    "like SDXL": {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + POOLED,
    },
    "without an effect": {"act_fn": "swish", "upcast_attention": True, "sample_size": 64},
}


def opened(folder: Path, height: int = 8, width: int = 12, pooled: int = POOLED + 3, **options: Any) -> Any:
    """The layer of a folder, which is built as by a pipeline."""
    space, conditions = Space("continuous", (height, width, 4), bounded=False), ConditionSpace(LENGTH, TEXT, pooled)
    layer = UNet(pretrained=str(folder), **options).build(space, conditions, 4)
    layer.build((None, *space.shape), {"sequence": (None, LENGTH, TEXT), "mask": (None, LENGTH), "pooled": (None, pooled)})
    return layer


def inputs(height: int = 8, width: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"x": (2, height, width, 4), "sequence": (2, LENGTH, TEXT), "pooled": (2, POOLED + 3)}
    return {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}


def compare(published: ModuleType, folder: Path, model: Any, height: int = 8, width: int = 12) -> None:
    import torch

    given, times = inputs(height, width), np.array([3.0, 951.0], "float32")
    added = {
        "text_embeds": torch.from_numpy(given["pooled"][:, 3:]),
        "time_ids": torch.tensor([[8.0 * height, 8.0 * width, 0, 0, 8.0 * height, 8.0 * width]] * 2),
    }
    with torch.no_grad():
        expected = model(
            published.as_theirs(given["x"]),
            torch.from_numpy(times),
            encoder_hidden_states=torch.from_numpy(given["sequence"]),
            added_cond_kwargs=added,
        ).sample
    condition = {name: ops.convert_to_tensor(given[name]) for name in ("sequence", "pooled")}
    condition["mask"] = ops.ones((2, LENGTH))
    found = opened(folder, height, width)(ops.convert_to_tensor(given["x"]), ops.convert_to_tensor(times), condition)
    expected, found = published.as_ours(expected), ops.convert_to_numpy(found)
    assert found.shape == expected.shape and np.isfinite(expected).all()
    error, size = np.abs(found - expected).max(), np.abs(expected).max()
    assert error <= 1e-4 * size, f"off by {error:.2g}, of numbers up to {size:.2g}"


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_computes_the_same(name: str, published: ModuleType, tmp_path: Path) -> None:
    model = published.random_model("UNet2DConditionModel", **OPTIONS[name])
    compare(published, published.save(model, tmp_path / "unet"), model)


@pytest.mark.parametrize("padding", [0, 1])
def test_sizes_that_are_not_divisible(padding: int, published: ModuleType, tmp_path: Path) -> None:
    options = {**OPTIONS["three stages"], "downsample_padding": padding}
    model = published.random_model("UNet2DConditionModel", **options)
    compare(published, published.save(model, tmp_path / "unet"), model, 11, 10)
