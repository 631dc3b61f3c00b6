"""The sections of a run file that hold plain values: training, sampling, and measuring likelihoods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Discriminator, Field, NonNegativeInt, PositiveInt, Tag

from kgen.config.components import ComponentConfig

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Pattern = Annotated[str, Field(min_length=1)]
Patterns = tuple[Pattern, ...]


class Section(pydantic.BaseModel):
    """Base class of all sections: validated, frozen, without unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class InitConfig(Section):
    """Weights that a training starts from. A pattern matches paths of weights, such as `generator/model/up/*`."""

    model_config = pydantic.ConfigDict(populate_by_name=True)

    source: str = Field(alias="from")
    """A run directory, a folder that `kgen.save` wrote, the name of an installed model, or a file of weights."""
    include: Patterns = ("*",)
    """Patterns of the weights to load."""
    exclude: Patterns = ()
    """Patterns of the weights not to load; `encoder/assets` stands for the encoder's vocabulary."""

    def dump(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)


def as_sources(value: Any) -> Any:
    """Converts `init` of a run file to a list of mappings. It may also be null, a path or a mapping, or a list."""
    given = [] if value is None else value if isinstance(value, list) else [value]
    return [{"from": source} if isinstance(source, str) else source for source in given]


class LoraConfig(Section):
    """Low-rank adaptation (LoRA, Hu et al. 2022), which only trains two small factors beside each kernel."""

    model_config = pydantic.ConfigDict(populate_by_name=True)

    rank: PositiveInt
    """Rank of the factors, such as 8. Fused projections, such as queries, keys and values, have separate factors."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """The product of the factors is multiplied by alpha / rank; null: by 1."""
    targets: Annotated[Patterns, Field(min_length=1)] = ("*",)
    """Patterns of the paths of kernels of dense layers, such as `generator/*/attention`, which includes projections."""
    source: str | None = Field(None, alias="from")
    """A LoRA file with which the training of the factors starts, such as the lora.safetensors of a run; null: the
    product of the factors is zero at first."""

    def dump(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)


MAX_STD = 0.28
"""The largest width of an average. That of the average in which all steps have equal shares is 1 / sqrt(12) = 0.289."""


class PowerEmaConfig(Section):
    """Averages of the weights with power functions, of which `kgen average` makes others after the training.

    See Karras et al. 2024, section 3.
    """

    std: Annotated[tuple[Annotated[float, Field(gt=0, le=MAX_STD)], ...], Field(min_length=2)] = (0.05, 0.1)
    """Widths of the averages: standard deviations over the steps, as shares of the training so far. Sampling uses the
    first one."""
    every: PositiveInt | None = None
    """Steps between two snapshots of the averages; null: `checkpoint_every`."""
    keep: PositiveInt | None = None
    """Number of snapshots to keep; older ones are deleted. null: all are kept."""

    @pydantic.field_validator("std")
    @classmethod
    def _different(cls, std: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(std)) < len(std):
            raise ValueError("has the same width twice")
        return std


def _kind_of_ema(given: Any) -> str:
    return "power" if isinstance(given, dict | PowerEmaConfig) else "decay"


Ema = Annotated[
    Annotated[float, Field(ge=0, lt=1), Tag("decay")] | Annotated[PowerEmaConfig, Tag("power")],
    Discriminator(_kind_of_ema),
]


def undivided(steps_per_execution: int, intervals: Mapping[str, int]) -> str | None:
    """Says which intervals, by name, are not multiples of `fit.steps_per_execution`; None: all are."""
    wrong = [f"{name} ({steps})" for name, steps in intervals.items() if steps % steps_per_execution]
    if not wrong:
        return None
    return f"is {steps_per_execution}, which does not divide {', '.join(wrong)}: choose numbers that it divides"


class FitConfig(Section):
    """Settings of the training."""

    steps: PositiveInt
    """Number of training steps, one batch each."""
    batch_size: PositiveInt = 32
    """Images per step, summed over all replicas and workers."""
    gradient_accumulation: PositiveInt = 1
    """Number of micro-batches into which each batch is divided, which needs less memory. A step still is one batch: the
    weights are updated once, by the gradient of the whole batch."""
    remat: bool = False
    """Whether training computes the activations inside of blocks again for their gradients, instead of keeping them
    (rematerialization, gradient checkpointing). It needs less memory, and about a third more time."""
    steps_per_execution: PositiveInt = 1
    """Number of steps in one call of the training function, between which there are no callbacks, and on JAX no Python
    at all. It makes small networks faster, and does not change the training. It must divide `steps` and all intervals,
    such as `log_every`. Callbacks see the last step of a call, after which Ctrl-C, SIGTERM and errors end the
    training."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate of the optimizer."""
    learning_rates: dict[Pattern, Annotated[float, Field(gt=0)]] | None = None
    """Factors of the learning rate by patterns of paths of weights, such as `encoder/*: 0.1`; the last one that matches
    a path counts."""
    warmup_steps: NonNegativeInt = 100
    """Steps of the warm-up, in which the learning rate rises from 0."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Schedule of the learning rate after the warm-up."""
    optimizer: ComponentConfig = ComponentConfig(name="kgen/adamw")
    """Optimizer: its name, or a mapping with its name and options."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of the global gradient, which is clipped to it; null: no clipping."""
    ema: Ema | None = 0.999
    """Decay per step of the EMA of the weights, which sampling uses; a mapping: several averages, of which `kgen
    average` makes others after the training; null: no EMA."""
    trainable: Patterns = ("*",)
    """Patterns of the paths of the weights that are trained, such as `generator/model/up/*`; all others are frozen."""
    frozen: Patterns = ()
    """Patterns of the paths of weights that are frozen, such as `encoder/*`."""
    lora: LoraConfig | None = None
    """Trains low-rank factors (LoRA) instead of the weights, which are all frozen; null: the weights are trained."""
    flip: bool = False
    """Whether every image is also shown mirrored; unsuitable if captions say left or right."""
    workers: Annotated[int, Field(ge=0, le=128)] | None = None
    """Number of processes that read and decode images, for each process that trains. 0: threads of the training process
    do it. null: the number of cores minus one, at most 8; but 0 if the decoded images fit into memory (1 GiB), or if
    each process would need a copy of the dataset that is large or cannot be made. The batches do not depend on it."""
    log_every: PositiveInt = 50
    """Steps between two rows of metrics.csv."""
    checkpoint_every: PositiveInt = 500
    """Steps between two checkpoints, which are written while the training goes on. A temporary one is also written
    before each sample grid and each scoring."""
    keep: PositiveInt = 2
    """Number of checkpoints to keep; older ones are deleted."""
    validate_every: PositiveInt = 500
    """Steps between two measurements of the validation loss."""
    callbacks: tuple[ComponentConfig, ...] = ()
    """Callbacks from plugins: names, or mappings with names and options."""

    @pydantic.model_validator(mode="after")
    def _one_selection(self) -> Self:
        if self.lora is not None and (self.trainable != ("*",) or self.frozen):
            raise ValueError("'lora' freezes all weights: leave out 'trainable' and 'frozen', and choose lora.targets")
        if self.lora is not None and isinstance(self.ema, PowerEmaConfig):
            raise ValueError("'lora' has factors that no average of other widths can be made of: give a decay as 'ema'")
        return self

    @pydantic.model_validator(mode="after")
    def _whole_executions(self) -> Self:
        keys = ("steps", "log_every", "checkpoint_every", "validate_every")
        intervals = {key: getattr(self, key) for key in keys}
        if isinstance(self.ema, PowerEmaConfig) and self.ema.every:
            intervals["ema.every"] = self.ema.every
        if problem := undivided(self.steps_per_execution, intervals):
            raise ValueError(f"steps_per_execution {problem}")
        return self

    @property
    def averages(self) -> float | tuple[float, ...] | None:
        """The decay of the EMA, or the widths of the averages that are kept; None: there is no EMA."""
        return self.ema.std if isinstance(self.ema, PowerEmaConfig) else self.ema

    def dump(self) -> dict[str, Any]:
        """Returns the section as plain data, in the form of a run file."""
        components = {"optimizer": self.optimizer.dump(), "callbacks": [each.dump() for each in self.callbacks]}
        lora = None if self.lora is None else self.lora.dump()
        return {**self.model_dump(mode="json"), **components, "lora": lora}


class SampleConfig(Section):
    """Images that are generated during the training and at its end."""

    every: NonNegativeInt = 500
    """Steps between two sample grids; 0: no grid before the end."""
    prompts: Annotated[tuple[str | int | dict[str, str | int], ...], Field(min_length=1)] | None = None
    """Prompts of the images: texts, labels, paths of images or mappings of fields, as the encoder reads them; null: up
    to 16 prompts from the dataset, with held-out ones last."""
    seed: Seed = 0
    """Seed of the noise from which images are generated."""
    shared_noise: bool = False
    """Whether all prompts of a grid share one noise, which shows the effect of the text; scores never share it."""
    options: dict[str, Any] = {}
    """Options of the generator's `generate`, such as steps or guidance; `decoder:` holds those of `decode`."""


class LikelihoodConfig(Section):
    """The likelihood of images that the pipeline was not trained on."""

    images: NonNegativeInt = 0
    """Number of images, from the validation split, or else the held-out or the training images; 0: not measured."""
    options: dict[str, Any] = {}
    """Options of the generator's `log_likelihood`, such as steps or samples."""
