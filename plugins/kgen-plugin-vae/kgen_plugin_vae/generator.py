"""The generator: an encoder, a decoder, and the bound that trains them."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import keras
import numpy as np
from keras import ops
from pydantic import Field, NonNegativeInt, PositiveInt

from kgen import ConditionSpace, Generator, NoiseSpec, OneOf, Samples, SeedGenerator, Space, SpaceError
from kgen.random import normal, per_example, uniform
from kgen_plugin_vae.bound import importance_weighted_bound
from kgen_plugin_vae.latents import total_kl
from kgen_plugin_vae.networks import Network
from kgen_plugin_vae.networks.bottom_up import BottomUp
from kgen_plugin_vae.networks.levels import Prior
from kgen_plugin_vae.networks.top_down import TopDown
from kgen_plugin_vae.observations import Gaussian, Logistic, Observation

Tensor = Any
Condition = dict[str, Tensor]

LIKELIHOOD_KEY = (0, 83)


class VAE(Generator):
    """A variational autoencoder, which generates in one pass through its decoder (Kingma and Welling 2014).

    Encoder, decoder and prior are conditioned on the text (Sohn et al. 2015, equation 4). With one level of latents, a
    vector, this is the plain model. With more, it is hierarchical: each further level is a map, the first at the lowest
    resolution and each next at twice that of the one before, and its prior and posterior depend on the levels before
    (Sonderby et al. 2016; Vahdat and Kautz 2020; Child 2021).

    Args:
        network: Size of encoder and decoder.
        observation: Distribution p(image | latents): `Logistic`, `Gaussian`, `Bernoulli` or another `vae.observation`,
            with its options. None means `Logistic` for pixels, and ``Gaussian(pixels=False)`` for an autoencoder's
            latents.
        levels: Number of levels of latents, at most one more than the network has stages.
        vector: Number of latents of the first level.
        channels: Number of latents per pixel of each further level.
        prior: Prior of the latents: "standard" is N(0, I); "learned" is normal, with a mean and a deviation that the
            decoder computes from the text and the levels before.
        beta: Weight of the KL divergence in training. 1 gives the ELBO; more makes the latents carry less information
            and keeps them closer to the prior (Higgins et al. 2017).
        beta_warmup: Number of training steps in which beta rises from 0 to its value (Sonderby et al. 2016, section
            2.3).
        free_bits: Nats per channel of latents that cost nothing, see `total_kl`.

    Raises:
        SpaceError: The space is not a grid of (height, width, channels), or the network's stride does not divide it, or
            the network has fewer stages than `levels` needs.
    """

    likelihood = "lower bound"
    accepts: ClassVar[tuple[str, ...]] = ("continuous",)

    def __init__(
        self,
        space: Space,
        condition_space: ConditionSpace,
        *,
        network: Network = Network(),  # noqa: B008 (it is frozen)
        observation: Annotated[Observation, OneOf("vae.observation")] | None = None,
        levels: PositiveInt = 1,
        vector: PositiveInt = 64,
        channels: PositiveInt = 8,
        prior: Prior = "learned",
        beta: Annotated[float, Field(ge=0)] = 1.0,
        beta_warmup: NonNegativeInt = 0,
        free_bits: Annotated[float, Field(ge=0)] = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(space, condition_space, **kwargs)
        network.check(space)
        if levels > network.stages + 1:
            raise SpaceError(
                f"{levels} levels of latents need {levels - 1} stages, but the network has {network.stages}: "
                "use fewer levels, or more multipliers"
            )
        self.network = network
        self.observation = observation
        self._observation = _observation(observation, space)
        self.levels = levels
        self.vector = vector
        self.channels = channels
        self.prior = prior
        self.beta = beta
        self.beta_warmup = beta_warmup
        self.free_bits = free_bits
        self.bottom_up = BottomUp(network, space, name="bottom_up")
        sizes = (vector, *(channels for _ in range(levels - 1)))
        initial = self._observation.initial(space.shape[-1])
        self.top_down = TopDown(network, space, sizes, prior, initial, self._observation.shared, name="top_down")
        self.latent_shapes = tuple(self.top_down.latent_shapes())
        self.seed_generator = SeedGenerator()
        if beta_warmup:
            self.step = self.add_weight(
                name="step",
                shape=(),
                initializer="zeros",
                dtype="int32",
                trainable=False,
                aggregation="only_first_replica",
            )

    # ---- training -------------------------------------------------------------------------------------------------

    def compute_losses(self, x: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Returns the negative ELBO (Kingma and Welling 2014, equation 7), with one sample of the latents.

        Returns:
            (B,) each. "reconstruction", -log p(x | z), and "kl", KL(q(z | x) || p(z)), are in nats per image. "loss" is
            their sum, with beta and free bits, in bits per dimension.
        """
        x = ops.cast(x, "float32")
        count = ops.shape(x)[0]
        draw, seed = keras.random.normal, self.seed_generator
        noise = [per_example(draw, (count, *shape), seed) for shape in self.latent_shapes]
        parameters, latents = self.top_down(noise, condition, self.bottom_up(x, condition))
        if self._observation.dither:
            x = x + self._observation.dither * (per_example(keras.random.uniform, ops.shape(x), seed) - 0.5)
        reconstruction = -self._observation.log_prob(parameters, x)
        kl = total_kl(latents)
        cost = total_kl(latents, self.free_bits) if self.free_bits else kl
        loss = (reconstruction + self._beta(training) * cost) / (math.log(2.0) * self.space.size)
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl}

    def _beta(self, training: bool) -> Tensor | float:
        """Returns beta at this training step, and counts the step. Outside training, returns the final beta."""
        if not self.beta_warmup or not training:
            return self.beta
        share = ops.cast(self.step, "float32") / self.beta_warmup
        if self.trainable:
            self.step.assign_add(1)
        return self.beta * ops.minimum(share, 1.0)

    # ---- sampling -------------------------------------------------------------------------------------------------

    def noise_spec(self, **options: Any) -> dict[str, NoiseSpec]:
        latents = {f"level{i}": NoiseSpec("normal", shape) for i, shape in enumerate(self.latent_shapes)}
        return latents | ({"observation": NoiseSpec("key")} if options.get("observe") == "sample" else {})

    def generate(
        self,
        condition: Condition,
        null_condition: Condition,
        noise: dict[str, Tensor],
        *,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        observe: Literal["mean", "mode", "sample"] = "mean",
    ) -> Tensor:
        """Generates images from latents of the prior.

        Args:
            temperature: Factor on the prior's standard deviations.
            observe: Image to take from p(image | latents): its "mean", its "mode" (the location of the heaviest
                component; black or white for Bernoulli), or a "sample", which includes the noise of every pixel.
        """
        latents = [temperature * noise[f"level{i}"] for i in range(self.levels)]
        parameters, _ = self.top_down(latents, condition)
        if observe == "sample":
            return self._observation.sample(parameters, noise["observation"])
        return getattr(self._observation, observe)(parameters)

    def encode(self, x: Tensor, condition: Condition) -> dict[str, Tensor]:
        """Returns the means of the posteriors, each given the means before it, as noise for `generate`.

        In these coordinates the prior is N(0, I). ``generate(condition, null_condition, encode(x, condition))``
        reconstructs x. Another condition renders another text with the same latents. Latents can be interpolated.

        Returns:
            "level0" (B, vector), and for every further level (B, h, w, channels).
        """
        x = ops.cast(x, "float32")
        nothing = [ops.zeros((ops.shape(x)[0], *shape)) for shape in self.latent_shapes]
        _, latents = self.top_down(nothing, condition, self.bottom_up(x, condition))
        return {f"level{i}": latent.shift for i, latent in enumerate(latents)}

    # ---- likelihood -----------------------------------------------------------------------------------------------

    def likelihood_label(self, *, samples: int = 1, **given: Any) -> str:
        """Returns the label of the bound, which for Bernoulli observations names black-and-white images."""
        bound = f"a bound of {samples} sample{'s' * (samples > 1)}"
        kind = self._observation.likelihood_of
        return f"{bound}, of {kind} images" if kind else bound

    def log_likelihood(self, x: Tensor, condition: Condition, *, samples: Samples = 1) -> Tensor:
        """Returns a lower bound (B,), in nats, of log p(x) under `observation`, by default of 8-bit images.

        Args:
            samples: Number of samples of the latents. With 1 this is the ELBO, whose KL divergence has a closed form.
                With more, it is the importance-weighted bound, see `importance_weighted_bound`. Its time grows with
                their number, but not its memory.
        """
        x = ops.cast(x, "float32")
        features = self.bottom_up(x, condition)
        keys = ops.broadcast_to(ops.convert_to_tensor(np.array([LIKELIHOOD_KEY], np.int32)), (ops.shape(x)[0], 2))

        def log_weight(k: Tensor) -> Tensor:
            sample = k * (self.levels + 1)  # first counter of this sample: one per level, and one for the dither
            noise = [normal(keys, sample + i, shape) for i, shape in enumerate(self.latent_shapes)]
            parameters, latents = self.top_down(noise, condition, features)
            dither = self._observation.dither * (uniform(keys, sample + self.levels, self.space.shape) - 0.5)
            log_prob = self._observation.log_prob(parameters, x + dither if self._observation.dither else x)
            if samples == 1:
                return log_prob - total_kl(latents)
            return log_prob + sum(latent.log_prior_over_posterior() for latent in latents)

        return importance_weighted_bound(log_weight, samples)


def _observation(asked: Observation | None, space: Space) -> Observation:
    """Returns the observation model, by default one that fits the space."""
    if asked is None:
        return Logistic() if space.bounded else Gaussian(pixels=False)
    if not space.bounded and asked.pixels:
        raise SpaceError(
            f"observation {type(asked).__name__} needs pixels, but the latents are {space}: leave observation out, or "
            "use {kind: gaussian, pixels: false}"
        )
    return asked
