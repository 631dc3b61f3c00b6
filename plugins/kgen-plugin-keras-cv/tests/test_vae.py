"""The autoencoder of keras-cv encodes and decodes as in diffusers, with weights from a folder or from its own files."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest
from keras import ops
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group
from kgen_plugin_keras_cv.library import new_model
from kgen_plugin_keras_cv.vae import VAE

import kgen
from kgen import ConfigError, Space, SpaceError
from kgen.testing import DecoderConformance
from kgen.testing.execution import evaluate

pytestmark = pytest.mark.portable

SIZE = (16, 24)


def images(height: int = SIZE[0], width: int = SIZE[1]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (2, height, width, 3)).astype("float32")


def opened(height: int = SIZE[0], width: int = SIZE[1], **options: Any) -> VAE:
    decoder = VAE(Space("continuous", (height, width, 3)), **options)
    decoder.build(None)
    return decoder


def assert_close(found: Any, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    found = ops.convert_to_numpy(found)
    assert found.shape == expected.shape and np.isfinite(expected).all()
    error, size = np.abs(found - expected).max(), np.abs(expected).max()
    assert error <= tolerance * size, f"off by {error:.2g}, of numbers up to {size:.2g}"


def compare(published: ModuleType, decoder: VAE, model: Any, tolerance: float) -> None:
    given = images(*decoder.image_space.shape[:2])
    expected = published.as_ours(model.encode(published.as_theirs(given)).latent_dist.mode()) * 0.18215
    assert decoder.latent_space == Space("continuous", expected.shape[1:], bounded=False)
    assert_close(evaluate(decoder, decoder.encode, given), expected, tolerance)
    latents = np.random.default_rng(1).normal(size=expected.shape).astype("float32")
    made = published.as_ours(model.decode(published.as_theirs(latents / 0.18215)).sample)
    assert_close(evaluate(decoder, lambda z: decoder.decode(z, {}, {}), latents), made, tolerance)


def save_files(decoder: VAE, folder: Path) -> dict[str, str]:
    """Writes the weights in the format of Keras 2, as keras-cv published them. Returns the options that read them."""
    halves = {
        "pretrained": ("Decoder", SIZE, decoder.decoding),
        "image_encoder": ("ImageEncoder", (), decoder.encoding),
    }
    for name, sizes, layers in halves.values():
        model = new_model(name, "float32", *sizes)
        for mine, its in zip(model.weights, [weight for layer in layers for weight in layer.weights], strict=True):
            mine.assign(its)
        with h5py.File(folder / f"{name}.h5", "w") as file:
            save_weights_to_hdf5_group(file, model)
    return {option: str(folder / f"{name}.h5") for option, (name, _, _) in halves.items()}


@pytest.fixture(scope="session")
def folder(published: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(published.save(published.autoencoder(), tmp_path_factory.mktemp("vae")))


@pytest.mark.backends
def test_a_folder_of_diffusers(published: ModuleType, folder: Path) -> None:
    """keras-cv adds 1e-5 to variances where diffusers adds 1e-6."""
    compare(published, opened(pretrained=str(folder)), published.autoencoder(), tolerance=2e-4)


def test_files_of_keras_cv(folder: Path, tmp_path: Path) -> None:
    decoder = opened(pretrained=str(folder))
    files = save_files(decoder, tmp_path)
    for mine, its in zip(opened(**files).inference_weights, decoder.inference_weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(mine), ops.convert_to_numpy(its))
    swapped = {"pretrained": files["image_encoder"], "image_encoder": files["pretrained"]}
    with pytest.raises(ConfigError, match=r"ImageEncoder\.h5 cannot be read as the weights of keras-cv's Decoder: "):
        opened(**swapped)
    with pytest.raises(ConfigError, match=r"no\.h5: there is no such file; download it first"):
        opened(**{**files, "pretrained": "no.h5"})


@pytest.mark.slow
def test_the_full_size(published: ModuleType, tmp_path: Path) -> None:
    """All weights are random: the published ones could not be downloaded here."""
    model = published.autoencoder(block_out_channels=(128, 256, 512, 512), norm_num_groups=32)
    decoder = opened(128, 192, pretrained=str(published.save(model, tmp_path / "vae")))
    assert sum(int(np.prod(weight.shape)) for weight in decoder.inference_weights) == 49_490_199 + 34_163_664
    compare(published, decoder, model, tolerance=2e-4)


# ---- what cannot be read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_num_groups": 4}, r"config\.json: 'norm_num_groups' must be 8, as in keras-cv: use the decoder 'diff"),
        ({"scaling_factor": 0.13}, r"config\.json: 'scaling_factor' must be 0\.18215, as in keras-cv"),
        ({"shift_factor": 0.1}, r"config\.json: 'shift_factor' must be 0\.0, as in keras-cv"),
        ({"_class_name": "VQModel"}, r"config\.json: '_class_name' must be 'AutoencoderKL', not 'VQModel'"),
        ({"tiles": 2}, r"config\.json: 'tiles': unknown"),
    ],
)
def test_other_autoencoders_are_refused(
    changes: dict[str, Any], message: str, published: ModuleType, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    published.change_config(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message):
        opened(pretrained=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained": "decoder.h5"}, "keras-cv has a file for each half of the autoencoder"),
        ({"pretrained": "folder", "image_encoder": "encoder.h5"}, "keras-cv has a file for each half"),
        ({"variant": "fp16"}, "variant is an option for the weights in a folder, and has no effect here"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VAE(Space("continuous", (16, 16, 3)), **options)


def test_images_that_do_not_fit() -> None:
    with pytest.raises(SpaceError, match=r"needs a height and a width divisible by 8, but the images are 12x16"):
        VAE(Space("continuous", (12, 16, 3)))
    with pytest.raises(SpaceError, match=r"needs images of shape \(height, width, 3\), not 16x16x1 continuous"):
        VAE(Space("continuous", (16, 16, 1)))


def test_a_saved_pipeline_holds_the_model(folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "vae"
    copied.mkdir()
    for file in folder.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    pipeline = kgen.assemble(
        encoder="none",
        generator={
            "name": "diffusion/diffusion",
            "network": {"kind": "dit", "width": 8, "depth": 1, "heads": 1, "patch": 1},
        },
        decoder={"name": "keras-cv/vae", "pretrained": str(copied)},
        image_space=(16, 24, 3),
    )
    expected = ops.convert_to_numpy(pipeline.decoder.encode(ops.convert_to_tensor(images())))
    kgen.save(pipeline, tmp_path / "saved")
    for file in copied.iterdir():
        file.unlink()
    made = kgen.load(tmp_path / "saved").decoder.encode(ops.convert_to_tensor(images()))
    np.testing.assert_array_equal(ops.convert_to_numpy(made), expected)


class TestConformance(DecoderConformance):
    latent_deviation: ClassVar = (0.001, 10.0)  # the weights are random, and the scale is not measured
    fit_steps: ClassVar = 20
    replicas: ClassVar = False  # the losses are those of kgen-plugin-codecs

    def build(self) -> VAE:
        return VAE(Space("continuous", (16, 16, 3)))
