"""Stable Diffusion 3 trains under kgen, and generates the same images as in KerasHub."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_keras_hub.sd3.generator import StableDiffusion3
from kgen_plugin_keras_hub.sd3.mmdit import MMDiT, MMDiTSizes
from kgen_plugin_keras_hub.sd3.preset import Published
from kgen_plugin_keras_hub.sd3.text import StableDiffusion3Text
from kgen_plugin_keras_hub.sd3.vae import VAE, VAESizes

import kgen
from kgen import ConditionSpace, ConfigError, PluginError, RunError, Space, SpaceError

pytestmark = pytest.mark.portable

AS_KERAS_HUB: dict[str, Any] = {
    "sampler": "euler",
    "spacing": {"kind": "linspace", "last": 1.994, "rounded": False},
    "guidance": 3.0,
}
TEXTS = ["a red heart", ""]
SIZES = {"width": 16, "depth": 2, "heads": 2, "positions": 4}
SPACE = Space("continuous", (4, 4, 3), bounded=False)


def assert_close(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    found, expected = ops.convert_to_numpy(found), ops.convert_to_numpy(expected)
    assert found.shape == expected.shape and np.isfinite(expected).all()
    error, size = np.abs(found - expected).max(), np.abs(expected).max()
    assert error <= tolerance * size, f"off by {error:.2g}, of numbers up to {size:.2g}"


def opened(folder: Path, **shared: Any) -> kgen.Pipeline:
    """A pipeline of three parts of a preset."""
    return kgen.assemble(
        encoder={"name": "keras-hub/sd3-text", "preset": str(folder), **shared},
        generator={"name": "keras-hub/sd3", "preset": str(folder)},
        decoder={"name": "keras-hub/sd3-vae", "preset": str(folder)},
        image_space=(32, 48, 3),
    )


# ---- training and sampling on each backend ------------------------------------------------------------------------


@pytest.mark.backends
def test_fit_lowers_the_loss() -> None:
    keras.utils.set_random_seed(0)
    sizes = {**SIZES, "normalize": True, "dual_attention": [1]}
    pipeline = kgen.assemble(
        encoder={"name": "text/bag", "dim": 8},
        generator={"name": "keras-hub/sd3", "sizes": sizes},
        image_space=(4, 4, 3),
        captions=["red", "blue"],
    )
    assert "generator/model/network/joint_block_1/x_block/attention_qkv/kernel" in kgen.weight_paths(pipeline)
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
    pipeline.compile(keras.optimizers.Adam(1e-2))
    given = pipeline.inputs(images, ["red", "blue"] * 4)
    losses = pipeline.fit(given, batch_size=8, epochs=16, verbose=0).history["loss"]
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])


@pytest.mark.backends
def test_each_number_of_steps_has_its_own_times() -> None:
    """KerasHub's `generate` compiles the times of its first call into the program of all calls."""
    keras.utils.set_random_seed(0)
    generator = StableDiffusion3(SPACE, ConditionSpace(3, 8), sizes=MMDiTSizes(**{**SIZES, "depth": 1}))
    generator.build_pretrained()
    rng = np.random.default_rng(0)
    condition = {name: rng.normal(size=(1, *shape)) for name, shape in (("sequence", (3, 8)), ("pooled", (8,)))}
    condition = {name: ops.convert_to_tensor(array.astype("float32")) for name, array in condition.items()}
    noise = rng.normal(size=(1, *SPACE.shape)).astype("float32")
    for steps in (2, 3):
        start = {"start": ops.convert_to_tensor(noise)}
        found = generator.generate(condition, condition, start, steps=steps, **{**AS_KERAS_HUB, "guidance": 1.0})
        times = np.linspace(1, 0.003 / 1.002, steps)  # equation 23 of 1/1000, which the sampler shifts again
        sigmas = [*(3 * times / (1 + 2 * times)), 0.0]
        x = noise
        for sigma, following in itertools.pairwise(sigmas):
            level = ops.convert_to_tensor(np.array([1000 * sigma], "float32"))
            velocity = ops.convert_to_numpy(generator.model(ops.convert_to_tensor(x), level, condition))
            x = (x + (following - sigma) * velocity).astype("float32")
        assert_close(found, x)


# ---- the same as in KerasHub ----------------------------------------------------------------------------------------


def theirs_of(request: pytest.FixtureRequest, name: str) -> tuple[Any, Path]:
    found: tuple[Any, Path] = request.getfixturevalue(name)
    return found


@pytest.mark.parametrize("name", ["sd3", "sd35"])
def test_texts_of_keras_hub(name: str, request: pytest.FixtureRequest) -> None:
    theirs, folder = theirs_of(request, name)
    encoder = StableDiffusion3Text(preset=str(folder), **({"t5_length": 14} if name == "sd35" else {}))
    tokens = encoder.tokenize(TEXTS)
    expected = theirs.preprocessor.generate_preprocess(TEXTS)
    assert set(tokens) == set(expected)
    for key, ids in tokens.items():
        np.testing.assert_array_equal(ids, np.asarray(expected[key]))
    made = encoder(tokens)
    sequence, _, pooled, _ = theirs.backbone.encode_text_step(expected, expected)
    assert_close(made["sequence"], sequence)
    assert_close(made["pooled"], pooled)
    space = encoder.condition_space
    assert (space.length, space.dim, space.pooled_dim) == (*made["sequence"].shape[1:], 20)
    assert ops.convert_to_numpy(made["mask"]).all() and not encoder.trainable_variables
    assert encoder.unread("red") == "" and encoder.unread("x " * 20).startswith("CLIP reads only 12 of its 22 tokens")


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="KerasHub generates wrong images on other backends")
@pytest.mark.parametrize("name", ["sd3", "sd35"])
def test_images_of_keras_hub(name: str, request: pytest.FixtureRequest) -> None:
    """On PyTorch, which compiles nothing, KerasHub's second call is right, too."""
    theirs, folder = theirs_of(request, name)
    pipeline = opened(folder, **({"t5_length": 14} if name == "sd35" else {}))
    tokens = pipeline.encoder.tokenize(TEXTS[:1])
    condition, null = pipeline.encoder(tokens), pipeline.encoder.null_condition()
    noise = keras.random.normal((1, *pipeline.generator.space.shape), seed=7)
    for steps in (2, 4):
        expected = theirs.generate(TEXTS[:1], num_steps=steps, guidance_scale=3.0, seed=7)
        latent = pipeline.generator.generate(condition, null, {"start": noise}, steps=steps, **AS_KERAS_HUB)
        image = ops.convert_to_numpy(pipeline.decoder.decode(latent, condition, {}))
        found = np.round(np.clip((image + 1) / 2, 0, 1) * 255)
        assert np.abs(found - expected.astype(float)).max() <= 1
        assert expected.std() > 20
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 48, 3)).astype("float32")
    moments = theirs.backbone.vae.encoder(ops.convert_to_tensor(images))
    expected = (ops.convert_to_numpy(moments)[..., :4] - 0.0609) * 1.5305
    assert_close(pipeline.decoder.encode(ops.convert_to_tensor(images)), expected)


def test_lora_trains_where_keras_hubs_does_not(sd3: tuple[Any, Path]) -> None:
    """KerasHub's `enable_lora` looks for layers with names that its MMDiT does not have, and freezes everything."""
    _, folder = sd3
    pipeline = opened(folder)
    theirs = opened(folder).generator.model.network
    theirs.enable_lora(4)
    assert not theirs.trainable_weights
    layers = kgen.add_lora(pipeline, 4, targets=["generator/*/attention_qkv", "generator/*/attention_proj"])
    assert len(layers) == 7  # the last block of the text has no attention_proj
    assert len(pipeline.trainable_weights) == 14
    before = {
        path: ops.convert_to_numpy(weight) for path, weight in kgen.weight_paths(pipeline, pipeline.weights).items()
    }
    pipeline.compile(keras.optimizers.SGD(0.1))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    pipeline.train_on_batch(pipeline.inputs(images, TEXTS))
    after = {
        path: ops.convert_to_numpy(weight) for path, weight in kgen.weight_paths(pipeline, pipeline.weights).items()
    }
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert changed and all("lora_kernel_" in path for path in changed if "seed_generator" not in path)


# ---- files ----------------------------------------------------------------------------------------------------------


def test_a_saved_pipeline_holds_network_and_autoencoder(sd35: tuple[Any, Path], tmp_path: Path) -> None:
    """The encoder's weights stay in the preset, which must not be replaced by another."""
    texts, folder = (shutil.copytree(sd35[1], tmp_path / name) for name in ("texts", "folder"))
    pipeline = kgen.assemble(
        encoder={"name": "keras-hub/sd3-text", "preset": str(texts)},
        generator={"name": "keras-hub/sd3", "preset": str(folder)},
        decoder={"name": "keras-hub/sd3-vae", "preset": str(folder)},
        image_space=(32, 48, 3),
    )
    expected = pipeline.generate(TEXTS, seed=1, steps=1, **AS_KERAS_HUB)
    kgen.save(pipeline, tmp_path / "saved")
    shutil.rmtree(folder)
    np.testing.assert_array_equal(
        kgen.load(tmp_path / "saved").generate(TEXTS, seed=1, steps=1, **AS_KERAS_HUB), expected
    )
    encoder = pipeline.encoder
    encoder.save_assets(tmp_path)
    for weight in encoder.weights:
        if "t5" in weight.path:
            weight.assign(weight * 0.5)
    with pytest.raises(RunError, match="is not the one that this pipeline was trained with"):
        encoder.load_assets(tmp_path)


def test_a_t5_of_its_own(sd3: tuple[Any, Path], sentence_pieces: bytes, tmp_path: Path) -> None:
    """KerasHub's own presets have no T5."""
    import keras_hub

    keras_hub.models.T5Backbone(40, 1, 1, 4096, 4, key_value_dim=4).save_to_preset(tmp_path)
    keras_hub.tokenizers.T5Tokenizer(sentence_pieces).save_to_preset(tmp_path)
    encoder = StableDiffusion3Text(preset=str(sd3[1]), t5=str(tmp_path), t5_length=9)
    assert encoder.condition_space == ConditionSpace(12 + 9, 4096, 20)
    tokens = encoder.tokenize(TEXTS)
    sequence = ops.convert_to_numpy(encoder(tokens)["sequence"])
    given = {"encoder_token_ids": tokens["t5"], "encoder_padding_mask": np.ones_like(tokens["t5"])}
    assert_close(sequence[:, 12:], encoder._separate.text(given))
    without = StableDiffusion3Text(preset=str(sd3[1]))
    expected = ops.convert_to_numpy(without(without.tokenize(TEXTS))["sequence"])
    np.testing.assert_array_equal(sequence[:, :12], expected[:, :12])
    assert not expected[:, 12:].any()


# ---- what cannot be read --------------------------------------------------------------------------------------------


def changed(folder: Path, target: Path, **changes: Any) -> Path:
    """A copy of a preset's configuration, without its weights, and with other values; "a.b" is a key in "a"."""
    config = json.loads((folder / "config.json").read_text())
    for path, value in changes.items():
        *places, key = path.split(".")
        section = config
        for place in places:
            section = section[place]
        section[key] = value
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("class_name", "FluxBackbone", r"'class_name' must be 'StableDiffusion3Backbone', not 'FluxBackbone'"),
        ("config.adapter", 1, r"'config\.adapter': unknown"),
        ("config.num_train_timesteps", 500, r"'config\.num_train_timesteps' must be 1000, not 500"),
        ("config.latent_channels", 16, r"'config\.latent_channels' must be 4, as in the autoencoder"),
        ("config.mmdit_qk_norm", "layer_norm", r"'config\.mmdit_qk_norm' must be None or 'rms_norm'"),
        ("config.mmdit_num_heads", 3, r"does not describe a model: a width of 16 is not divisible into 3 heads"),
        (
            "config.mmdit_dual_attention_indices",
            [2],
            r"does not describe a model: dual_attention names the blocks 0 to",
        ),
        ("config.mmdit_dual_attention_indices", [True], r"must be a list of numbers of blocks, not \[True\]"),
        ("config.vae.class_name", "Other", r"'config\.vae\.class_name' must be 'VAEBackbone'"),
        ("config.vae.config.sample_channels", 7, r"sample_channels' must be even"),
        ("config.vae.config.decoder_num_filters", [32, 33], r"decoder_num_filters' must be multiples of 32"),
        ("config.vae.config.decoder_num_blocks", [1], r"filters and blocks must be lists of one length"),
        ("config.vae.config.tiles", 1, r"'config\.vae\.config\.tiles': unknown"),
    ],
)
def test_other_models_are_refused(key: str, value: Any, message: str, sd3: tuple[Any, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        Published.read(changed(sd3[1], tmp_path, **{key: value}))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("config.clip_l.config.intermediate_output_index", None, r"must be the number of a block, not None"),
        ("config.clip_l.config.num_heads", 3, r"'config\.clip_l\.config' does not describe a model"),
        ("config.clip_l.config.vocabulary_size", 9, r"the tokenizer has \d+ tokens, but the model knows 9"),
    ],
)
def test_other_texts_are_refused(key: str, value: Any, message: str, sd3: tuple[Any, Path], tmp_path: Path) -> None:
    shutil.copytree(sd3[1] / "assets", tmp_path / "assets")
    with pytest.raises(ConfigError, match=message):
        StableDiffusion3Text(preset=str(changed(sd3[1], tmp_path, **{key: value})))


def test_options_that_do_not_fit(sd3: tuple[Any, Path], sd35: tuple[Any, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no T5: leave 't5_length' out, or set 't5'"):
        StableDiffusion3Text(preset=str(sd3[1]), t5_length=9)
    with pytest.raises(ConfigError, match="has a T5: leave 't5' out"):
        StableDiffusion3Text(preset=str(sd35[1]), t5="folder")
    with pytest.raises(ConfigError, match=r"unknown preset 'stable_diffusion_3_medum'.*stable_diffusion_3_medium"):
        VAE(Space("continuous", (32, 32, 3)), preset="stable_diffusion_3_medum").latent_space  # noqa: B018
    with pytest.raises(ValueError, match="the preset has its own sizes: leave 'sizes' out"):
        MMDiT(preset="folder", sizes=MMDiTSizes())
    with pytest.raises(ValueError, match="the preset has its own sizes: leave 'sizes' out"):
        VAE(Space("continuous", (32, 32, 3)), preset="folder", sizes=VAESizes())
    generator = StableDiffusion3(SPACE, ConditionSpace(3, 8), preset=str(sd3[1]), shift=2.0)
    with pytest.raises(
        ConfigError, match=r"'config\.shift' is 3, but the option 'shift' of the generator is 2: set it"
    ):
        generator.build_pretrained()
    (folder := tmp_path / "without").mkdir()
    decoder = VAE(Space("continuous", (32, 32, 3)), preset=str(changed(sd3[1], folder)))
    with pytest.raises(ConfigError, match=r"has no weights: model\.weights\.h5 or model\.weights\.json is missing"):
        decoder.build(None)
    (folder / "model.weights.h5").write_bytes(b"half")
    with pytest.raises(ConfigError, match=r"model\.weights\.h5 cannot be read as the weights that config\.json"):
        decoder.build(None)


@pytest.mark.parametrize(
    ("space", "condition_space", "message"),
    [
        ((4, 4, 3), (24, 4096, 20), "this MMDiT reads latents with 4 channels, not 3: choose the decoder"),
        ((4, 4, 4), (24, 64, 20), "reads conditions of dimension 4096, not 64: choose the encoder"),
        ((4, 4, 4), (24, 4096, 8), "reads pooled conditions of dimension 20, not 8: choose the encoder"),
        ((5, 4, 4), (24, 4096, 20), "patches of 2 needs latents whose height and width are divisible by it"),
        ((4, 18, 4), (24, 4096, 20), r"has 8x8 positions, for latents of up to 16x16, but they are 4x18"),
        ((4, 4), (24, 4096, 20), r"continuous latents of shape \(height, width, channels\), not on 4x4 continuous"),
    ],
)
def test_latents_and_conditions_that_do_not_fit(
    space: tuple[int, ...], condition_space: tuple[int, int, int], message: str, sd3: tuple[Any, Path]
) -> None:
    with pytest.raises(SpaceError, match=message):
        latents = Space("continuous", space, bounded=False)
        StableDiffusion3(latents, ConditionSpace(*condition_space), preset=str(sd3[1])).build_pretrained()


def test_images_that_do_not_fit() -> None:
    with pytest.raises(SpaceError, match="divisible by 8, but the images are 12x16: change the size of the dataset"):
        VAE(Space("continuous", (12, 16, 3))).latent_space  # noqa: B018
    with pytest.raises(SpaceError, match=r"needs images of shape \(height, width, 3\), not 16x16x1 continuous"):
        VAE(Space("continuous", (16, 16, 1))).latent_space  # noqa: B018


def test_another_version_of_keras_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keras_hub.src.models.vae.vae_layers.VAEEncoder", None)
    monkeypatch.delattr("keras_hub.src.models.vae.vae_layers.VAEEncoder")
    with pytest.raises(PluginError, match=r"KerasHub has no VAEEncoder .* pip install 'keras-hub==0\.32\.\*'"):
        VAE(Space("continuous", (16, 16, 3))).build(None)


def test_times_are_not_rounded_in_mixed_precision() -> None:
    """In bfloat16, 999 is 1000."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = MMDiT(sizes=MMDiTSizes(**SIZES)).build(SPACE, ConditionSpace(3, 8), 3)
    finally:
        keras.config.set_dtype_policy("float32")
    layer.build((None, *SPACE.shape), {"sequence": (None, 3, 8), "pooled": (None, 8)})
    condition = {"sequence": ops.ones((2, 3, 8)), "pooled": ops.ones((2, 8))}
    made = layer(ops.ones((2, *SPACE.shape)), ops.convert_to_tensor(np.array([999, 1000], "float32")), condition)
    made = ops.convert_to_numpy(made)
    assert made.dtype == np.float32 and np.abs(made[0] - made[1]).max() > 1e-3
