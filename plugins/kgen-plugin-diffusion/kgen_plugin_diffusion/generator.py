"""The generator: a network, a noise schedule, a prediction target, and sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import keras
from keras import ops
from pydantic import Field

from kgen import (
    ConditionSpace,
    Generator,
    Guidance,
    Guide,
    GuideModel,
    LossAxis,
    NoiseSpec,
    OneOf,
    SeedGenerator,
    Space,
    Steps,
    Strength,
    part,
    record_levels,
    show_step,
)
from kgen.nn import threshold_dynamically
from kgen.options import Static, is_static, plain
from kgen.random import normal, per_example
from kgen_plugin_diffusion import weightings
from kgen_plugin_diffusion.bound import END_LOG_SNR, variational_bound
from kgen_plugin_diffusion.guidance import NoiseInterval, is_inside, lead_away
from kgen_plugin_diffusion.networks import ChecksSpace, DiT, Network, Pretrained
from kgen_plugin_diffusion.predictions import Noise, Prediction
from kgen_plugin_diffusion.samplers import Denoise, Sampler, takes_eta, time_grid
from kgen_plugin_diffusion.schedules import Karras, Schedule
from kgen_plugin_diffusion.spacings import Spacing
from kgen_plugin_diffusion.times import LogitNormal, LogNormal, Uniform

Tensor = Any
Condition = dict[str, Tensor]


class Diffusion(Generator):
    """A diffusion model, which learns to remove noise and generates by removing it step by step (Ho et al. 2020).

    The defaults are flow matching with a transformer: straight paths from noise to image (Liu et al. 2022), velocity
    prediction, logit-normal times (Esser et al. 2024). Ho et al.'s DDPM is ``network={"kind": "unet"},
    schedule="linear", prediction="eps", times={"kind": "uniform"}``; Karras et al.'s EDM is ``schedule="karras",
    prediction="edm", times={"kind": "log-normal"}``.

    Args:
        network: Network, `UNet`, `DiT` or another `diffusion.network`, with its options.
        schedule: Noise schedule: "linear", "cosine", "rectified-flow", "karras", "discrete" (of published models) or
            another `diffusion.schedule`, with its options.
        prediction: Target of the network: "eps", "x0", "v", "velocity", "edm" or another `diffusion.prediction`.
        weighting: Weighting of noise levels in the loss: "uniform", "snr" or "min-snr".
        gamma: Largest signal-to-noise ratio for "min-snr". None means 5 (Hang et al. 2023).
        times: Distribution of the times in training: uniform, logit-normal or log-normal.
        sigma_data: Standard deviation of the latents, for "edm". None means 0.5 for pixels and 1 for an autoencoder's
            latents.

    Raises:
        SpaceError: The network cannot work in the space: see `Network.check`. The networks "unet" and "dit" need a grid
            of (height, width, channels), whose height and width their stride divides.
    """

    likelihood = "lower bound"
    loss_axis = LossAxis("t", 0.0, 1.0)

    def __init__(
        self,
        space: Space,
        condition_space: ConditionSpace,
        *,
        network: Annotated[Network, OneOf("diffusion.network")] = DiT(),  # noqa: B008 (it is frozen)
        schedule: Annotated[Schedule | str, OneOf("diffusion.schedule")] = "rectified-flow",
        prediction: Annotated[Prediction | str, OneOf("diffusion.prediction")] = "velocity",
        weighting: weightings.Name = "uniform",
        gamma: Annotated[float, Field(gt=0)] | None = None,
        times: Annotated[Uniform | LogitNormal | LogNormal, Field(discriminator="kind")] = LogitNormal(),  # noqa: B008
        sigma_data: Annotated[float, Field(gt=0)] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(space, condition_space, **kwargs)
        if gamma is not None and weighting != "min-snr":
            raise ValueError(
                f"gamma is an option of weighting 'min-snr', and '{weighting}' would ignore it: leave gamma out"
            )
        self._schedule: Schedule = part("diffusion.schedule", schedule)
        self._prediction: Prediction = part("diffusion.prediction", prediction)
        if isinstance(times, LogNormal) and not isinstance(self._schedule, Karras):
            raise ValueError("times 'log-normal' work only with schedule 'karras': change times or schedule")
        if isinstance(self._prediction, Noise) and float(self._schedule.alpha(ops.ones(()))) == 0.0:
            raise ValueError(
                "prediction 'eps' says nothing about the image at time 1 of this schedule, which is pure noise: choose "
                "prediction 'v' or 'velocity', or another schedule"
            )
        if sigma_data is not None and not self._prediction.scaled:
            raise ValueError(
                f"sigma_data is an option of prediction 'edm', and '{prediction}' would ignore it: leave sigma_data out"
            )
        network.check(space)
        self.network = network
        self.schedule = schedule
        self.prediction = prediction
        self.weighting = weighting
        self.gamma = gamma
        self.times = times
        self.sigma_data = sigma_data
        self._sigma_data = sigma_data or (0.5 if space.bounded else 1.0)
        self.model = network.build(space, condition_space, space.shape[-1])
        self.seed_generator = SeedGenerator()

    def check_space(self, space: Space) -> None:
        """Raises SpaceError if the network supports only one shape, or if its stride does not divide this one."""
        if not getattr(self.network, "any_shape", False):
            super().check_space(space)
        self.network.check(space)
        if isinstance(self.model, ChecksSpace):
            self.model.check_space(space)

    # ---- files ----------------------------------------------------------------------------------------------------

    def build_pretrained(self) -> None:
        if isinstance(self.model, Pretrained):
            space = self.condition_space
            condition = {
                "sequence": (None, space.length, space.dim),
                "mask": (None, space.length),
                "pooled": (None, space.pooled_dim),
            }
            self.model.build((None, *self.space.shape), condition)

    def save_assets(self, path: str | Path) -> None:
        if isinstance(self.model, Pretrained):
            self.model.save_assets(path)

    def load_assets(self, path: str | Path) -> None:
        if isinstance(self.model, Pretrained):
            self.model.load_assets(path)

    # ---- training -------------------------------------------------------------------------------------------------

    def compute_losses(self, x: Tensor, condition: Condition, training: bool) -> dict[str, Tensor]:
        """Returns the weighted squared error of the prediction at one time per example (Ho et al. 2020, eq. 14).

        The levels of the loss are the times t, from 0 (the image) to 1 (noise).
        """
        x = ops.cast(x, "float32")
        count = ops.shape(x)[0]
        t = self.times.sample(count, self.seed_generator)  # (B,)
        eps = per_example(keras.random.normal, ops.shape(x), self.seed_generator)
        sigma_t = self._schedule.sigma(t)
        axes = tuple(range(1, len(x.shape)))
        alpha, sigma = (ops.expand_dims(v, axes) for v in (self._schedule.alpha(t), sigma_t))  # (B, 1, ...)
        noisy = alpha * x + sigma * eps
        output = self._network(noisy, alpha, sigma, self._schedule.noise_cond(t, sigma_t), condition, training)
        wanted = self._prediction.target(x, eps, alpha, sigma, self._sigma_data)
        weight = weightings.weight(
            self.weighting, self._prediction, alpha, sigma, gamma=self.gamma or 5.0, sigma_data=self._sigma_data
        )
        error = ops.mean(ops.square(output - wanted), axis=axes)  # (B,)
        loss = ops.reshape(weight, (-1,)) * error
        record_levels(t, loss)
        return {"loss": loss, "error": error}

    def _network(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, level: Tensor, condition: Condition, training: bool = False
    ) -> Tensor:
        scale = self._prediction.input_scale(alpha, sigma, self._sigma_data)
        return ops.cast(self.model(scale * x, level, condition, training=training), "float32")

    def _denoised(self, x: Tensor, alpha: Tensor, sigma: Tensor, level: Tensor, condition: Condition) -> Tensor:
        """Returns the denoised image of x (B, ...). All images have the same noise level, three scalars."""
        levels = ops.broadcast_to(ops.reshape(level, (1,)), (ops.shape(x)[0],))
        output = self._network(x, alpha, sigma, levels, condition)
        return self._prediction.denoised(output, x, alpha, sigma, self._sigma_data)

    # ---- sampling -------------------------------------------------------------------------------------------------

    def noise_spec(
        self,
        *,
        sampler: Sampler | str = "heun",
        steps: int = 20,
        spacing: Spacing | str = "uniform",
        eta: float | None = None,
        guidance: float | None = None,
        guide: Any = None,
        autoguidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        **options: Any,
    ) -> dict[str, NoiseSpec]:
        if eta and not takes_eta(part("diffusion.sampler", sampler)):
            kind = given if isinstance(given := plain(sampler), str) else given["kind"]
            raise ValueError(
                f"eta is an option of samplers 'ddim', 'dpm++2m-sde' and 'dpm++3m-sde', and '{kind}' would ignore it: "
                f"leave eta out"
            )
        if (check := getattr(part("diffusion.spacing", spacing), "check", None)) is not None:
            check(self._schedule, steps)
        if (guide is None) != (autoguidance is None):
            has, lacks = ("autoguidance", "guide: {from: RUN}") if guide is None else ("guide", "autoguidance: 2")
            raise ValueError(f"{has} has no effect alone: add {lacks}, for example, or leave {has} out")
        for name, given in (("guidance_interval", guidance_interval), ("guidance_rescale", guidance_rescale)):
            if given and guidance is None and guide is None:
                raise ValueError(f"{name} has no effect without guidance: set guidance, or leave {name} out")
        return {"start": NoiseSpec("normal", self.space.shape), "steps": NoiseSpec("key")}

    def generate(
        self,
        condition: Condition,
        null_condition: Condition,
        noise: dict[str, Tensor],
        source: Tensor | None = None,
        *,
        sampler: Annotated[Sampler | str, OneOf("diffusion.sampler")] = "heun",
        steps: Steps = 20,
        spacing: Annotated[Spacing | str, OneOf("diffusion.spacing")] = "uniform",
        guidance: Guidance = 1.0,
        guide: Guide = None,
        autoguidance: Annotated[float, Field(ge=0), Static(1.0)] | None = None,
        guidance_interval: NoiseInterval | None = None,
        guidance_rescale: Annotated[float, Field(ge=0, le=1), Static(0.0)] = 0.0,
        dynamic_threshold: Annotated[float, Field(gt=0, le=1)] | None = None,
        eta: Annotated[float, Field(ge=0, le=1), Static(0.0)] | None = None,
        strength: Strength = 0.6,
    ) -> Tensor:
        """Generates latents from noise, or from the latents of an image, `source` (SDEdit, Meng et al. 2022, alg. 1).

        Args:
            sampler: Sampler: "heun", "dpm++2m", "ddim" or another `diffusion.sampler`, with its options.
            steps: Number of sampling steps. Each of Heun's steps evaluates the network twice, except the last.
            spacing: Spacing of the times: "uniform", "karras", "trailing" or another `diffusion.spacing`, with its
                options.
            guidance: Weight of classifier-free guidance. 1 means no guidance, at half the cost.
            guide: Weaker model of the same latents, which guides with the same prompts (Karras et al. 2024): a smaller
                model, or an earlier step of a training, `{from: RUN, step: 2000}`. It needs `autoguidance`.
            autoguidance: Weight of the guidance by `guide`. 1 means no guidance. It can be combined with `guidance`:
                see `lead_away`.
            guidance_interval: Noise levels at which both kinds of guidance are used, low < sigma / alpha <= high. At
                all other levels, the weights are 1 (Kynkäänniemi et al. 2024). The levels are the sigmas of Karras et
                al. 2022, for every schedule: see `noise_level`. None means all levels. If high is None, the
                interval has no upper end.
            guidance_rescale: Share, 0 to 1, of the conditional image's contrast that is restored: see `lead_away`.
            dynamic_threshold: Quantile for `threshold_dynamically`, such as 0.995. None clips pixels to [-1, 1].
            eta: Share of fresh noise, from 0 to 1. None means the sampler's own: 0 for "ddim", 1 for "dpm++2m-sde" and
                "dpm++3m-sde". Samplers without such a share raise an error if it is not 0.
            strength: Strength of the change of a `source`: the time up to which noise is added to it. All `steps` then
                start from there.
        """
        grid = time_grid(self._schedule, steps, spacing, 1.0 if source is None else strength)

        guided = self._guided(condition, null_condition, guidance, guide, autoguidance, guidance_rescale)

        def denoise(x: Tensor, alpha: Tensor, sigma: Tensor, noise_cond: Tensor) -> Tensor:
            def unguided() -> Tensor:
                return self._denoised(x, alpha, sigma, noise_cond, condition)

            if guided is None:
                image = unguided()
            elif guidance_interval is None:
                image = guided(x, alpha, sigma, noise_cond)
            else:  # outside of the interval, the network is evaluated once
                inside = is_inside(guidance_interval, alpha, sigma)
                image = ops.cond(inside, lambda: guided(x, alpha, sigma, noise_cond), unguided)
            if dynamic_threshold is not None:
                image = threshold_dynamically(image, dynamic_threshold)
            elif self.space.bounded:
                image = ops.clip(image, -1.0, 1.0)
            show_step(image)
            return image

        def fresh(step: Tensor) -> Tensor:
            return normal(noise["steps"], step, self.space.shape)

        if source is None:
            start = noise["start"] * self._schedule.start_deviation(grid.alpha[0], grid.sigma[0])
        else:
            start = noise["start"] * grid.sigma[0] + ops.cast(source, "float32") * grid.alpha[0]
        solver = part("diffusion.sampler", sampler)
        shares = {"eta": eta} if eta is not None and takes_eta(solver) else {}
        return solver(denoise, start, grid, fresh, **shares)

    def _guided(
        self,
        condition: Condition,
        null_condition: Condition,
        guidance: Tensor | float,
        guide: GuideModel | None,
        autoguidance: Tensor | float | None,
        rescale: Tensor | float,
    ) -> Denoise | None:
        """Returns the guided denoising function, for the options of `generate`; None if there is no guidance."""
        by_text = not is_static(guidance, 1.0)
        weaker = None if guide is None or is_static(autoguidance, 1.0) else guide
        if not by_text and weaker is None:
            return None

        def denoise(x: Tensor, *level: Tensor) -> Tensor:
            others = []
            if by_text:
                both = {name: ops.concatenate([condition[name], null_condition[name]]) for name in condition}
                image, null = ops.split(self._denoised(ops.concatenate([x, x]), *level, both), 2)
                others.append((guidance, null))
            else:
                image = self._denoised(x, *level, condition)
            if weaker is not None:
                others.append((autoguidance, weaker.generator._denoised(x, *level, weaker.condition)))
            return lead_away(image, others, rescale)

        return denoise

    def check_guide(self, guide: Generator) -> None:
        """Raises ValueError unless `guide` is a diffusion model with the same schedule; its prediction may differ."""
        super().check_guide(guide)
        here, there = (plain(model._schedule) for model in (self, guide))
        if here != there:
            raise ValueError(f"it has the noise schedule {there}, not {here}: train it with the schedule of this model")

    # ---- likelihood -----------------------------------------------------------------------------------------------

    def likelihood_label(self, *, steps: int = 1000, end_log_snr: float = END_LOG_SNR, **given: Any) -> str:
        end = "" if end_log_snr == END_LOG_SNR else f", to a log-SNR of {end_log_snr:g}"
        return f"a bound of {steps} step{'s' * (steps > 1)}{end}"

    def log_likelihood(
        self,
        x: Tensor,
        condition: Condition,
        *,
        steps: Steps = 1000,
        end_log_snr: Annotated[float, Field(gt=0, le=16)] = END_LOG_SNR,
    ) -> Tensor:
        """Returns the variational bound (B,) of 8-bit images, in nats: see `variational_bound`.

        Args:
            steps: Number of steps of the process. More steps make the bound tighter.
            end_log_snr: log(alpha^2 / sigma^2) of the last noise level. At 13.3 the remaining noise costs a perfect
                model 0.0035 bits per dimension. A network that was not trained on so little noise may have a tighter
                bound at a smaller value, although a perfect model would have a looser one.
        """

        def denoise(noisy: Tensor, alpha: Tensor, sigma: Tensor, level: Tensor) -> Tensor:
            image = self._denoised(noisy, alpha, sigma, level, condition)
            return ops.clip(image, -1.0, 1.0) if self.space.bounded else image

        return variational_bound(denoise, x, self._schedule, steps, end_log_snr=end_log_snr)
