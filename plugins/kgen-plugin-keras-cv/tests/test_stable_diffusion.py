"""Stable Diffusion generates the same images as in keras-cv, and its model predicts the same noise as in diffusers."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import h5py
import keras
import numpy as np
import pytest
from keras import ops
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group
from kgen_plugin_keras_cv import unet
from kgen_plugin_keras_cv.stable_diffusion import StableDiffusion
from kgen_plugin_keras_cv.unet import UNet, check_config

import kgen
from kgen import ConditionSpace, ConfigError, Space, SpaceError
from kgen.pretrained import Section
from kgen.testing import GeneratorConformance

pytestmark = pytest.mark.portable

LENGTH, DIM = 5, {1: 96, 2: 128}
SPACE = Space("continuous", (8, 16, 4), bounded=False)


def opened(version: int = 1, dim: int | None = None, space: Space = SPACE, **options: Any) -> Any:
    """The layer of the network, which is built as by a pipeline."""
    width = dim or DIM[version]
    layer = UNet(version=version, **options).build(space, ConditionSpace(LENGTH, width), 4)
    layer.build((None, *space.shape), {"sequence": (None, LENGTH, width)})
    return layer


def compare(published: ModuleType, layer: Any, model: Any, tolerance: float) -> None:
    import torch

    rng, (_, height, width, _) = np.random.default_rng(0), layer.network.inputs[0].shape
    x = rng.normal(size=(2, height, width, 4)).astype("float32")
    sequence = rng.normal(size=(2, *layer.network.inputs[2].shape[1:])).astype("float32")
    times = np.array([3.0, 951.0], "float32")
    with torch.no_grad():
        output = model(published.as_theirs(x), torch.from_numpy(times), torch.from_numpy(sequence)).sample
    expected = published.as_ours(output)
    given = {"sequence": ops.convert_to_tensor(sequence)}
    found = ops.convert_to_numpy(layer(ops.convert_to_tensor(x), ops.convert_to_tensor(times), given))
    error, size = np.abs(found - expected).max(), np.abs(expected).max()
    assert error <= tolerance * size, f"off by {error:.2g}, of numbers up to {size:.2g}"


TOLERANCE = 2e-3
"""keras-cv approximates the GELU by a tanh, and adds 1e-5 to some variances where diffusers adds 1e-6."""


def test_version_1_in_a_pipeline(published: ModuleType, tmp_path: Path) -> None:
    """A saved pipeline does not need the folder, although Keras numbers its layers differently when it is loaded."""
    model = published.unet(1)
    folder = published.save(model, tmp_path / "pipeline" / "unet").parent
    (folder / "model_index.json").write_text("{}")
    pipeline = kgen.assemble(
        encoder={"name": "text/bag", "dim": DIM[1]},
        generator={"name": "keras-cv/stable-diffusion", "pretrained": str(folder)},
        image_space=(8, 8, 4),
        captions=["red heart"],
    )
    compare(published, pipeline.generator.model, model, TOLERANCE)
    kgen.save(pipeline, tmp_path / "saved")
    shutil.rmtree(folder)
    compare(published, kgen.load(tmp_path / "saved").generator.model, model, TOLERANCE)


DIFFERENCES: dict[str, tuple[Any, str]] = {
    "norm_eps": (1e-6, r"config\.json: 'norm_eps' must be 1e-05, as in keras-cv: use the network 'unet-2d-condition'"),
    "attention_head_dim": (5, r"must be \[5, 10, 20, 20\], as in keras-cv"),
    "norm_num_groups": (4, r"must be 8, as in keras-cv"),
    "use_linear_projection": (False, r"must be True, as in keras-cv"),
    "resnet_time_scale_shift": ("scale_shift", r"must be default, as in keras-cv"),
    "flip_sin_to_cos": (False, r"must be True, as in keras-cv"),
    "freq_shift": (1, r"must be 0\.0, as in keras-cv"),
    "downsample_padding": (0, r"must be 1, as in keras-cv"),
    "adapter": (1, r"'adapter': unknown"),
}


def test_version_2_and_other_models(published: ModuleType, tmp_path: Path) -> None:
    model = published.unet(2)
    layer = opened(2, pretrained=str(published.save(model, tmp_path / "unet")))
    compare(published, layer, model, TOLERANCE)
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    check_config(Section(Path("config.json"), config), layer.network, linear=True)
    for key, (value, message) in DIFFERENCES.items():
        with pytest.raises(ConfigError, match=message):
            check_config(Section(Path("config.json"), {**config, key: value}), layer.network, linear=True)


@pytest.mark.slow
@pytest.mark.parametrize(("version", "size"), [(1, 859_520_964), (2, 865_910_724)])
def test_the_full_size(version: int, size: int, published: ModuleType, tmp_path: Path) -> None:
    """All weights are random: the published ones could not be downloaded here."""
    channels = {"block_out_channels": (320, 640, 1280, 1280), "norm_num_groups": 32}
    model = published.unet(version, **channels, cross_attention_dim=768 if version == 1 else 1024)
    folder = published.save(model, tmp_path / "unet")
    layer = opened(version, dim=768 if version == 1 else 1024, pretrained=str(folder))
    assert layer.network.count_params() == size
    compare(published, layer, model, TOLERANCE)


# ---- images -------------------------------------------------------------------------------------------------------


class Seen:
    """A decoder of keras-cv that keeps its input and its output, which `generate_image` rounds to bytes."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def predict_on_batch(self, latent: Any) -> Any:
        self.latent = ops.convert_to_numpy(latent)
        self.images = self.model.predict_on_batch(latent)
        return self.images


def saved(model: Any, file: Path) -> str:
    """Writes weights in the format of Keras 2, as keras-cv published them."""
    with h5py.File(file, "w") as opened_file:
        save_weights_to_hdf5_group(opened_file, model)
    return str(file)


@pytest.mark.parametrize("steps", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_images_of_keras_cv(steps: int, vocabulary: Path, tmp_path: Path) -> None:
    """From the files of keras-cv, the same noise and prompt give the same image, with guidance."""
    from keras_cv.src.models.stable_diffusion import stable_diffusion as library

    theirs = library.StableDiffusion(128, 128, jit_compile=False)
    theirs._get_timestep_embedding = functools.partial(theirs._get_timestep_embedding, dim=40)  # of the small model
    theirs._tokenizer = library.SimpleTokenizer(str(vocabulary))
    theirs._text_encoder = library.TextEncoder(77, download_weights=False)
    theirs._diffusion_model = library.DiffusionModel(64, 128, 77, download_weights=False)
    theirs._decoder = seen = Seen(library.Decoder(64, 128, download_weights=False))
    noise = np.random.default_rng(0).normal(size=(1, 8, 16, 4)).astype("float32")
    text = theirs.encode_text("a red heart")
    theirs.generate_image(text, diffusion_noise=noise, num_steps=steps, unconditional_guidance_scale=7.5)

    text_file = saved(theirs._text_encoder, tmp_path / "text.h5")
    pipeline = kgen.assemble(
        encoder={"name": "keras-cv/clip-text", "pretrained": text_file, "vocabulary": str(vocabulary)},
        generator={
            "name": "keras-cv/stable-diffusion",
            "pretrained": saved(theirs._diffusion_model, tmp_path / "model.h5"),
        },
        decoder="keras-cv/vae",
        image_space=(64, 128, 3),
    )
    weights = [weight for layer in pipeline.decoder.decoding for weight in layer.weights]
    for mine, its in zip(weights, seen.model.weights, strict=True):
        mine.assign(its)
    tokens = pipeline.encoder.tokenize(["a red heart"])
    condition = pipeline.encoder({name: ops.convert_to_tensor(array) for name, array in tokens.items()})
    latent = pipeline.generator.generate(
        condition,
        pipeline.encoder.null_condition(),
        {"start": ops.convert_to_tensor(noise)},
        sampler="ddim",
        spacing="linspace",
        steps=steps,
        guidance=7.5,
    )
    images = ops.convert_to_numpy(pipeline.decoder.decode(latent, condition, {}))
    for found, expected in ((ops.convert_to_numpy(latent), seen.latent), (images, ops.convert_to_numpy(seen.images))):
        error, size = np.abs(found - expected).max(), np.abs(expected).max()
        assert error <= 1e-3 * size, f"off by {error:.2g}, of numbers up to {size:.2g}"
    assert np.abs(seen.latent - noise).max() > 0.1


# ---- what does not fit ----------------------------------------------------------------------------------------------


def test_conditions_and_latents_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [keras.Input(shape) for shape in ((8, 16, 4), (40,), (LENGTH, DIM[1]))]
    monkeypatch.setattr(unet, "new_model", lambda *arguments: SimpleNamespace(inputs=inputs))  # which takes seconds
    with pytest.raises(SpaceError, match=r"version 1 .* needs conditions of 96 features, but the encoder's have 7"):
        opened(dim=7)
    with pytest.raises(SpaceError, match=r"divisible by 8, but they are 8x12: choose images whose sides are"):
        UNet().check(Space("continuous", (8, 12, 4), bounded=False))
    with pytest.raises(SpaceError, match=r"needs latents of shape \(height, width, 4\), not 8x8x3 continuous"):
        UNet().check(Space("continuous", (8, 8, 3)))
    with pytest.raises(ValueError, match="variant is an option for the weights in a folder"):
        UNet(variant="fp16")


@pytest.mark.slow
class TestConformance(GeneratorConformance):
    generate_options: ClassVar = ({"sampler": "ddim", "spacing": "linspace", "steps": 2, "guidance": 2.0},)
    tolerance: ClassVar = 1e-3  # the network has random weights, and its samples reach 50
    learns: ClassVar = False  # in so few steps, and with so many layers
    replicas: ClassVar = False  # the losses are those of kgen-plugin-diffusion
    fit_steps: ClassVar = 20
    fit_fall: ClassVar = 0.02

    def build(self) -> StableDiffusion:
        return StableDiffusion(Space("continuous", (8, 16, 4), bounded=False), ConditionSpace(3, DIM[1]))
