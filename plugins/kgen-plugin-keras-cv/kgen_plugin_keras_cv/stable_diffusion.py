"""Stable Diffusion, as a generator."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from kgen_plugin_diffusion.generator import Diffusion
from kgen_plugin_diffusion.times import Uniform
from pydantic import Field

from kgen import ConditionSpace, Space
from kgen_plugin_keras_cv.library import Number
from kgen_plugin_keras_cv.unet import UNet


class StableDiffusion(Diffusion):
    """Stable Diffusion 1 or 2: `diffusion/diffusion` with keras-cv's model, as it was trained (Rombach et al. 2022).

    The network is `UNet`, the schedule "discrete", and the times are uniform. To sample as keras-cv does, set
    ``sampler: ddim, spacing: linspace, steps: 50, guidance: 7.5``.

    Args:
        version: The version of Stable Diffusion: 1 (conditions of 768 features) or 2 (1024 features).
        pretrained: Trained weights: a ``.h5`` file of keras-cv's `DiffusionModel`, or a folder of a
            `UNet2DConditionModel` or of a pipeline with one, which diffusers has written; None: random weights.
        variant: The variant of the weights in the folder, such as "fp16"; None: the files without a variant.
        prediction: What the model predicts: "eps"; or "v", as version 2 for images of 768x768.

    Raises:
        SpaceError: the latents have no 4 channels, or a side that 8 does not divide.
    """

    def __init__(
        self,
        space: Space,
        condition_space: ConditionSpace,
        *,
        version: Number = 1,
        pretrained: Annotated[str, Field(min_length=1)] | None = None,
        variant: Annotated[str, Field(min_length=1)] | None = None,
        prediction: Literal["eps", "v"] = "eps",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            space,
            condition_space,
            network=UNet(version, pretrained, variant),
            schedule="discrete",
            prediction=prediction,
            times=Uniform(),
            **kwargs,
        )
        self.version = version
        self.pretrained = pretrained
        self.variant = variant
