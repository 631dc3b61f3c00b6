"""The networks, and a comparison with those of diffusers with the same weights."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import keras
import numpy as np
import pydantic
import pytest
from keras import ops
from kgen_plugin_diffusion.networks import DiT, UNet
from kgen_plugin_diffusion.networks.dit import DiTBlock

from kgen import ConditionSpace, OneOf, Space, SpaceError

pytestmark = pytest.mark.portable

SPACE, CONDITION = Space("continuous", (8, 12, 3)), ConditionSpace(5, 6, 7)
NETWORKS = {
    "unet": UNet(width=8, multipliers=(1, 2), blocks=1, attention=(1,), head_dim=8, dropout=0.1),
    "dit": DiT(patch=4, width=16, depth=2, heads=2, mlp_ratio=2.0, dropout=0.1),
}

EAGERLY = keras.backend.backend() == "tensorflow"
"""Whether a single training step runs eagerly: on TensorFlow, tracing its graph takes far longer."""


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def inputs(batch: int = 3, space: Space = SPACE) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    mask = np.ones((batch, CONDITION.length), np.float32)
    mask[0, 2:] = 0
    condition = {"sequence": random(batch, CONDITION.length, CONDITION.dim, seed=1), "mask": mask}
    condition["pooled"] = random(batch, CONDITION.pooled_dim, seed=2)
    return random(batch, *space.shape), np.linspace(0.5, 999.0, batch).astype(np.float32), condition


def scramble(layer: keras.layers.Layer, seed: int = 7) -> None:
    """Sets every weight to random numbers, because weights that start at zero hide mistakes."""
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        fan_in = max(1, int(np.prod(weight.shape[:-1])))
        weight.assign(rng.standard_normal(weight.shape) * min(0.3, fan_in**-0.5))


@functools.cache
def _built(name: str, precision: str) -> tuple[keras.layers.Layer, list[np.ndarray]]:
    layer = NETWORKS[name].build(SPACE, CONDITION, 2)
    layer(*inputs())
    return layer, layer.get_weights()


def built(name: str) -> keras.layers.Layer:
    """Returns the network that all tests share, with its initial weights."""
    layer, weights = _built(name, keras.config.dtype_policy().name)
    layer.set_weights(weights)
    return layer


def numpy(x) -> np.ndarray:
    return ops.convert_to_numpy(x)


@pytest.fixture
def bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("name", NETWORKS)
def test_starts_at_zero_with_the_shape_of_the_space(name):
    y = built(name)(*inputs(), training=True)
    assert tuple(y.shape) == (3, 8, 12, 2)
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    np.testing.assert_array_equal(numpy(y), 0.0)


class Regression(keras.Model):
    def __init__(self, network: keras.layers.Layer) -> None:
        super().__init__()
        self.network = network

    def call(self, batch, training=False):
        return self.network(batch["x"], batch["level"], batch["condition"], training=training)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_learns(name):
    """One step of plain gradient descent moves every weight, so that each has a gradient, and none is created late."""
    network = built(name)
    scramble(network)
    before = [numpy(w).copy() for w in network.trainable_weights]
    model = Regression(network)
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse", jit_compile=False, run_eagerly=EAGERLY)
    x, level, condition = inputs()
    model.train_on_batch({"x": x, "level": level, "condition": condition}, random(3, 8, 12, 2, seed=4))
    assert len(before) == len(network.trainable_weights) > 20
    still = [w.path for w, b in zip(network.trainable_weights, before, strict=True) if np.allclose(numpy(w), b, atol=0)]
    assert not still


@pytest.mark.parametrize("name", NETWORKS)
def test_every_input_matters_except_masked_text(name):
    network = built(name)
    scramble(network)
    x, level, condition = inputs()
    y = numpy(network(x, level, condition))
    padding = (condition["mask"] == 0)[..., None]
    masked = {**condition, "sequence": np.where(padding, 9.0, condition["sequence"]).astype(np.float32)}
    np.testing.assert_array_equal(numpy(network(x, level, masked)), y)
    seen = {**condition, "sequence": np.where(padding, condition["sequence"], 9.0).astype(np.float32)}
    pooled = {**condition, "pooled": condition["pooled"] + 1.0}
    for other in ((x + 1.0, level, condition), (x, level + 9.0, condition), (x, level, seen), (x, level, pooled)):
        difference = np.abs(numpy(network(*other)) - y).reshape(3, -1).max(1)
        assert difference.min() > 1e-3, difference


@pytest.mark.parametrize("name", NETWORKS)
def test_examples_do_not_see_one_another(name):
    network = built(name)
    scramble(network)
    x, level, condition = inputs()
    alone = network(x[1:2], level[1:2], {k: v[1:2] for k, v in condition.items()})
    np.testing.assert_allclose(numpy(network(x, level, condition))[1:2], numpy(alone), atol=2e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_only_in_training(name):
    network = built(name)
    scramble(network)
    args = inputs()
    np.testing.assert_array_equal(numpy(network(*args)), numpy(network(*args, training=False)))
    assert np.abs(numpy(network(*args, training=True)) - numpy(network(*args, training=True))).max() > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_symbolic_call_builds_and_layer_serializes(name):
    network = built(name)
    again = type(network).from_config(network.get_config())
    x, level, condition = inputs()
    symbols = [keras.KerasTensor((None, *a.shape[1:])) for a in (x, level)]
    y = again(*symbols, {k: keras.KerasTensor((None, *v.shape[1:])) for k, v in condition.items()})
    assert tuple(y.shape) == (None, 8, 12, 2)
    assert [w.shape for w in again.weights] == [w.shape for w in network.weights]
    scramble(network)
    again.set_weights(network.get_weights())
    np.testing.assert_allclose(numpy(again(x, level, condition)), numpy(network(x, level, condition)), atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_mixed_precision(name, bfloat16):
    """Near the float32 network's output; and noise levels that bfloat16 cannot tell apart make a difference."""
    network = built(name)
    scramble(network)
    x, level, condition = inputs()
    y = numpy(network(x, level, condition))
    assert y.dtype == np.float32
    keras.config.set_dtype_policy("float32")
    reference = built(name)
    reference.set_weights(network.get_weights())
    expected = numpy(reference(x, level, condition))
    assert np.abs(y - expected).max() < 0.05 * np.abs(expected).max() + 0.02
    assert (
        np.abs(numpy(network(x, level * 0 + 996.0, condition)) - numpy(network(x, level * 0 + 997.0, condition))).max()
        > 0
    )


@pytest.mark.parametrize(
    ("network", "space", "message"),
    [
        (
            UNet(),
            Space("continuous", (32, 30, 3)),
            "U-Net with 3 levels .* divisible by 4, but the latents are 32x30: .* 4,",
        ),
        (DiT(patch=8), Space("continuous", (36, 32, 3)), "DiT with patches of 8 .* latents are 36x32.* another patch"),
        (DiT(), Space("continuous", (64,)), r"\(height, width, channels\), not on 64 continuous"),
        (UNet(), Space("tokens", (8, 8, 1), 512), "continuous latents .* not on 8x8x1 tokens of 512"),
    ],
)
def test_refuses_spaces_by_name(network, space, message):
    with pytest.raises(SpaceError, match=message):
        network.build(space, CONDITION, 3)


def test_options_come_from_plain_data():
    adapter = pydantic.TypeAdapter(Annotated[Any, OneOf("diffusion.network")])
    assert adapter.validate_python({"kind": "dit", "width": 96, "heads": 3}) == DiT(width=96, heads=3)
    assert adapter.validate_python({"kind": "unet", "multipliers": [1, 2], "attention": [1]}) == UNet(
        multipliers=(1, 2), attention=(1,)
    )
    for wrong, message in [
        ({"kind": "unet", "attention": [5]}, "attention at level 5, .* 0 to 2"),
        ({"kind": "unet", "head_dim": 48}, "level . has 128 channels, which heads of 48 do not divide"),
        ({"kind": "dit", "heads": 5}, "width of 192 is not divisible into 5 heads"),
        ({"kind": "dit", "dropout": 1.0}, "less than 1"),
        ({"kind": "resnet"}, "unknown diffusion.network 'resnet': did you mean 'unet'"),
    ]:
        with pytest.raises(pydantic.ValidationError, match=message):
            adapter.validate_python(wrong)


def test_dit_block_starts_as_the_identity():
    x, embedding, sequence, mask = random(2, 6, 8), random(2, 8, seed=1), random(2, 4, 5, seed=2), np.ones((2, 4), "f")
    np.testing.assert_array_equal(numpy(DiTBlock(2)(x, embedding, sequence, mask)), x)


# ---- equality with diffusers ----------------------------------------------------------------------------------------


def copy_dense(layer: keras.layers.Dense, *sources) -> None:
    """Copies the weights of one or more linear layers (or 1x1 convolutions), concatenated."""
    kernel = np.concatenate([s.weight.detach().numpy().reshape(s.weight.shape[:2]).T for s in sources], axis=1)
    layer.set_weights(
        [kernel] + ([np.concatenate([s.bias.detach().numpy() for s in sources])] if layer.use_bias else [])
    )


def copy_convolution(layer: keras.layers.Layer, source) -> None:
    """Flips the kernel in both axes. With stride 2 and an even size, PyTorch pads before the first pixel and TensorFlow
    after the last one, so one network is the mirror image of the other."""
    kernel = source.weight.detach().numpy().transpose(2, 3, 1, 0)[::-1, ::-1]
    layer.set_weights([kernel, source.bias.detach().numpy()])


def copy_norm(layer: keras.layers.Layer, source) -> None:
    layer.set_weights([source.weight.detach().numpy(), source.bias.detach().numpy()])


def copy_attention(layer, source) -> None:
    if layer.self_attention:
        copy_dense(layer.qkv, source.to_q, source.to_k, source.to_v)
    else:
        copy_dense(layer.q, source.to_q)
        copy_dense(layer.kv, source.to_k, source.to_v)
    copy_dense(layer.out, source.to_out[0])


def copy_embedding(layer, level, pooled) -> None:
    copy_dense(layer.level_in, level.linear_1)
    copy_dense(layer.level_out, level.linear_2)
    copy_dense(layer.pooled_in, pooled.linear_1)
    copy_dense(layer.pooled_out, pooled.linear_2)


def copy_residual(layer, source) -> None:
    copy_norm(layer.norm1, source.norm1)
    copy_convolution(layer.conv1, source.conv1)
    copy_dense(layer.modulation, source.time_emb_proj)
    copy_norm(layer.norm2, source.norm2)
    copy_convolution(layer.conv2, source.conv2)
    if source.conv_shortcut is not None:
        copy_dense(layer.shortcut, source.conv_shortcut)


def copy_transformer(layer, source) -> None:
    inner = source.transformer_blocks[0]
    copy_norm(layer.norm, source.norm)
    copy_dense(layer.inwards, source.proj_in)
    for norm in ("norm1", "norm2", "norm3"):
        copy_norm(getattr(layer, norm), getattr(inner, norm))
    copy_attention(layer.self_attention, inner.attn1)
    copy_attention(layer.cross_attention, inner.attn2)
    copy_dense(layer.hidden, inner.ff.net[0].proj)
    copy_dense(layer.shrink, inner.ff.net[2])
    copy_dense(layer.outwards, source.proj_out)


def copy_level(blocks, source) -> None:
    for i, block in enumerate(blocks):
        copy_residual(block.residual, source.resnets[i])
        if block.transformer is not None:
            copy_transformer(block.transformer, source.attentions[i])


def test_unet_is_that_of_diffusers():
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(
        sample_size=(8, 12),
        in_channels=3,
        out_channels=2,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=CONDITION.dim,
        attention_head_dim=2,  # diffusers's name for the number of heads
        resnet_time_scale_shift="scale_shift",
        class_embed_type="projection",
        projection_class_embeddings_input_dim=CONDITION.pooled_dim,
        use_linear_projection=True,
    ).eval()
    for parameter in theirs.parameters():  # their norms start as 1 and 0, which would hide a mistake
        parameter.data += 0.05 * torch.randn(parameter.shape)
    ours = UNet(width=64, multipliers=(1, 2), blocks=1, attention=(1,), head_dim=64).build(SPACE, CONDITION, 2)
    x, level, condition = inputs()
    ours(x, level, condition)
    assert sum(np.prod(w.shape) for w in ours.weights) == sum(p.numel() for p in theirs.parameters())

    copy_embedding(ours.embedding, theirs.time_embedding, theirs.class_embedding)
    copy_convolution(ours.conv_in, theirs.conv_in)
    for i in range(2):
        copy_level(ours.down[i : i + 1], theirs.down_blocks[i])
        copy_level(ours.up[2 * i : 2 * i + 2], theirs.up_blocks[i])
    copy_convolution(ours.downsample[0], theirs.down_blocks[0].downsamplers[0].conv)
    copy_convolution(ours.upsample[0], theirs.up_blocks[0].upsamplers[0].conv)
    copy_residual(ours.middle_in.residual, theirs.mid_block.resnets[0])
    copy_transformer(ours.middle_in.transformer, theirs.mid_block.attentions[0])
    copy_residual(ours.middle_out.residual, theirs.mid_block.resnets[1])
    copy_norm(ours.norm_out, theirs.conv_norm_out)
    copy_convolution(ours.conv_out, theirs.conv_out)

    with torch.no_grad():
        expected = theirs(
            torch.tensor(x).permute(0, 3, 1, 2),
            torch.tensor(level),
            torch.tensor(condition["sequence"]),
            class_labels=torch.tensor(condition["pooled"]),
            encoder_attention_mask=torch.tensor(condition["mask"]),
        ).sample.permute(0, 2, 3, 1)
    y = numpy(ours(np.ascontiguousarray(x[:, ::-1, ::-1]), level, condition))[:, ::-1, ::-1]
    assert expected.std() > 0.1
    np.testing.assert_allclose(y, expected.numpy(), atol=1e-4)


def test_dit_block_is_that_of_diffusers():
    torch, attention = pytest.importorskip("torch"), pytest.importorskip("diffusers.models.attention")
    torch.manual_seed(0)
    theirs = attention.BasicTransformerBlock(
        8,
        2,
        4,
        cross_attention_dim=5,
        attention_bias=True,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_zero",
        num_embeds_ada_norm=1,
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    ).eval()

    class Given(torch.nn.Module):
        def forward(self, timestep, class_labels, hidden_dtype=None):
            return timestep

    theirs.norm1.emb = Given()
    for parameter in theirs.parameters():
        parameter.data = 0.4 * torch.randn(parameter.shape)
    x, embedding, sequence = random(2, 6, 8), random(2, 8, seed=1), random(2, 4, 5, seed=2)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1]], np.float32)
    ours = DiTBlock(2)
    activated = embedding / (1 + np.exp(-embedding))  # a DiTBlock is given SiLU of the embedding
    ours(x, activated, sequence, mask)
    copy_dense(ours.modulation, theirs.norm1.linear)
    copy_attention(ours.self_attention, theirs.attn1)
    copy_attention(ours.cross_attention, theirs.attn2)
    copy_dense(ours.expand, theirs.ff.net[0].proj)
    copy_dense(ours.shrink, theirs.ff.net[2])
    with torch.no_grad():
        expected = theirs(
            torch.tensor(x),
            encoder_hidden_states=torch.tensor(sequence),
            encoder_attention_mask=torch.tensor((1 - mask) * -1e4)[:, None],
            timestep=torch.tensor(embedding),
        )
    np.testing.assert_allclose(numpy(ours(x, activated, sequence, mask)), expected.numpy(), atol=1e-4)
