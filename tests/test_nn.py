"""The shared layers, against Keras's own, PyTorch's and diffusers' of the same maths."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

import kgen.nn.attention
from kgen import SeedGenerator
from kgen.nn import (
    Dropout,
    GroupNorm,
    MultiHeadAttention,
    ResidualBlock,
    TransformerBlock,
    Upsample,
    check_levels,
    cosine_schedule,
    ddim,
    depth_to_space,
    end_clean,
    grid_positions,
    sequence_positions,
    sinusoidal,
    space_to_depth,
    threshold_dynamically,
)

LAYERS = {
    "group_norm": lambda **kw: GroupNorm(4, 1e-4, **kw),
    "attention": lambda **kw: MultiHeadAttention(2, use_bias=False, output_initializer="zeros", **kw),
    "dropout": lambda **kw: Dropout(0.25, **kw),
    "upsample": lambda **kw: Upsample(6, **kw),
}


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def scramble(layer: keras.layers.Layer, seed: int = 7) -> None:
    """Gives every weight numbers of its own: zeros, ones and identities hide mistakes."""
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(0.3 * rng.standard_normal(weight.shape))


def numpy(x) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(x, "float32"))


@pytest.mark.parametrize(("channels", "groups", "count"), [(8, 4, 4), (12, 8, 6), (6, 1, 1), (7, 32, 1), (8, 32, 4)])
def test_group_norm_is_keras_group_normalization(channels, groups, count):
    x = 2.0 + 3.0 * random(3, 5, 4, channels)
    fast = GroupNorm(groups, epsilon=1e-3)
    fast.build(x.shape)
    scramble(fast)
    reference = keras.layers.GroupNormalization(count, epsilon=1e-3)
    reference.build(x.shape)
    reference.set_weights(fast.get_weights())
    np.testing.assert_allclose(numpy(fast(x)), numpy(reference(x)), atol=2e-5)
    scale, shift = random(3, channels, seed=1), random(3, channels, seed=2)
    expected = numpy(reference(x)) * (1 + scale[:, None, None]) + shift[:, None, None]
    np.testing.assert_allclose(numpy(fast(x, scale, shift)), expected, atol=5e-5)


@pytest.mark.backends
def test_group_norm_computes_in_float32():
    x = 100.0 + random(2, 8, 8, 4)
    layer = GroupNorm(2, dtype="mixed_bfloat16")
    y = layer(ops.cast(x, "bfloat16"))
    rounded = numpy(ops.cast(x, "bfloat16"))
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    np.testing.assert_allclose(numpy(y), numpy(GroupNorm(2)(rounded)), atol=0.03)


@pytest.mark.backends
@pytest.mark.parametrize("materialized", [2**20, 0], ids=["matrix", "backend"])
@pytest.mark.parametrize(("cross", "causal"), [(False, False), (False, True), (True, False)])
def test_attention_is_torch_attention(cross, causal, materialized, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(kgen.nn.attention, "MAX_MATERIALIZED", materialized)
    x, context = random(2, 5, 8), random(2, 7, 6, seed=1) if cross else None
    mask = np.array([[1, 0, 1, 1, 0, 0, 1][: 7 if cross else 5], [1] * (7 if cross else 5)], np.float32)
    layer = MultiHeadAttention(2, causal=causal)
    layer(x, context)
    scramble(layer)
    inputs = x if context is None else context
    if cross:
        q = numpy(layer.q(x))
        k, v = np.split(numpy(layer.kv(inputs)), 2, axis=-1)
    else:
        q, k, v = np.split(numpy(layer.qkv(x)), 3, axis=-1)
    heads = [torch.tensor(a).reshape(2, -1, 2, 4).transpose(1, 2) for a in (q, k, v)]
    visible = torch.tensor(mask > 0)[:, None, None].expand(2, 1, 5, -1)
    visible = visible.tril() if causal else visible
    y = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=visible)
    expected = numpy(layer.out(y.transpose(1, 2).reshape(2, 5, 8).numpy()))
    np.testing.assert_allclose(numpy(layer(x, context, key_mask=mask)), expected, atol=1e-5)


def test_causal_attention_ignores_later_positions():
    block = TransformerBlock(2, 16, causal=True)
    x = random(2, 5, 8)
    block(x)
    scramble(block)
    later = np.concatenate([x[:, :3], 50.0 * random(2, 2, 8, seed=5)], axis=1)
    y, other = numpy(block(x)), numpy(block(later))
    np.testing.assert_array_equal(other[:, :3], y[:, :3])
    assert np.abs(other[:, 3:] - y[:, 3:]).min(axis=-1).max() > 0
    earlier = np.concatenate([50.0 * random(2, 1, 8, seed=5), x[:, 1:]], axis=1)
    assert np.abs(numpy(block(earlier)) - y).max(axis=(0, 2)).min() > 1e-3  # all positions see the first


def test_attention_ignores_masked_positions():
    x, context, mask = random(2, 5, 8), random(2, 4, 6), np.array([[1, 1, 0, 0], [1, 0, 1, 1]], np.float32)
    layer = MultiHeadAttention(2)
    y = numpy(layer(x, context, key_mask=mask))
    other = np.where(mask[..., None] > 0, context, 50.0 * random(2, 4, 6, seed=5))
    np.testing.assert_array_equal(numpy(layer(x, other, key_mask=mask)), y)
    assert not np.allclose(numpy(layer(x, other)), numpy(layer(x, context)))


@pytest.mark.filterwarnings("error:You are using a softmax")  # as Keras says of a softmax over one
def test_attention_to_one_place_is_its_value():
    layer = MultiHeadAttention(2)
    layer.build((2, 5, 8), (2, 1, 6))
    scramble(layer)
    x, context = random(2, 5, 8), random(2, 1, 6, seed=1)
    names = {variable.path.split("/")[-2] for variable in layer.variables}
    assert names == {"v", "out"}  # queries and keys would have no gradient
    expected = np.repeat(numpy(layer.out(layer.v(context))), 5, axis=1)
    np.testing.assert_allclose(numpy(layer(x, context, np.ones((2, 1)))), expected, atol=1e-6)


@pytest.mark.backends
def test_attention_softmax_is_float32_in_mixed_precision():
    """In bfloat16, the weights of 4096 equal keys would not sum to 1."""
    layer = MultiHeadAttention(1, output_initializer="identity", dtype="mixed_bfloat16")
    layer.build((1, 1, 4), (1, 4096, 4))
    layer.kv.kernel.assign(np.concatenate([np.zeros((4, 4)), np.eye(4)], axis=1))
    y = layer(random(1, 1, 4), np.ones((1, 4096, 4), np.float32))
    np.testing.assert_allclose(numpy(y), 1.0, atol=1e-2)


def test_attention_refuses_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="width of 8 is not divisible into 3 heads"):
        MultiHeadAttention(3).build((None, 4, 8))


def test_causal_attention_refuses_a_context():
    with pytest.raises(ValueError, match="causal attention has no context"):
        MultiHeadAttention(2, causal=True).build((None, 4, 8), (None, 3, 8))


def test_attention_refuses_a_context_it_was_not_built_for():
    layer = MultiHeadAttention(2)
    layer(random(1, 3, 4))
    with pytest.raises(ValueError, match="either for self-attention or for a context"):
        layer(random(1, 3, 4), random(1, 2, 4))


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 1)])
def test_upsample_is_repeat_and_convolve(size):
    x = random(2, *size, 3)
    layer = Upsample(5)
    layer.build(x.shape)
    scramble(layer)
    convolution = keras.layers.Conv2D(5, 3, padding="same")
    convolution.build((None, None, None, 3))
    convolution.set_weights(layer.get_weights())
    repeated = x.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(numpy(layer(x)), numpy(convolution(repeated)), atol=1e-5)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_and_back(patch: int) -> None:
    x = random(2, 8, 8, 3)
    folded = space_to_depth(ops.convert_to_tensor(x), patch)
    assert tuple(folded.shape) == (2, 8 // patch, 8 // patch, 3 * patch**2)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(folded)[1, 0, 1].reshape(patch, patch, 3), x[1, :patch, patch : 2 * patch]
    )
    np.testing.assert_array_equal(ops.convert_to_numpy(depth_to_space(folded, patch)), x)


def test_sinusoidal_is_that_of_diffusers():
    torch, embeddings = pytest.importorskip("torch"), pytest.importorskip("diffusers.models.embeddings")
    x = np.array([0.0, 0.3, 17.0, 999.0], np.float32)
    expected = embeddings.get_timestep_embedding(
        torch.tensor(x), 64, flip_sin_to_cos=True, downscale_freq_shift=0
    ).numpy()
    np.testing.assert_allclose(numpy(sinusoidal(x, 64)), expected, atol=1e-4)


def test_grid_positions_are_those_of_diffusers():
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    expected = embeddings.get_2d_sincos_pos_embed(32, (4, 4), base_size=4, output_type="pt").numpy()
    np.testing.assert_allclose(grid_positions(4, 4, 32), expected, atol=1e-5)
    expected = embeddings.get_2d_sincos_pos_embed(32, (3, 5), base_size=4, interpolation_scale=2.5).numpy()
    np.testing.assert_allclose(grid_positions(3, 5, 32, (4 / 3 / 2.5, 4 / 5 / 2.5)), expected, atol=1e-5)
    wide = grid_positions(2, 3, 16)
    np.testing.assert_array_equal(wide[:3, :8], wide[3:, :8])  # the same columns in both rows
    np.testing.assert_array_equal(wide[:3, :8], sequence_positions(3, 8))
    assert not np.allclose(wide[:3, 8:], wide[3:, 8:])


def test_positions_refuse_odd_widths():
    with pytest.raises(ValueError, match="multiple of 4, not 6"):
        grid_positions(2, 2, 6)
    with pytest.raises(ValueError, match="even number of features, not 5"):
        sequence_positions(3, 5)


@pytest.mark.backends
def test_dropout_scales_the_values_that_stay():
    layer, x = Dropout(0.25), np.ones((100, 400), np.float32)
    first, second = numpy(layer(x, training=True)), numpy(layer(x, training=True))
    assert set(np.unique(first).round(5)) == {0.0, np.float32(4 / 3).round(5)}
    assert abs((first == 0).mean() - 0.25) < 0.02
    assert (first != second).any()
    np.testing.assert_array_equal(numpy(layer(x)), x)
    assert isinstance(layer.seed_generator, SeedGenerator)  # which differs by replica
    with pytest.raises(ValueError, match=r"in \[0, 1\), not 1"):
        Dropout(1.0)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_serialize(name):
    layer = LAYERS[name](dtype="mixed_bfloat16", name="here")
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    shape = (2, 4, 4, 8) if name != "attention" else (2, 4, 8)
    again(keras.KerasTensor((None, *shape[1:]), "float32"))  # a symbolic call builds every weight
    assert len(again.trainable_weights) == {"dropout": 0, "attention": 3}.get(name, 2)
    assert keras.backend.standardize_dtype(again(random(*shape)).dtype) == "bfloat16"


@pytest.mark.backends
def test_dynamic_thresholding() -> None:
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype("float32") * [[[[3.0]]], [[[0.1]]]]
    out = ops.convert_to_numpy(threshold_dynamically(ops.convert_to_tensor(x.astype("float32")), 0.9))
    limit = np.quantile(np.abs(x[0]), 0.9)
    np.testing.assert_allclose(out[0], np.clip(x[0], -limit, limit) / limit, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(out[1], x[1], rtol=1e-5)  # within [-1, 1] already: unchanged


# ---- residual blocks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [4, 8])
def test_residual_block_is_its_layers_of_keras(channels: int) -> None:
    x, embedding = random(2, 5, 5, 4), random(2, 6, seed=1)
    block = ResidualBlock(channels)
    block.build(x.shape, embedding.shape)
    if channels == 4:
        np.testing.assert_array_equal(numpy(block(x, embedding)), x)  # it starts as the identity
    scramble(block)
    norms = [keras.layers.GroupNormalization(min(32, count // 2), epsilon=1e-5) for count in (4, channels)]
    for norm, own, count in zip(norms, (block.norm1, block.norm2), (4, channels), strict=True):
        norm.build((None, 5, 5, count))
        norm.set_weights(own.get_weights())
    scale, shift = ops.split(block.modulation(embedding)[:, None, None], 2, axis=-1)
    h = block.conv1(ops.silu(norms[0](x)))
    h = block.conv2(ops.silu(norms[1](h) * (1 + scale) + shift))
    kept = ops.convert_to_tensor(x) if block.shortcut is None else block.shortcut(x)
    assert (block.shortcut is None) == (channels == 4)
    np.testing.assert_allclose(numpy(block(x, embedding)), numpy(h + kept), atol=1e-4)


def test_levels_of_a_unet_are_checked() -> None:
    check_levels(8, (1, 2), (0, 1), 4)
    with pytest.raises(ValueError, match="attention at level 2, but the levels of this U-Net are 0 to 1"):
        check_levels(8, (1, 2), (2,), 4)
    with pytest.raises(ValueError, match="level 1 has 16 channels, which heads of 3 do not divide"):
        check_levels(8, (1, 2), (), 3)


# ---- DDIM ------------------------------------------------------------------------------------------------------------


def test_cosine_schedule_is_that_of_nichol_and_dhariwal() -> None:
    """alpha^2 falls as f(t) of their equation 17, and alpha^2 + sigma^2 = 1."""
    t = np.linspace(0, 1, 11)
    alpha, sigma = (
        numpy(level).astype(float) for level in cosine_schedule(ops.convert_to_tensor(t, "float32"), 0.008, 1)
    )
    np.testing.assert_allclose(alpha**2, np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2, atol=1e-6)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-6)
    first, last = (numpy(level) for level in end_clean(*(ops.convert_to_tensor(x, "float32") for x in (alpha, sigma))))
    assert (first[-1], last[-1]) == (1, 0) and np.array_equal(first[:-1], alpha[:-1].astype("float32"))


@pytest.mark.backends
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_samples_a_normal_distribution(eta: float) -> None:
    """With the ideal denoiser of N(0.3, 0.5^2), many steps give the exact flow, or samples of this distribution."""
    times = 1.0 - ops.arange(201, dtype="float32") / 200
    alpha, sigma = end_clean(*cosine_schedule(times, 0.008, 0.9999))
    start, fresh = random(4000), random(200, 4000, seed=1)

    def denoise(x, i):
        a, s = ops.take(alpha, i), ops.take(sigma, i)
        return 0.3 + a * 0.25 / (a**2 * 0.25 + s**2) * (x - a * 0.3)

    noise = ops.convert_to_tensor(fresh)
    made = numpy(ddim(denoise, ops.convert_to_tensor(start), alpha, sigma, eta, lambda i: ops.take(noise, i, axis=0)))
    if eta == 0.0:
        np.testing.assert_allclose(made, 0.3 + 0.5 * start, atol=0.03)
    else:
        assert abs(np.corrcoef(made, start)[0, 1]) < 0.1
    assert made.mean() == pytest.approx(0.3, abs=0.04) and made.std() == pytest.approx(0.5, rel=0.05)
