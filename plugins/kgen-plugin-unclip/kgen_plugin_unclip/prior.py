"""The diffusion prior, which generates the embedding of an image from a text."""

from __future__ import annotations

import functools
from typing import Annotated, Any

from kgen_plugin_diffusion.generator import Diffusion
from kgen_plugin_diffusion.networks import Network
from kgen_plugin_diffusion.samplers import Sampler
from kgen_plugin_diffusion.spacings import Spacing
from kgen_plugin_diffusion.times import Uniform
from pydantic import Field, PositiveInt

from kgen import ConditionSpace, Generator, Guidance, NoiseSpec, OneOf, Space, Steps
from kgen.options import Static
from kgen_plugin_unclip.candidates import best_candidate, candidate_noise
from kgen_plugin_unclip.network import CausalTransformer
from kgen_plugin_unclip.vectors import check_embeddings

Tensor = Any
Condition = dict[str, Tensor]


class Prior(Generator):
    """The diffusion prior of DALL-E 2 (Ramesh et al. 2022, section 2.2): text -> CLIP image embedding.

    A causal transformer predicts the clean embedding from a noisy one. The loss is the mean squared error of this
    prediction, whatever the noise level. The noise has the cosine schedule. Training drops a share of the texts
    (`condition_dropout` of the run), for guidance.

    The latents are embeddings of the length sqrt(D), whose numbers have a variance of about 1. Sampling scales the
    generated embeddings to this length, too. (The paper multiplies embeddings of unit length by 17.2, and samples with
    Analytic-DPM: appendix C.)

    Args:
        network: Network, `CausalTransformer` or another `diffusion.network` of vectors, with its options.

    Raises:
        SpaceError: the latents are not vectors, or "pooled" of the encoder is not a vector of the same size.
    """

    loss_axis = Diffusion.loss_axis

    def __init__(
        self,
        space: Space,
        condition_space: ConditionSpace,
        *,
        network: Annotated[Network, OneOf("diffusion.network")] = CausalTransformer(),  # noqa: B008 (it is frozen)
        **kwargs: Any,
    ) -> None:
        super().__init__(space, condition_space, **kwargs)
        check_embeddings(space, condition_space, "unclip/prior")
        self.network = network
        self.diffusion = Diffusion(
            space,
            condition_space,
            network=network,
            schedule="cosine",
            prediction="x0",
            times=Uniform(),
            dtype=self.dtype_policy,
            name="diffusion",
        )
        self.diffusion.built = True  # its first losses create the weights of its network

    def compute_losses(self, x: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Returns the mean squared error of the predicted embedding (Ramesh et al. 2022, section 2.2)."""
        return {"loss": self.diffusion.compute_losses(x, condition, training=training)["loss"]}

    def noise_spec(
        self, *, candidates: int = 2, sampler: Sampler | str = "ddpm", steps: int = 64, **options: Any
    ) -> dict[str, NoiseSpec]:
        return candidate_noise(self.diffusion.noise_spec(sampler=sampler, steps=steps, **options), candidates)

    def generate(
        self,
        condition: Condition,
        null_condition: Condition,
        noise: dict[str, Tensor],
        *,
        candidates: PositiveInt = 2,
        sampler: Annotated[Sampler | str, OneOf("diffusion.sampler")] = "ddpm",
        steps: Steps = 64,
        spacing: Annotated[Spacing | str, OneOf("diffusion.spacing")] = "uniform",
        guidance: Guidance = 1.0,
        eta: Annotated[float, Field(ge=0, le=1), Static(0.0)] | None = None,
    ) -> Tensor:
        """Generates embeddings of images, of the length sqrt(D).

        Args:
            candidates: Number of embeddings that are generated for each image. The one with the largest dot product
                with the embedding of the text is returned. Each has noise of its own.
            sampler: Sampler: "ddpm", "heun", "dpm++2m" or another `diffusion.sampler`, with its options.
            steps: Number of sampling steps.
            spacing: Spacing of the times: "uniform", "quadratic" or another `diffusion.spacing`, with its options.
            guidance: Weight of classifier-free guidance. 1 means no guidance, at half the cost.
            eta: Share of fresh noise, from 0 to 1, for samplers that have one. None means the sampler's own share.
        """
        generate = functools.partial(
            self.diffusion.generate, sampler=sampler, steps=steps, spacing=spacing, guidance=guidance, eta=eta
        )
        names = self.diffusion.noise_spec(sampler=sampler)
        return best_candidate(generate, condition, null_condition, noise, names, candidates)
