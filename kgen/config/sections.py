"""The sections of a run file that hold plain values: how to train, draw, and measure likelihoods."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, NonNegativeInt, PositiveInt

Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Section(pydantic.BaseModel):
    """What every section is: checked, frozen, without unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class FitConfig(Section):
    """How the pipeline is trained."""

    steps: PositiveInt
    """Training steps, of one batch each."""
    batch_size: PositiveInt = 32
    """Images a step, over all replicas and workers."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate of AdamW."""
    warmup_steps: NonNegativeInt = 100
    """Steps in which the learning rate rises from 0."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """How the learning rate goes on after the warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's weight decay."""
    beta_1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW's decay of the mean gradient; adversarial trainings want less, or 0."""
    beta_2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """AdamW's decay of the mean squared gradient."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Longest global gradient; null: no limit."""
    ema: Annotated[float, Field(ge=0, lt=1)] | None = 0.999
    """Decay a step of the average of the weights that samples are drawn with; null: no average."""
    flip: bool = False
    """Whether to show every image mirrored too; not where captions say left or right."""
    log_every: PositiveInt = 50
    """Steps between rows of metrics.csv."""
    checkpoint_every: PositiveInt = 500
    """Steps between checkpoints."""
    keep: PositiveInt = 2
    """Newest checkpoints to keep."""
    validate_every: PositiveInt = 500
    """Steps between measurements of the validation loss."""


class SampleConfig(Section):
    """What is drawn while training, and at its end."""

    every: NonNegativeInt = 500
    """Steps between sample grids; 0: none before the end."""
    prompts: Annotated[tuple[str | int | dict[str, str | int], ...], Field(min_length=1)] | None = None
    """What to draw: texts, labels, paths of images, or mappings of fields, as the encoder reads them; null: up to 16 of
    the dataset's captions, or of what else the encoder reads, held-out ones last."""
    seed: Seed = 0
    """Of the noise that images are made of."""
    shared_noise: bool = False
    """Whether grids make all prompts of the same noise, to show the text's effect alone; scores never do."""
    options: dict[str, Any] = {}
    """Options of the generator's `generate`, such as steps or guidance; `decoder:` holds those of `decode`."""


class LikelihoodConfig(Section):
    """How likely a trained pipeline finds images that it has not seen."""

    images: NonNegativeInt = 0
    """How many, of the validation split, else of what was held out, else of the training's; 0: not measured."""
    options: dict[str, Any] = {}
    """Options of the generator's `log_likelihood`, such as steps or samples."""
