"""Losses against their formulas in PyTorch, and the penalty against exact gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from keras import ops
from kgen_plugin_gan.objectives import Scores, discriminator_loss, generator_loss, gradient_penalty

RNG = np.random.default_rng(0)
REAL, FAKE, WRONG = (RNG.normal(size=6).astype("float32") for _ in range(3))
MATCHED = np.array([1, 1, 1, 0, 0, 1], "float32")


def log_sigmoid(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.logsigmoid(x)


def expected_discriminator(name: str) -> np.ndarray:
    real, fake, wrong = map(torch.tensor, (REAL, FAKE, WRONG))
    if name == "relativistic":
        loss = -log_sigmoid(real - fake) - torch.tensor(MATCHED) * log_sigmoid(real - wrong)
        return loss.numpy()
    if name == "hinge":
        positive, negative = (1 - real).clamp(min=0), [(1 + s).clamp(min=0) for s in (fake, wrong)]
    else:
        positive, negative = -log_sigmoid(real), [-log_sigmoid(-s) for s in (fake, wrong)]
    both = torch.where(torch.tensor(MATCHED) == 1, (negative[0] + negative[1]) / 2, negative[0])
    return (positive + both).numpy()


@pytest.mark.parametrize("name", ["non-saturating", "hinge", "relativistic"])
def test_discriminator_loss(name: str) -> None:
    scores = Scores(*map(ops.convert_to_tensor, (REAL, FAKE, WRONG)))
    found = ops.convert_to_numpy(discriminator_loss(name, scores, ops.convert_to_tensor(MATCHED)))
    np.testing.assert_allclose(found, expected_discriminator(name), rtol=1e-5, atol=1e-6)


def test_generator_loss() -> None:
    real, fake = map(torch.tensor, (REAL, FAKE))
    expected = {"non-saturating": -log_sigmoid(fake), "hinge": -fake, "relativistic": -log_sigmoid(fake - real)}
    for name, loss in expected.items():
        found = generator_loss(name, ops.convert_to_tensor(REAL), ops.convert_to_tensor(FAKE))
        np.testing.assert_allclose(ops.convert_to_numpy(found), loss.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.backends
def test_the_penalty_is_the_squared_gradient_on_average() -> None:
    """The discriminator is smooth, D(x) = tanh(w . x) + |x|^2 / 4, and autodiff gives its gradient."""
    w = RNG.normal(size=12)
    x = torch.tensor(RNG.normal(size=12), requires_grad=True)
    score = torch.tanh(torch.tensor(w) @ x) + (x**2).sum() / 4
    (gradient,) = torch.autograd.grad(score, x)
    distance, count = 0.01, 200_000
    noise = RNG.normal(size=(count, 12))
    points = x.detach().numpy() + distance * noise
    moved = np.tanh(points @ w) + (points**2).sum(1) / 4
    found = gradient_penalty(np.full(count, score.item()), moved, distance)
    assert float(np.mean(ops.convert_to_numpy(found))) == pytest.approx(float((gradient**2).sum()), rel=0.02)
