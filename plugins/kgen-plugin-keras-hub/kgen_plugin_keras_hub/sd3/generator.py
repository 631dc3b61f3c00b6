"""Stable Diffusion 3, as a generator."""

from __future__ import annotations

from typing import Annotated, Any

from kgen_plugin_diffusion.generator import Diffusion
from kgen_plugin_diffusion.schedules import ShiftedFlow
from kgen_plugin_diffusion.times import LogitNormal
from pydantic import Field

from kgen import ConditionSpace, ConfigError, Space
from kgen_plugin_keras_hub.sd3.architecture import MMDiTSizes
from kgen_plugin_keras_hub.sd3.mmdit import MMDiT


class StableDiffusion3(Diffusion):
    """Stable Diffusion 3 or 3.5: `diffusion/diffusion` with KerasHub's MMDiT, as it was trained (Esser et al. 2024).

    The network is `MMDiT`, the schedule "shifted-flow", the prediction "velocity", and the times are logit-normal. To
    sample as KerasHub does, set ``sampler: euler, spacing: {kind: linspace, last: 1.994, rounded: false}, steps: 28,
    guidance: 7``.

    Args:
        preset: Trained weights: a folder in KerasHub's format, "hf://USER/NAME", or a preset of KerasHub, such as
            "stable_diffusion_3_medium"; None: random weights.
        sizes: The sizes of a network with random weights; None: those of the preset, or of Stable Diffusion 3 Medium.
        shift: Factor by which sigma / alpha is multiplied, in training and sampling (equation 23). It must be that of
            the preset.

    Raises:
        SpaceError: the latents are no grid, or do not fit the patches or positions.
        ValueError: both `preset` and `sizes` are given.
    """

    def __init__(
        self,
        space: Space,
        condition_space: ConditionSpace,
        *,
        preset: Annotated[str, Field(min_length=1)] | None = None,
        sizes: MMDiTSizes | None = None,
        shift: Annotated[float, Field(gt=0)] = 3.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            space,
            condition_space,
            network=MMDiT(preset, sizes),
            schedule=ShiftedFlow(shift=shift),
            prediction="velocity",
            times=LogitNormal(),
            **kwargs,
        )
        self.preset = preset
        self.sizes = sizes
        self.shift = shift

    def build_pretrained(self) -> None:
        self.model.read()
        published = self.model.published
        if published is not None and published.shift != self.shift:
            raise ConfigError(
                f"{published.file}: 'config.shift' is {published.shift:g}, but the option 'shift' of the generator is "
                f"{self.shift:g}: set it to {published.shift:g}"
            )
        super().build_pretrained()
