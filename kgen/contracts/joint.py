"""Several encoders side by side, as one encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import keras
import numpy as np
import pydantic
from keras import ops
from pydantic import Field

from kgen.contracts.encoder import RESERVED, Condition, Encoder
from kgen.errors import ConfigError
from kgen.options import Arguments, Choice
from kgen.plugins.discovery import component_id, registry
from kgen.random import SeedGenerator, per_example
from kgen.spaces import ConditionSpace

NAMES = ("sequence", "mask", "pooled")
CACHED = "condition"


class Beside(pydantic.BaseModel):
    """Keys beside the options of an encoder that is joined with others."""

    model_config = pydantic.ConfigDict(extra="forbid")

    condition_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of training examples for which the condition of this encoder alone is dropped."""


class Joint(Encoder):
    """Joins the conditions of several encoders, which may read different fields, and may be frozen or trained.

    "length" concatenates the sequences along their positions, as SD3 does (Esser et al. 2024, figure 2). Zeros fill
    narrow sequences up to the largest width. "width" concatenates them along their features, as SDXL does (Podell et
    al. 2023, section 2.1). Zeros fill short sequences up to the largest length. Pooled vectors are concatenated.

    Each encoder may have its own `condition_dropout`. In training, its null condition replaces that share of its
    conditions, independently of the other encoders. The `condition_dropout` of a pipeline drops the whole condition.

    Args:
        joined: The encoders, at least two.
        encoders: The name and options of each encoder, optionally with `condition_dropout`.
        join: The axis: "length" or "width".

    Raises:
        ValueError: there are fewer than two encoders.
    """

    arguments: ClassVar[Mapping[str, Arguments]] = {"__init__": Arguments(("joined",), RESERVED)}

    def __init__(
        self,
        joined: Sequence[Encoder],
        *,
        encoders: tuple[Annotated[dict[str, Any], Choice("encoder", Beside)], ...],
        join: Literal["length", "width"] = "length",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if len(joined) < 2 or len(joined) != len(encoders):
            raise ValueError(f"encoders must be at least two, not {len(joined)}")
        self.joined = list(joined)
        self.encoders = encoders
        self.join = join
        self.rates = tuple(float(encoder.get("condition_dropout", 0.0)) for encoder in encoders)
        self.fields = tuple(dict.fromkeys(field for encoder in joined for field in encoder.fields))
        self.null = _null(joined, self.fields)
        self.seed_generator = SeedGenerator()
        self._null_conditions: dict[int, dict[str, np.ndarray]]
        object.__setattr__(self, "_null_conditions", {})  # a plain dict, which Keras must not track
        if not any(encoder.trainable for encoder in joined):
            self.trainable = False

    @classmethod
    def of(
        cls,
        joined: Sequence[Encoder],
        *,
        join: Literal["length", "width"] = "length",
        condition_dropout: Sequence[float] = (),
    ) -> Joint:
        """Joins encoder objects.

        Args:
            joined: The encoders, at least two.
            join: The axis: "length" or "width".
            condition_dropout: The dropout of each encoder; missing values are 0.
        """
        rates = [*condition_dropout, *[0.0] * (len(joined) - len(condition_dropout))]
        encoders = [
            {"name": component_id(encoder), **encoder.config, **({"condition_dropout": rate} if rate else {})}
            for encoder, rate in zip(joined, rates, strict=True)
        ]
        return cls(joined, encoders=tuple(encoders), join=join)

    @classmethod
    def is_pretrained(cls, options: Mapping[str, Any]) -> bool:
        """Whether one of the joined encoders has trained weights, which it reads from files."""
        for member in options.get("encoders", ()):
            try:
                joined = registry().find("encoder", member["name"]).load()
            except ConfigError:  # a class that no plugin registers
                continue
            if joined.is_pretrained(member):
                return True
        return False

    def parts(self) -> tuple[Encoder, ...]:
        return tuple(part for encoder in self.joined for part in encoder.parts())

    @property
    def shows_null(self) -> bool:
        return all(self.rates)

    @property
    def condition_space(self) -> ConditionSpace:
        spaces = [encoder.condition_space for encoder in self.joined]
        lengths, widths = [space.length for space in spaces], [space.dim for space in spaces]
        pooled = sum(space.pooled_dim for space in spaces)
        if self.join == "length":
            return ConditionSpace(sum(lengths), max(widths), pooled)
        return ConditionSpace(max(lengths), sum(widths), pooled)

    # ---- inputs ---------------------------------------------------------------------------------------------------

    def own(self, index: int, inputs: Sequence[Any]) -> Sequence[Any]:
        """The inputs of encoder `index`, each of which is read when it is accessed."""
        return inputs if len(self.fields) == 1 else _Own(inputs, self.joined[index].fields)

    def adapt(self, inputs: Sequence[Any]) -> None:
        for index, encoder in enumerate(self.joined):
            encoder.adapt(self.own(index, inputs))

    def tokenize(self, inputs: Sequence[Any]) -> dict[str, np.ndarray]:
        return self.pack([{"tokens": encoder.tokenize(self.own(i, inputs))} for i, encoder in enumerate(self.joined)])

    def pack(self, batches: Sequence[Mapping[str, Mapping[str, np.ndarray]]]) -> dict[str, np.ndarray]:
        """The tokens of `call`, from the "tokens" of each encoder, or from its "condition" if that is cached."""
        packed: dict[str, np.ndarray] = {}
        for index, batch in enumerate(batches):
            prefix = f"{index}.{CACHED}." if "condition" in batch else f"{index}."
            (arrays,) = batch.values()
            packed |= {f"{prefix}{name}": array for name, array in arrays.items()}
        return packed

    def unread(self, value: Any) -> str:
        found = []
        for index, encoder in enumerate(self.joined):
            if what := encoder.unread(self.own(index, [value])[0]):
                found.append(what if isinstance(encoder, Joint) else f"encoder '{component_id(encoder)}': {what}")
        return "; ".join(found)

    def parse(self, text: str, field: str) -> Any:
        return next(encoder for encoder in self.joined if field in encoder.fields).parse(text, field)

    # ---- conditions -----------------------------------------------------------------------------------------------

    def call(self, tokens: dict[str, Any], training: bool = False) -> Condition:
        made = [self._encode(index, tokens, training) for index in range(len(self.joined))]
        return self._join(made)

    def null_condition(self) -> Condition:
        return self._join([self._null_of(index) for index in range(len(self.joined))])

    def remember_null(self, index: int, condition: Mapping[str, np.ndarray]) -> None:
        """Keeps the null condition of encoder `index`, which is frozen and has cached conditions."""
        self._null_conditions[index] = dict(condition)

    def _encode(self, index: int, tokens: Mapping[str, Any], training: bool) -> Condition:
        prefix, encoder = f"{index}.", self.joined[index]
        own = {name.removeprefix(prefix): array for name, array in tokens.items() if name.startswith(prefix)}
        if f"{CACHED}.{NAMES[0]}" in own:
            condition = {name: own[f"{CACHED}.{name}"] for name in NAMES}
        else:
            condition = encode(encoder, own, training)
        if not (training and self.rates[index]):
            return condition
        count = ops.shape(condition["mask"])[0]
        keep = per_example(keras.random.uniform, (count,), self.seed_generator) >= self.rates[index]  # (B,)
        return replace_where(keep, condition, self._null_of(index))

    def _null_of(self, index: int) -> Condition:
        known = self._null_conditions.get(index)
        return self.joined[index].null_condition() if known is None else known

    def _join(self, conditions: Sequence[Condition]) -> Condition:
        space, dtype = self.condition_space, self.compute_dtype
        made = [{name: ops.cast(condition[name], dtype) for name in NAMES} for condition in conditions]
        pooled = ops.concatenate([condition["pooled"] for condition in made], axis=-1)  # (B, P)
        if self.join == "length":
            widths = [space.dim - condition["sequence"].shape[-1] for condition in made]
            sequences = [ops.pad(c["sequence"], ((0, 0), (0, 0), (0, w))) for c, w in zip(made, widths, strict=True)]
            mask = ops.concatenate([condition["mask"] for condition in made], axis=1)  # (B, L)
            return {"sequence": ops.concatenate(sequences, axis=1), "mask": mask, "pooled": pooled}
        sequences, masks = [], []
        for condition in made:
            missing = space.length - condition["mask"].shape[1]
            real = condition["sequence"] * condition["mask"][..., None]  # padding of one must not reach the others
            sequences.append(ops.pad(real, ((0, 0), (0, missing), (0, 0))))  # (B, L, D_i)
            masks.append(ops.pad(condition["mask"], ((0, 0), (0, missing))))
        mask = ops.max(ops.stack(masks), axis=0)  # real where one of them is: (B, L)
        return {"sequence": ops.concatenate(sequences, axis=-1), "mask": mask, "pooled": pooled}

    # ---- files ----------------------------------------------------------------------------------------------------

    def save_assets(self, path: str | Path) -> None:
        for index, encoder in enumerate(self.joined):
            folder = Path(path) / str(index)
            folder.mkdir()
            encoder.save_assets(folder)

    def load_assets(self, path: str | Path) -> None:
        for index, encoder in enumerate(self.joined):
            encoder.load_assets(Path(path) / str(index))


class _Own(Sequence[Any]):
    """Some of the fields of mappings: the value of a single field, or a mapping of several."""

    def __init__(self, inputs: Sequence[Mapping[str, Any]], fields: tuple[str, ...]) -> None:
        self.inputs, self.names = inputs, fields

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: Any) -> Any:
        value = self.inputs[index]
        return value[self.names[0]] if len(self.names) == 1 else {name: value[name] for name in self.names}


def encode(encoder: Encoder, tokens: Mapping[str, Any], training: bool) -> Condition:
    """The conditions of a batch. A frozen encoder computes the same in training as elsewhere, without dropout."""
    condition: Condition = encoder(tokens, training=training and (encoder.trainable or isinstance(encoder, Joint)))
    return condition


def replace_where(keep: Any, condition: Condition, null: Mapping[str, Any]) -> Condition:
    """Replaces the conditions with a False in `keep` (B,) by the null condition, whose batch axis is 1."""
    return {
        name: ops.where(
            ops.reshape(keep, (-1,) + (1,) * (len(value.shape) - 1)), value, ops.cast(null[name], value.dtype)
        )
        for name, value in condition.items()
    }


def _null(joined: Sequence[Encoder], fields: tuple[str, ...]) -> Any:
    """Returns the null input of all encoders. The null value of a field is that of the first encoder that reads it."""
    found: dict[str, Any] = {}
    for encoder in reversed(joined):
        found |= encoder.null if len(encoder.fields) > 1 else {encoder.fields[0]: encoder.null}
    return found if len(fields) > 1 else found[fields[0]]
