"""The whole GAN: which network learns from which loss, and the conformance kit."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from keras import ops
from kgen_plugin_gan.generator import GAN

from kgen import ConditionSpace, Space, SpaceError
from kgen.testing import GeneratorConformance
from kgen.testing.execution import gradients, perturb, tensors
from kgen.testing.inputs import random_conditions, random_latents

pytestmark = pytest.mark.portable

SPACE, CONDITIONS = Space("continuous", (8, 8, 3)), ConditionSpace(4, 12)


def tiny(**options: object) -> GAN:
    return GAN(SPACE, CONDITIONS, **{"width": 8, "multipliers": (1, 2), "latent_dim": 4, "features": 8, **options})


class Conformance(GeneratorConformance):
    fit_loss: ClassVar = None  # the sum of two opposed losses does not fall
    neighbors: ClassVar = ("loss", "discriminator", "generator")  # the wrong text is another image's
    generate_options: ClassVar = ({}, {"truncation": 0.5})


@pytest.mark.backends
class TestRelativistic(Conformance):
    def build(self) -> GAN:
        return tiny()


@pytest.mark.slow  # its objective is tested by itself
class TestHinge(Conformance):
    replicas: ClassVar = False

    def build(self) -> GAN:
        return tiny(objective="hinge", spectral_norm=True, penalty=0.0)


@pytest.mark.slow
@pytest.mark.slow
class TestNonSaturating(Conformance):
    replicas: ClassVar = False

    def build(self) -> GAN:
        return tiny(objective="non-saturating", augmentation=("color", "translation", "cutout"), patch=1)


def losses(generator: GAN) -> dict[str, object]:
    batch = tensors({"x": random_latents(SPACE, 4, 0), "condition": random_conditions(CONDITIONS, 4, 0)})
    return generator.compute_losses(batch["x"], batch["condition"], True)


@pytest.mark.parametrize("objective", ["relativistic", "hinge", "non-saturating"])
def test_neither_network_learns_from_the_loss_of_the_other(objective: str) -> None:
    generator = tiny(objective=objective, augmentation=("translation",), spectral_norm=True)
    losses(generator)
    perturb(generator)

    def norms(loss: str) -> dict[str, float]:
        found = gradients(generator, lambda: ops.sum(losses(generator)[loss]))
        sums = {"generator": 0.0, "discriminator": 0.0}
        for path, gradient in found.items():
            player = "generator" if "generator" in path else "discriminator"
            sums[player] += 0.0 if gradient is None else float(np.abs(gradient).sum())
        return sums

    for loss, learner, other in (
        ("discriminator", "discriminator", "generator"),
        ("generator", "generator", "discriminator"),
    ):
        sums = norms(loss)
        assert sums[learner] > 0 and sums[other] == 0.0, (loss, sums)
    assert norms("penalty")["generator"] == 0.0 and norms("penalty")["discriminator"] > 0


def test_an_equal_text_is_not_a_mismatched_text() -> None:
    """If all texts are equal, the discriminator's relativistic loss is that of the generated images alone."""
    generator = tiny()
    x = random_latents(SPACE, 4, 0)
    condition = random_conditions(CONDITIONS, 4, 0)
    same = {name: np.repeat(value[:1], 4, axis=0) for name, value in condition.items()}
    generator.compute_losses(tensors(x), tensors(same), True)
    for layer in (generator.discriminator.realism, generator.discriminator.text):
        layer.kernel.assign(np.zeros(layer.kernel.shape))
    for given, expected in ((same, np.log(2.0)), (condition, 2 * np.log(2.0))):  # all scores are 0
        found = generator.compute_losses(tensors(x), tensors(given), True)["discriminator"]
        np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=1e-5)


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(SpaceError, match="a height and a width divisible by 8, but the latents are 12x8"):
        GAN(Space("continuous", (12, 8, 3)), CONDITIONS)
    with pytest.raises(SpaceError, match="not on 7 continuous"):
        GAN(Space("continuous", (7,)), CONDITIONS)
