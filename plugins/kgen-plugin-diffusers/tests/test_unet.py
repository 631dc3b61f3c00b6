"""Published U-Nets predict the same noise as in diffusers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusers.unet.options import UNet
from safetensors.numpy import load_file

import kgen
from kgen import ConditionSpace, ConfigError, Generator, Space, SpaceError
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
    "without an effect": {"act_fn": "swish", "upcast_attention": True, "sample_size": 64, "dropout": 0},
}


def compare(published: ModuleType, folder: Path, model: Any, height: int = 8, width: int = 12) -> None:
    import torch

    rng, times, text = np.random.default_rng(0), np.array([3.0, 951.0], "float32"), model.config.cross_attention_dim
    shapes = {"x": (2, height, width, 4), "sequence": (2, LENGTH, text), "pooled": (2, POOLED + 3)}
    given = {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}
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
    space = Space("continuous", (height, width, 4), bounded=False)
    layer = UNet(pretrained=str(folder)).build(space, ConditionSpace(LENGTH, text, POOLED + 3), 4)
    found = layer(ops.convert_to_tensor(given["x"]), ops.convert_to_tensor(times), condition)
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


@pytest.mark.slow
def test_the_network_of_stable_diffusion_1(published: ModuleType, tmp_path: Path) -> None:
    """In its full size, with random weights."""
    sizes = {"block_out_channels": (320, 640, 1280, 1280), "norm_num_groups": 32, "layers_per_block": 2}
    heads = {"attention_head_dim": 8, "cross_attention_dim": 768}
    types = {"down_block_types": (ATTENTION,) * 3 + (PLAIN,), "up_block_types": (UP_PLAIN,) + (UP_ATTENTION,) * 3}
    model = published.random_model("UNet2DConditionModel", **sizes, **heads, **types)
    compare(published, published.save(model, tmp_path / "unet"), model, 16, 24)


# ---- in a generator -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unet(published: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net of images."""
    model = published.random_model("UNet2DConditionModel", in_channels=3, out_channels=3)
    return Path(published.save(model, tmp_path_factory.mktemp("unet")))


def generator(folder: Path, **options: Any) -> dict[str, Any]:
    network = {"kind": "diffusers/unet-2d-condition", "pretrained": str(folder), **options}
    return {"name": "diffusion/diffusion", "network": network, "schedule": "discrete", "prediction": "eps"}


def assembled(folder: Path, dim: int = TEXT, channels: int = 3, **options: Any) -> kgen.Pipeline:
    encoder = {"name": "text/bag", "dim": dim}
    given = {"generator": generator(folder, **options), "image_space": (8, 8, channels), "captions": ["a red circle"]}
    return kgen.assemble(encoder=encoder, **given)


@pytest.mark.backends
def test_a_pipeline_has_the_weights_of_the_folder(unet: Path) -> None:
    """On JAX, what is assigned while losses are traced would be lost."""
    pipeline = assembled(unet)
    paths = kgen.weight_paths(pipeline.generator.model, pipeline.generator.model.weights)
    arrays = load_file(unet / "diffusion_pytorch_model.safetensors")
    for name, ours in (
        ("conv_in", "conv_in/kernel"),
        ("mid_block.resnets.1.conv2", "mid_block/resnets/1/conv2/kernel"),
    ):
        kernel = arrays[f"{name}.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(ops.convert_to_numpy(paths[f"network/{ours}"]), kernel)
    assert sum(array.size for array in arrays.values()) == sum(int(np.prod(path.shape)) for path in paths.values())


PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "another model": (
        {"_class_name": "UNet2DModel"},
        r"'_class_name' must be 'UNet2DConditionModel', not 'UNet2DModel'",
    ),
    "unknown key": ({"use_magic": True}, r"config\.json: 'use_magic': unknown"),
    "attention": ({"only_cross_attention": True}, r"'only_cross_attention' must be False, not True"),
    "dropout": ({"dropout": 0.1}, r"'dropout' must be 0, not 0\.1"),
    "classes": ({"num_class_embeds": 10}, r"'num_class_embeds' must be None, not 10"),
    "middle": ({"mid_block_type": "UNetMidBlock2D"}, r"'mid_block_type' must be 'UNetMidBlock2DCrossAttn'"),
    "blocks": (
        {"down_block_types": ["AttnDownBlock2D", PLAIN]},
        r"'down_block_types' must be 'DownBlock2D' or 'CrossAttnDownBlock2D' in each stage, not 'AttnDownBlock2D'",
    ),
    "numbers": (
        {"layers_per_block": [1, 1, 1]},
        r"'layers_per_block' must be one number, or 2, like block_out_channels",
    ),
    "heads": (
        {"attention_head_dim": 5},
        r"'attention_head_dim' is the number of heads, and 5 does not divide 8 channels",
    ),
    "groups": ({"norm_num_groups": 6}, r"'block_out_channels' must be multiples of norm_num_groups, 6, but one is 8"),
    "embedding": ({"addition_embed_type": "image"}, r"'addition_embed_type' must be None or 'text_time', not 'image'"),
    "sizes": (
        {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 24},
        r"'projection_class_embeddings_input_dim' must be greater than 6 times addition_time_embed_dim, 24, not 24",
    ),
    "stray size": ({"addition_time_embed_dim": 4}, r"'addition_time_embed_dim' must be None, not 4"),
    "shape": ({"cross_attention_dim": 7}, r"this U-Net reads conditions of dimension 7, not 6: choose the encoder"),
    "channels": ({"in_channels": 9}, r"this U-Net reads latents with 9 channels, not 3: choose the decoder"),
    "pooled": (
        {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 99},
        r"this U-Net reads the last 75 numbers of the pooled text, but there are 6: .* join them in width",
    ),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_problems_are_named(problem: str, unet: Path, tmp_path: Path) -> None:
    changes, message = PROBLEMS[problem]
    copied = Path(shutil.copytree(unet, tmp_path / "copied"))
    data = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**data, **changes}))
    with pytest.raises((ConfigError, SpaceError), match=message):
        assembled(copied)


def test_options_that_are_wrong(unet: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'addition_embed_type' is not 'text_time', so that 'factor' has no effect"):
        assembled(unet, factor=4)
    with pytest.raises(ConfigError, match=r"nowhere: there is no such folder; download the model first"):
        assembled(tmp_path / "nowhere")
    with pytest.raises(SpaceError, match=r"a U-Net works on continuous latents of shape \(height, width, channels\)"):
        UNet(pretrained=str(unet)).check(Space("continuous", (8,)))


# ---- the contract -------------------------------------------------------------------------------------------------


class Published:
    path = ""


@pytest.fixture(scope="module", autouse=True)
def known(unet: Path) -> Iterator[None]:
    Published.path = str(unet)
    yield


class TestConformance(GeneratorConformance):
    generate_options: ClassVar = ({"sampler": "ddim", "steps": 2},)
    likelihood_options: ClassVar = {"steps": 3}
    replicas: ClassVar = False  # the losses are those of kgen-plugin-diffusion
    learns: ClassVar = False  # random weights of this size change slowly: the loss of one batch falls all the same

    def build(self) -> Generator:
        space, conditions = Space("continuous", (8, 8, 3)), ConditionSpace(LENGTH, TEXT)
        return kgen.make_generator(generator(Path(Published.path)), space, conditions)
