"""The losses of the generator network and of the discriminator, per example, given the discriminator's scores."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from keras import ops

Tensor = Any

Name = Literal["non-saturating", "hinge", "relativistic"]


class Scores(NamedTuple):
    """The discriminator's scores, (B,) each: of a real image with its text, of a generated image with the same text,
    and of the real image with the text of another image."""

    real: Tensor
    fake: Tensor
    wrong: Tensor


def discriminator_loss(name: Name, scores: Scores, matched: Tensor) -> Tensor:
    """Returns the loss (B,). Generated images and images with a wrong text are negatives (Reed et al. 2016, alg. 1).

    With s for the sigmoid:
    "non-saturating": -log s(real) - (log s(-fake) + log s(-wrong)) / 2 (Goodfellow et al. 2014, equation 1).
    "hinge": max(0, 1 - real) + (max(0, 1 + fake) + max(0, 1 + wrong)) / 2 (Lim and Ye 2017).
    "relativistic": -log s(real - fake) - log s(real - wrong) (Jolicoeur-Martineau 2019; Huang et al. 2024, eq. 2).

    Args:
        matched: (B,), 1 where the wrong text differs from the image's own text, 0 where it is by chance the same.
    """
    if name == "relativistic":
        return ops.softplus(scores.fake - scores.real) + matched * ops.softplus(scores.wrong - scores.real)
    positive, negative = (
        (ops.relu(1.0 - scores.real), lambda s: ops.relu(1.0 + s))
        if name == "hinge"
        else (ops.softplus(-scores.real), ops.softplus)
    )
    share = 1.0 / (1.0 + matched)  # weight of the generated images among the negatives
    return positive + share * negative(scores.fake) + (1.0 - share) * negative(scores.wrong)


def generator_loss(name: Name, real: Tensor, fake: Tensor) -> Tensor:
    """Returns the loss (B,): "non-saturating" -log s(fake), "hinge" -fake, "relativistic" -log s(fake - real)."""
    if name == "relativistic":
        return ops.softplus(real - fake)
    return -fake if name == "hinge" else ops.softplus(-fake)


def gradient_penalty(score: Tensor, moved: Tensor, distance: float) -> Tensor:
    """Estimates the squared norm of the discriminator's gradient, without a second-order gradient.

    If e is standard normal, the expectation of (D(x + s e) - D(x))^2 / s^2 is |grad D(x)|^2 + O(s^2). This is the
    finite-difference form of R1 and R2 (Mescheder et al. 2018) that Lin et al. 2025, section 3.4, train with.

    Args:
        score, moved: D(x) and D(x + s e), (B,).
        distance: Step size s.
    """
    return ops.square((moved - score) / distance)
