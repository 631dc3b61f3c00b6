"""The decoder of CLIP's image embeddings: a diffusion model of pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import keras
from keras import ops
from kgen_plugin_diffusion.generator import Diffusion
from kgen_plugin_diffusion.guidance import NoiseInterval
from kgen_plugin_diffusion.networks import Network, UNet
from kgen_plugin_diffusion.predictions import Prediction
from kgen_plugin_diffusion.samplers import Sampler
from kgen_plugin_diffusion.schedules import Schedule
from kgen_plugin_diffusion.spacings import Spacing
from kgen_plugin_diffusion.times import LogitNormal, LogNormal, Uniform
from pydantic import Field

from kgen import ConditionSpace, Decoder, Encoder, Guidance, NoiseSpec, OneOf, SeedGenerator, Space, Steps
from kgen.options import Static
from kgen.random import per_example
from kgen_plugin_unclip.embedding import ImageEmbedding
from kgen_plugin_unclip.vectors import to_length

Tensor = Any
Condition = dict[str, Tensor]

TOKENS = 4
"""Number of positions that the embedding adds to the text's sequence (Ramesh et al. 2022, section 2.1)."""

Share = Annotated[float, Field(ge=0, lt=1)]


class EmbeddingDecoder(Decoder):
    """Decodes CLIP's embedding of an image by diffusion of pixels (unCLIP, Ramesh et al. 2022, section 2.1).

    The latent is the embedding of the image by the trained encoder, times sqrt(D), which makes the mean square of its
    numbers 1. One embedding belongs to many images: they have the same content and style, and differ in the details
    that the embedding leaves out. The noise decides between them.

    The network reads the embedding twice: it is projected and added to the embedding of the noise level, and it is
    projected to four positions that follow the text's. In training, the embedding is dropped in a share of the
    examples, which then have a learned null embedding, and the text is dropped in another share. Guidance leads away
    from the image of the null embedding without a text.

    Args:
        network: Network of the diffusion, `UNet`, `DiT` or another `diffusion.network`, with its options.
        schedule: Noise schedule: "linear", "cosine", "rectified-flow", "karras" or another `diffusion.schedule`, with
            its options.
        prediction: Target of the network: "eps", "x0", "v", "velocity", "edm" or another `diffusion.prediction`.
        times: Distribution of the times in training: uniform, logit-normal or log-normal.
        embedding_dropout: Share of the training examples without the embedding.
        text_dropout: Share of the training examples without the text.

    Raises:
        ConfigError: the encoder does not embed images.
        SpaceError: the network's stride does not divide the images.
    """

    latent_is_embedding = True
    loss_axis = Diffusion.loss_axis

    def __init__(
        self,
        image_space: Space,
        condition_space: ConditionSpace,
        encoder: Encoder,
        *,
        network: Annotated[Network, OneOf("diffusion.network")] = UNet(),  # noqa: B008 (it is frozen)
        schedule: Annotated[Schedule | str, OneOf("diffusion.schedule")] = "rectified-flow",
        prediction: Annotated[Prediction | str, OneOf("diffusion.prediction")] = "velocity",
        times: Annotated[Uniform | LogitNormal | LogNormal, Field(discriminator="kind")] = LogitNormal(),  # noqa: B008
        embedding_dropout: Share = 0.1,
        text_dropout: Share = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_space, **kwargs)
        self.network = network
        self.schedule = schedule
        self.prediction = prediction
        self.times = times
        self.embedding_dropout = embedding_dropout
        self.text_dropout = text_dropout
        policy = self.dtype_policy
        self.condition_space = condition_space
        self.embedding = ImageEmbedding(encoder, "decoder 'unclip/decoder'", name="embedding")
        self.joint_space = ConditionSpace(
            condition_space.length + TOKENS, condition_space.dim, condition_space.pooled_dim + self.embedding.dim
        )
        self.diffusion = Diffusion(
            image_space,
            self.joint_space,
            network=network,
            schedule=schedule,
            prediction=prediction,
            times=times,
            dtype=policy,
            name="diffusion",
        )
        self.to_tokens = keras.layers.Dense(TOKENS * condition_space.dim, dtype=policy, name="to_tokens")
        self.seed_generator = SeedGenerator()

    @property
    def encoder(self) -> Encoder:
        """The encoder whose image tower makes the latents."""
        return self.embedding.encoder

    @property
    def latent_space(self) -> Space:
        return Space("continuous", (self.embedding.dim,), bounded=False)

    def build(self, input_shape: None = None) -> None:
        both, dim = self.joint_space, self.embedding.dim
        self.embedding.build()
        self.to_tokens.build((None, dim))
        self.null_embedding = self.add_weight(shape=(dim,), initializer="zeros", name="null_embedding")
        shapes = {"sequence": (None, both.length, both.dim), "pooled": (None, both.pooled_dim)}
        self.diffusion.model.build((None, *self.image_space.shape), shapes)
        self.diffusion.built = True

    @property
    def inference_weights(self) -> list[Any]:
        shared = {id(weight) for weight in self.embedding.weights}
        return [weight for weight in self.weights if id(weight) not in shared]

    def encode(self, images: Tensor) -> Tensor:
        return self.embedding(images)

    # ---- the condition of the diffusion ---------------------------------------------------------------------------

    def joined(self, embedding: Tensor, condition: Condition, text: Tensor) -> Condition:
        """Joins an embedding and a text in one condition.

        Args:
            embedding: (B, D).
            condition: The text's condition.
            text: (B,), 1.0 where the text is read, and 0.0 where it is dropped.

        Returns:
            "sequence" (B, L + 4, dim), "mask" (B, L + 4), and "pooled" (B, P + D), in the space `joint_space`.
        """
        kind, text = condition["sequence"].dtype, ops.cast(text, "float32")[:, None]  # (B, 1)
        embedding = ops.cast(embedding, "float32")
        tokens = ops.reshape(self.to_tokens(embedding), (-1, TOKENS, self.condition_space.dim))
        mask = ops.cast(condition["mask"], "float32") * text  # (B, L)
        pooled = ops.cast(condition["pooled"], "float32") * text  # (B, P)
        return {
            "sequence": ops.concatenate([condition["sequence"], ops.cast(tokens, kind)], axis=1),
            "mask": ops.concatenate([mask, ops.ones_like(tokens[:, :, 0], "float32")], axis=1),
            "pooled": ops.concatenate([pooled, embedding], axis=-1),
        }

    def null(self, condition: Condition) -> Condition:
        """The joint condition of B rows without an embedding and without a text."""
        absent = ops.zeros_like(ops.cast(condition["mask"][:, 0], "float32"))  # (B,)
        return self.joined(absent[:, None] + ops.cast(self.null_embedding, "float32"), condition, absent)

    # ---- training -------------------------------------------------------------------------------------------------

    def compute_losses(self, images: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Returns the weighted squared error of the diffusion's prediction, given the embedding and the text."""
        embedding = ops.stop_gradient(self.encode(images))  # (B, D)
        text = ops.ones_like(embedding[:, 0])
        if training:
            count, null = ops.shape(embedding)[0], ops.cast(self.null_embedding, "float32")
            given = per_example(keras.random.uniform, (count, 1), self.seed_generator) >= self.embedding_dropout
            embedding = ops.where(given, embedding, null)
            kept = per_example(keras.random.uniform, (count,), self.seed_generator) >= self.text_dropout
            text = ops.cast(kept, "float32")
        return self.diffusion.compute_losses(images, self.joined(embedding, condition, text), training=training)

    # ---- sampling -------------------------------------------------------------------------------------------------

    def noise_spec(self, *, text: bool = True, **options: Any) -> Mapping[str, NoiseSpec]:
        return self.diffusion.noise_spec(**options)

    def without_text(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"text": False, **options}

    def decode(
        self,
        latent: Tensor,
        condition: Condition,
        noise: dict[str, Tensor],
        *,
        text: bool = True,
        sampler: Annotated[Sampler | str, OneOf("diffusion.sampler")] = "heun",
        steps: Steps = 20,
        spacing: Annotated[Spacing | str, OneOf("diffusion.spacing")] = "uniform",
        guidance: Guidance = 1.0,
        guidance_interval: NoiseInterval | None = None,
        guidance_rescale: Annotated[float, Field(ge=0, le=1), Static(0.0)] = 0.0,
        dynamic_threshold: Annotated[float, Field(gt=0, le=1)] | None = None,
        eta: Annotated[float, Field(ge=0, le=1), Static(0.0)] | None = None,
    ) -> Tensor:
        """Samples an image of each embedding, whose length has no effect.

        Args:
            text: Whether the text is read, too. Without it, the embedding alone decides.
            sampler: Sampler: "heun", "dpm++2m", "ddim" or another `diffusion.sampler`, with its options.
            steps: Number of sampling steps. Each of Heun's steps evaluates the network twice, except the last.
            spacing: Spacing of the times: "uniform", "quadratic" or another `diffusion.spacing`, with its options.
            guidance: Weight of classifier-free guidance by embedding and text. 1 means no guidance, at half the cost.
            guidance_interval: Noise levels at which guidance is used, low < sigma / alpha <= high. None means all.
            guidance_rescale: Share, 0 to 1, of the unguided image's contrast that is restored.
            dynamic_threshold: Quantile for `kgen.nn.threshold_dynamically`, such as 0.995. None clips to [-1, 1].
            eta: Share of fresh noise, from 0 to 1, for samplers that have one. None means the sampler's own share.
        """
        given = ops.ones_like(ops.cast(condition["mask"][:, 0], "float32")) * float(text)  # (B,)
        return self.diffusion.generate(
            self.joined(to_length(latent), condition, given),
            self.null(condition),
            noise,
            sampler=sampler,
            steps=steps,
            spacing=spacing,
            guidance=guidance,
            guidance_interval=guidance_interval,
            guidance_rescale=guidance_rescale,
            dynamic_threshold=dynamic_threshold,
            eta=eta,
        )
