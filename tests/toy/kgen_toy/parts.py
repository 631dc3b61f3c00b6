"""The parts: each takes few options, of all the kinds that options can be of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import keras
import numpy as np
from keras import ops
from pydantic import Field, PositiveInt

from kgen import ConditionSpace, Dataset, Encoder, Generator, Metric, NoiseSpec, Space, SpaceError, Steps

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


class Squares(Dataset):
    """Each image is one color, and its caption that color's name."""

    def __init__(
        self,
        *,
        size: PositiveInt = 8,
        colors: tuple[str, ...] | Literal["all"] = ("red", "green"),
        held: bool = False,
    ) -> None:
        self.size = size
        self.colors = colors
        self.held = held

    @property
    def image_space(self) -> Space:
        return Space("continuous", (self.size, self.size, 3))

    def captions(self, split):
        seen = list(COLORS) if self.colors == "all" else list(self.colors)
        return {"train": seen, "holdout": ["white"] if self.held else []}.get(split, [])

    def image(self, split, index: int) -> np.ndarray:
        color = COLORS[self.captions(split)[index]]
        return np.broadcast_to(np.array(color, np.uint8), (self.size, self.size, 3))


class Letters(Encoder):
    """Counts each of 26 letters."""

    def __init__(self, *, scale: Annotated[float, Field(gt=0)] = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(length=1, dim=26)

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        alphabet = "abcdefghijklmnopqrstuvwxyz"
        counts = np.array([[text.count(letter) for letter in alphabet] for text in texts], "float32")
        return {"counts": counts.reshape(-1, 26)}

    def call(self, tokens, training=False):
        pooled = tokens["counts"] * self.scale
        return {"sequence": pooled[:, None], "mask": ops.ones_like(pooled[:, :1]), "pooled": pooled}


@dataclass(frozen=True)
class Linear:
    """One layer."""

    kind: Literal["linear"] = "linear"
    bias: bool = True


@dataclass(frozen=True)
class Deep:
    """Several layers."""

    kind: Literal["deep"] = "deep"
    width: Annotated[int, Field(ge=4)] = 8
    depth: PositiveInt = 1
    rates: tuple[float, ...] = (0.5, 1.0)


class Means(Generator):
    """Predicts the image from the condition; adds noise of a chosen strength when it generates."""

    def __init__(
        self,
        space: Space,
        condition_space: ConditionSpace,
        *,
        network: Annotated[Linear | Deep, Field(discriminator="kind")] = Linear(),
        limit: float | None = None,
        size: PositiveInt | Literal["auto"] = "auto",
        stride: PositiveInt = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(space, condition_space, **kwargs)
        if space.shape[0] % stride:
            raise SpaceError(f"toy/means has a stride of {stride}, which does not divide images of {space}")
        self.network = network
        self.limit = limit
        self.size = size
        self.stride = stride
        layers = network.depth if isinstance(network, Deep) else 0
        self.layers = [keras.layers.Dense(network.width, activation="silu") for _ in range(layers)]
        self.out = keras.layers.Dense(space.size, use_bias=isinstance(network, Deep) or network.bias)

    def predict_mean(self, condition):
        h = condition["pooled"]
        for layer in self.layers:
            h = layer(h)
        return ops.reshape(self.out(h), (-1, *self.space.shape))

    def compute_losses(self, x, condition, training):
        return {"loss": ops.mean(ops.square(x - self.predict_mean(condition)), axis=(1, 2, 3))}

    def noise_spec(self, **options):
        return {"z": NoiseSpec("normal", self.space.shape)}

    def generate(
        self,
        condition,
        null_condition,
        noise,
        *,
        strength: Annotated[float, Field(ge=0)] = 0.0,
        steps: Steps = 1,
    ):
        return self.predict_mean(condition) + strength * noise["z"]


class Tokens(Means):
    """The same, but it says that it models tokens, and has an option without a default."""

    accepts = ("tokens",)

    def __init__(
        self, space: Space, condition_space: ConditionSpace, *, vocabulary: PositiveInt, **kwargs: Any
    ) -> None:
        super().__init__(space, condition_space, **kwargs)
        self.vocabulary = vocabulary


class Brightness(Metric):
    """The mean of all pixels, from 0 to 1."""

    def update(self, batch):
        self.add(levels=batch.images.sum(dtype=np.float64), count=batch.images.size)

    def compute(self):
        return {"mean": float(self.sums["levels"] / self.sums["count"]) / 255}
