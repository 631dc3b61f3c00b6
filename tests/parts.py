"""Small real parts for tests of the core, which must not depend on any plugin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from kgen import ConditionSpace, Dataset, Decoder, Encoder, Generator, NoiseSpec, SeedGenerator, Space, Strength
from kgen.contracts.dataset import Split
from kgen.random import per_example

BFLOAT16 = 2.0**-8
"""The relative error of a number that was rounded to bfloat16, as in the cache of conditions."""


class Words(Encoder):
    """A learned vector for every caption."""

    def __init__(self, *, dim: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.words: tuple[str, ...] = ()

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(1, self.dim)

    def adapt(self, texts: Sequence[str]) -> None:
        self.words = tuple(sorted(set(texts)))

    def build(self, input_shape: Any) -> None:
        self.table = self.add_weight(shape=(len(self.words) + 2, self.dim), initializer="normal", name="table")

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        index = {"": 0, **{word: i + 2 for i, word in enumerate(self.words)}}
        return {"id": np.array([index.get(text, 1) for text in texts], np.int32)}

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        pooled = ops.take(self.table, tokens["id"], axis=0)
        return {"sequence": pooled[:, None], "mask": ops.ones_like(pooled[:, :1]), "pooled": pooled}

    def save_assets(self, path: str | Path) -> None:
        (Path(path) / "words.txt").write_text("\n".join(self.words))

    def load_assets(self, path: str | Path) -> None:
        self.words = tuple((Path(path) / "words.txt").read_text().split("\n"))


class Hues(Words):
    """A vector for every caption. It is trained in a separate stage to predict the mean color of the images."""

    def __init__(self, *, dim: int = 3, **kwargs: Any) -> None:
        super().__init__(dim=dim, **kwargs)
        self.seed_generator = SeedGenerator()

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.color = self.add_weight(shape=(self.dim, 3), initializer="glorot_uniform", name="color")

    def compute_losses(self, images: Any, tokens: dict[str, Any], training: bool) -> dict[str, Any]:
        found = ops.matmul(self(tokens)["pooled"], self.color)  # (B, 3)
        wanted = ops.mean(images, axis=(1, 2))
        if training:
            wanted = wanted + 0.01 * keras.random.normal(ops.shape(wanted), seed=self.seed_generator)
        return {"loss": ops.mean(ops.square(ops.cast(found, "float32") - wanted), axis=-1)}

    def scores(self, images: np.ndarray, inputs: Sequence[str]) -> dict[str, float]:
        tokens = {name: ops.convert_to_tensor(array) for name, array in self.tokenize(inputs).items()}
        found = ops.convert_to_numpy(ops.matmul(self(tokens)["pooled"], self.color))
        return {"distance of colors": float(np.abs(found - (images.mean((1, 2)) / 127.5 - 1.0)).mean())}


class Tints(Hues):
    """Reads captions in capitals, with the weights of `Hues`."""

    trained_as = Hues

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        return super().tokenize([text.lower() for text in texts])


class MeanColor(Encoder):
    """Reads an image of any size: its mean color is the condition. It is frozen, and has a weight."""

    fields = ("image",)
    null = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trainable = False

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(1, 3)

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def tokenize(self, inputs: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
        colors = [np.zeros(3) if image is None else image.mean((0, 1)) for image in inputs]
        return {"color": np.array(colors, np.float32)}

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        pooled = tokens["color"] / 255.0 * self.scale
        return {"sequence": pooled[:, None], "mask": ops.ones_like(pooled[:, :1]), "pooled": pooled}


class Lengths(Encoder):
    """Reads a caption and a label: how long they are is the condition."""

    fields = ("caption", "label")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    @property
    def null(self) -> dict[str, str]:
        return {"caption": "", "label": ""}

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(1, 2)

    def tokenize(self, inputs: Sequence[dict[str, str]]) -> dict[str, np.ndarray]:
        return {"lengths": np.array([[len(i["caption"]), len(i["label"])] for i in inputs], np.float32)}

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        pooled = tokens["lengths"]
        return {"sequence": pooled[:, None], "mask": ops.ones_like(pooled[:, :1]), "pooled": pooled}


class Painter(Generator):
    """A mean image for every condition; training looks through noise of a given strength."""

    def __init__(
        self, space: Space, condition_space: ConditionSpace, *, width: int = 16, noise: float = 0.1, **kwargs: Any
    ) -> None:
        super().__init__(space, condition_space, **kwargs)
        self.width = width
        self.noise = noise
        self.net = keras.Sequential([keras.layers.Dense(width, activation="tanh"), keras.layers.Dense(space.size)])
        self.seed_generator = SeedGenerator()

    def mean(self, condition: dict[str, Any]) -> Any:
        return ops.cast(ops.reshape(self.net(condition["pooled"]), (-1, *self.space.shape)), "float32")

    def compute_losses(self, x: Any, condition: dict[str, Any], training: bool) -> dict[str, Any]:
        noise = self.noise * per_example(keras.random.normal, ops.shape(x), self.seed_generator)
        loss = ops.mean(ops.square(x + noise - self.mean(condition)), axis=(1, 2, 3))
        return {"loss": loss, "noise": ops.mean(noise, axis=(1, 2, 3))}

    def noise_spec(self, **options: Any) -> dict[str, NoiseSpec]:
        return {"z": NoiseSpec("normal", self.space.shape)}

    def generate(
        self, condition: dict[str, Any], null_condition: dict[str, Any], noise: dict[str, Any], *, spread: float = 0.1
    ) -> Any:
        return self.mean(condition) + spread * noise["z"]


class Editor(Painter):
    """Starts from an image, too: it goes a part of the way to the mean."""

    def generate(
        self,
        condition: dict[str, Any],
        null_condition: dict[str, Any],
        noise: dict[str, Any],
        source: Any = None,
        *,
        strength: Strength = 0.5,
    ) -> Any:
        made = super().generate(condition, null_condition, noise)
        return made if source is None else (1.0 - strength) * source + strength * made


class Codec(Decoder):
    """A trained decoder: a convolution either way, to half the height and width, and latents of unit variance."""

    def __init__(self, image_space: Space, *, channels: int = 2, **kwargs: Any) -> None:
        super().__init__(image_space, **kwargs)
        self.channels = channels
        self.down = keras.layers.Conv2D(channels, 2, strides=2)
        self.up = keras.layers.Conv2DTranspose(image_space.shape[-1], 2, strides=2)

    def build(self, input_shape: None = None) -> None:
        self.down.build((None, *self.image_space.shape))
        self.up.build((None, *self.latent_space.shape))
        self.deviation = self.add_weight(shape=(), initializer="ones", trainable=False, name="deviation")

    @property
    def latent_space(self) -> Space:
        height, width, _ = self.image_space.shape
        return Space("continuous", (height // 2, width // 2, self.channels), bounded=False)

    def encode(self, images: Any) -> Any:
        return self.down(images) / self.deviation

    def decode(self, latent: Any, condition: dict[str, Any], noise: dict[str, Any]) -> Any:
        return self.up(latent * self.deviation)

    def compute_losses(self, images: Any, condition: dict[str, Any], training: bool) -> dict[str, Any]:
        error = self.decode(self.encode(images), condition, {}) - images
        return {"loss": ops.mean(ops.square(error), axis=(1, 2, 3))}

    def calibrate(self, batches: Iterable[np.ndarray]) -> None:
        self.deviation.assign(self.deviation * self._measured(batches))

    def scores(self, batches: Iterable[np.ndarray]) -> dict[str, float]:
        return {"latent deviation": self._measured(batches)}

    def _measured(self, batches: Iterable[np.ndarray]) -> float:
        encoded = [self.encode(batch.astype("float32") / 127.5 - 1.0) for batch in batches]
        return float(np.concatenate([ops.convert_to_numpy(latents) for latents in encoded]).std())


class Patterns(Dataset):
    """Random images that never change, each with a caption of its own; the last one is held out."""

    def __init__(self, *, count: int = 24, size: int = 8) -> None:
        self.count, self.size = count, size
        self._images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.uint8)

    @property
    def image_space(self) -> Space:
        return Space("continuous", (self.size, self.size, 3))

    def captions(self, split: Split) -> list[str]:
        names = [f"pattern {i}" for i in range(self.count)]
        return {"train": names[:-1], "validation": [], "holdout": names[-1:]}[split]

    def image(self, split: Split, index: int) -> np.ndarray:
        return self._images[index if split == "train" else -1]
