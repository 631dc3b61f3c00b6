"""The sections of a run file that hold plain values: training, sampling, and measuring likelihoods."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, NonNegativeInt, PositiveInt

Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Section(pydantic.BaseModel):
    """Base class of all sections: validated, frozen, without unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class FitConfig(Section):
    """Settings of the training."""

    steps: PositiveInt
    """Number of training steps, one batch each."""
    batch_size: PositiveInt = 32
    """Images per step, summed over all replicas and workers."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate of AdamW."""
    warmup_steps: NonNegativeInt = 100
    """Steps of the warm-up, in which the learning rate rises from 0."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Schedule of the learning rate after the warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay of AdamW."""
    beta_1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW's decay rate of the mean gradient; adversarial training needs a smaller value, or 0."""
    beta_2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """AdamW's decay rate of the mean squared gradient."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of the global gradient, which is clipped to it; null: no clipping."""
    ema: Annotated[float, Field(ge=0, lt=1)] | None = 0.999
    """Decay per step of the EMA of the weights, which sampling uses; null: no EMA."""
    flip: bool = False
    """Whether every image is also shown mirrored; unsuitable if captions say left or right."""
    log_every: PositiveInt = 50
    """Steps between two rows of metrics.csv."""
    checkpoint_every: PositiveInt = 500
    """Steps between two checkpoints."""
    keep: PositiveInt = 2
    """Number of checkpoints to keep; older ones are deleted."""
    validate_every: PositiveInt = 500
    """Steps between two measurements of the validation loss."""


class SampleConfig(Section):
    """Images that are generated during the training and at its end."""

    every: NonNegativeInt = 500
    """Steps between two sample grids; 0: no grid before the end."""
    prompts: Annotated[tuple[str | int | dict[str, str | int], ...], Field(min_length=1)] | None = None
    """Prompts of the images: texts, labels, paths of images or mappings of fields, as the encoder reads them; null: up
    to 16 of the dataset's captions, or of what the encoder reads, with held-out ones last."""
    seed: Seed = 0
    """Seed of the noise from which images are generated."""
    shared_noise: bool = False
    """Whether all prompts of a grid share one noise, which shows the effect of the text; scores never share it."""
    options: dict[str, Any] = {}
    """Options of the generator's `generate`, such as steps or guidance; `decoder:` holds those of `decode`."""


class LikelihoodConfig(Section):
    """The likelihood of images that the pipeline was not trained on."""

    images: NonNegativeInt = 0
    """Number of images, of the validation split if there is one, else held out, else of training; 0: not measured."""
    options: dict[str, Any] = {}
    """Options of the generator's `log_likelihood`, such as steps or samples."""
