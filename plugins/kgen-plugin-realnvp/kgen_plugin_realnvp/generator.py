"""The generator: a flow, the conversion between images and its input, and its likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import keras
import numpy as np
from keras import ops
from pydantic import Field

from kgen import ConditionSpace, Generator, NoiseSpec, OneOf, Samples, SeedGenerator, Space, SpaceError, fori_loop
from kgen.random import normal, per_example, uniform
from kgen_plugin_realnvp import dequantization as dq
from kgen_plugin_realnvp.bijections import Logit
from kgen_plugin_realnvp.couplings import Convolutional, Coupling

Tensor = Any
Condition = dict[str, Tensor]


class RealNVP(Generator):
    """A normalizing flow: an invertible map f from images to Gaussian noise, given a text (Dinh et al. 2017).

    It is trained by maximum likelihood, ``log p(x) = log N(f(x); 0, I) + log |det df/dx|`` (equations 2 and 3 there).
    It generates by applying the inverse of f to noise. Pixels are first dequantized and mapped by a logit.

    Args:
        coupling: Architecture of f: `Convolutional` couplings at several scales (Dinh et al.; Glow), `Transformer`
            couplings over patches (Jet), or another `realnvp.coupling`, with its options.
        dequantization: Dequantization of 8-bit images: "uniform" or "variational" (Ho et al. 2019). "none" is for
            real-valued latents, such as an autoencoder's: there is no logit, and `log_likelihood` gives log-densities.
            None means "uniform" for pixels and "none" for an autoencoder's latents.
        alpha: Margin that keeps the logit of black and white pixels finite (Dinh et al. 2017, section 4.1).
        scale_bound: Largest absolute logarithm of a coupling's scale.

    Raises:
        SpaceError: The space is not a grid of (height, width, channels), or its size does not fit the scales or patches
            of `coupling`.
    """

    likelihood = "lower bound"

    renamed: ClassVar[Mapping[str, str]] = {"draws": "samples"}

    def __init__(
        self,
        space: Space,
        condition_space: ConditionSpace,
        *,
        coupling: Annotated[Coupling, OneOf("realnvp.coupling")] = Convolutional(),  # noqa: B008 (it is frozen)
        dequantization: dq.Name | None = None,
        alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05,
        scale_bound: Annotated[float, Field(gt=0)] = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(space, condition_space, **kwargs)
        if len(space.shape) != 3:
            raise SpaceError(f"RealNVP works on (height, width, channels), not on {space}")
        if not space.bounded and dequantization not in (None, "none"):
            raise SpaceError(f"'{dequantization}' dequantization needs pixels, not {space}: leave dequantization out")
        self.coupling = coupling
        self.dequantization = dequantization
        self.alpha = alpha
        self.scale_bound = scale_bound
        self.flow = coupling.build(space, scale_bound)
        self.logit = Logit(alpha, name="logit")
        self.dequantizer = _dequantizer(dequantization or ("uniform" if space.bounded else "none"))
        self.seed_generator = SeedGenerator()
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates every weight."""
        x_shape, conditions = (None, *self.space.shape), self.condition_space
        condition_shape = {
            "sequence": (None, conditions.length, conditions.dim),
            "mask": (None, conditions.length),
            "pooled": (None, conditions.pooled_dim),
        }
        self.logit.build(x_shape)
        self.flow.build(x_shape, condition_shape)
        if self.dequantizer is not None:
            self.dequantizer.build(x_shape, condition_shape)
        self.measured = self.add_weight(
            name="measured", shape=(), initializer="zeros", trainable=False, aggregation="mean", autocast=False
        )

    # ---- training -------------------------------------------------------------------------------------------------

    def compute_losses(self, x: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Returns the negative log-likelihood in bits per dimension, and its parts: loss = prior - log_det.

        "prior" is ``-log N(f(x); 0, I)``. "log_det" is the rest: the log-determinants of f and of the logit, the volume
        of the bins, and the density of variational dequantization.

        The first call with `training` also measures the batch for `ActNorm`. Its losses do not use these statistics.
        """
        x = ops.cast(x, "float32")
        y, volume = self._enter(x, condition, self._training_noise(x))
        z, log_det = self.flow(y, condition)
        if training and self.trainable:
            self._measure(y, condition)  # for later steps, because a loss must not depend on the rest of its batch
        to_bits = 1.0 / (math.log(2.0) * self.space.size)
        prior, log_det = -dq.normal_log_density(z) * to_bits, (volume + log_det) * to_bits
        bits = prior - log_det
        return {"loss": bits, "bits_per_dimension": bits, "prior": prior, "log_det": log_det}

    def _training_noise(self, x: Tensor) -> Tensor | None:
        if self.dequantizer is None:
            return None
        draw = keras.random.uniform if self.dequantizer.noise == "uniform" else keras.random.normal
        return per_example(draw, ops.shape(x), self.seed_generator)

    def _measure(self, y: Tensor, condition: Condition) -> None:
        """Sets every `ActNorm` to the statistics of the first batch (Kingma and Dhariwal 2018, section 3.1)."""
        variables = self.flow.statistics_variables()

        def known() -> list[Tensor]:
            return [ops.convert_to_tensor(variable) for variable in variables]

        def found() -> list[Tensor]:
            statistics: list[Tensor] = []
            self.flow.measure(ops.stop_gradient(y), condition, statistics)
            return [ops.stop_gradient(statistic) for statistic in statistics]

        statistics = ops.cond(ops.convert_to_tensor(self.measured) > 0.5, known, found)
        for variable, statistic in zip(variables, statistics, strict=True):
            variable.assign(statistic)
        self.measured.assign(ops.ones(()))

    # ---- from images to the real line and back ------------------------------------------------------------------

    def _enter(self, x: Tensor, condition: Condition, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Maps images (B, H, W, C) in [-1, 1] to the flow's input, and returns the log-volume change (B,) in nats."""
        if self.dequantizer is None:
            return x, ops.zeros(())
        levels = (x + 1.0) * 127.5  # 0 to 255
        u, log_density = self.dequantizer(levels, noise, condition)
        y, log_det = self.logit((levels + u) / 256.0, condition)
        return y, log_det - log_density - self.space.size * math.log(256.0)

    def _leave(self, y: Tensor, condition: Condition) -> Tensor:
        """Maps the flow's input y back to images. The middle of a bin becomes its level; others become fractions."""
        if self.dequantizer is None:
            return y
        levels = self.logit.inverse(y, condition) * 256.0 - 0.5
        return ops.clip(levels / 127.5 - 1.0, -1.0, 1.0)

    # ---- sampling -------------------------------------------------------------------------------------------------

    def noise_spec(self, **options: Any) -> dict[str, NoiseSpec]:
        return {"latent": NoiseSpec("normal", self.space.shape)}

    def generate(
        self,
        condition: Condition,
        null_condition: Condition,
        noise: dict[str, Tensor],
        *,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
    ) -> Tensor:
        """Maps noise back to images.

        Args:
            temperature: Standard deviation of the noise. Below 1, images are more typical and less diverse (Kingma and
                Dhariwal 2018, section 6).
        """
        y = self.flow.inverse(noise["latent"] * temperature, condition)
        return self._leave(y, condition)

    def encode(self, x: Tensor, condition: Condition) -> dict[str, Tensor]:
        """Returns the noise from which `generate` makes x (B, H, W, C), as in `noise_spec`: "latent" (B, H, W, C).

        Each pixel is encoded as the middle of its bin.
        """
        x = ops.cast(x, "float32")
        if self.dequantizer is not None:
            x = self.logit(((x + 1.0) * 127.5 + 0.5) / 256.0, condition)[0]
        return {"latent": self.flow(x, condition)[0]}

    # ---- likelihood -----------------------------------------------------------------------------------------------

    def likelihood_label(self, *, samples: int = 1, **given: Any) -> str:
        """Returns "exact" without dequantization, where the density is known, and a bound for 8-bit images."""
        return "exact" if self.dequantizer is None else f"a bound of {samples} sample{'s' * (samples > 1)}"

    def log_likelihood(self, x: Tensor, condition: Condition, *, samples: Samples = 1) -> Tensor:
        """Returns a lower bound of log P(x) (B,) of 8-bit images, in nats; without dequantization, the log-density.

        The log-density is exact. The bound for 8-bit images is the logarithm of the mean of p(x + u) / q(u) over
        `samples` dequantizations (Ho et al. 2019, equation 12; Burda et al. 2016, equation 8). On average it rises with
        their number toward log P(x). Their noise comes from a fixed seed.

        Args:
            samples: Number of dequantizations.
        """
        x = ops.cast(x, "float32")
        if self.dequantizer is None:
            return self._log_density(x, condition, None)
        sample = uniform if self.dequantizer.noise == "uniform" else normal
        keys = ops.broadcast_to(ops.convert_to_tensor(np.array([[0, 1912]], np.int32)), (ops.shape(x)[0], 2))

        def add(i: Tensor, total: Tensor) -> Tensor:
            return ops.logaddexp(total, self._log_density(x, condition, sample(keys, i, self.space.shape)))

        nothing = ops.sum(ops.zeros_like(x), axis=(1, 2, 3)) - 1e30
        return fori_loop(0, samples, add, nothing) - math.log(samples)

    def _log_density(self, x: Tensor, condition: Condition, noise: Tensor | None) -> Tensor:
        y, volume = self._enter(x, condition, noise)
        z, log_det = self.flow(y, condition)
        return dq.normal_log_density(z) + log_det + volume


def _dequantizer(name: dq.Name) -> keras.layers.Layer | None:
    if name == "none":
        return None
    return (dq.UniformDequantizer if name == "uniform" else dq.VariationalDequantizer)(name="dequantizer")
