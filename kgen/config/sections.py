"""The sections of a run file that hold plain values: how to train, draw, and measure likelihoods."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, NonNegativeInt, PositiveInt

from kgen.config.components import ComponentConfig

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
    """Peak learning rate of the optimizer."""
    warmup_steps: NonNegativeInt = 100
    """Steps in which the learning rate rises from 0."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """How the learning rate goes on after the warm-up."""
    optimizer: ComponentConfig = ComponentConfig(name="kgen/adamw")
    """How a gradient becomes a step: the name of an optimizer, or a mapping with its options too."""
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
    callbacks: tuple[ComponentConfig, ...] = ()
    """Callbacks of Keras that plugins bring: names, or mappings with options too."""

    def dump(self) -> dict[str, Any]:
        """As a run file holds it."""
        components = {"optimizer": self.optimizer.dump(), "callbacks": [each.dump() for each in self.callbacks]}
        return {**self.model_dump(mode="json"), **components}


class SampleConfig(Section):
    """What is drawn while training, and at its end."""

    every: NonNegativeInt = 500
    """Steps between sample grids; 0: none before the end."""
    prompts: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """What to draw; null: up to 16 of the dataset's captions, held-out ones last."""
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
