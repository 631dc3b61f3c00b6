"""Metrics by the embeddings of a trained contrastive model: the CLIP score, and CMMD."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from keras import ops
from pydantic import Field, PositiveInt

from kgen import ConfigError, DataError, Dataset, Encoder, GeneratedImages, Metric, Split, open_encoder
from kgen.backend.compiled import Compiled
from kgen_plugin_clip.encoders import BATCH, Clip, ClipImage
from kgen_plugin_clip.images import floats
from kgen_plugin_clip.pretrained.model import layout_of
from kgen_plugin_clip.retrieval import recall

Run = Annotated[str, Field(min_length=1)]

SIGMA = 10.0
"""The bandwidth of the kernel in the published code of Jayasumana et al. 2024."""

SCALE = 1000.0
"""The factor of the distance in that code."""


class Embedder:
    """The embeddings of images and texts by a contrastive model.

    Args:
        path: A run with `clip/clip` as its encoder; a folder that `kgen.save` wrote; or the folder of a published
            model, which `Clip` takes as `pretrained`.

    Raises:
        ConfigError: the encoder of the run is another one, or the folder has no model.
    """

    def __init__(self, path: str) -> None:
        encoder = _published(path) or open_encoder(Path(path))
        if not isinstance(encoder, Clip) or isinstance(encoder, ClipImage):
            raise ConfigError(f"model: the encoder of {path} is {type(encoder).__name__}: give a run with 'clip/clip'")
        self.encoder: Clip = encoder
        self._images = Compiled(lambda batch: encoder.embed_images(floats(batch["image"])), [encoder])
        self._texts = Compiled(lambda batch: encoder.embed_texts(batch), [encoder])

    @functools.cached_property
    def digest(self) -> str:
        """A hash of the weights."""
        return _digest(self.encoder)

    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Embeds images uint8 (height, width, channels) of any size: float32 (N, D), of unit length."""
        batch = {"image": self.encoder.prepared(images)}
        return np.asarray(self._images.run(batch, len(images), BATCH))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts: float32 (N, D), of unit length."""
        return np.asarray(self._texts.run(self.encoder.tokenize(texts), len(texts), BATCH))


def _published(path: str) -> Clip | None:
    """The model of a folder in another library's layout, with its weights; None for other folders."""
    if layout_of(Path(path).expanduser()) is None:
        return None
    encoder = Clip(pretrained=path, dtype="float32")  # in any run, so that numbers compare
    encoder.adapt([])
    encoder.null_condition()  # which builds it
    encoder.trainable = False
    return encoder


def _digest(encoder: Clip) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for weight in encoder.weights:
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(weight)).tobytes())
    return digest.hexdigest()


class _ByModel(Metric):
    """A metric that uses a contrastive model, which it loads at the first use. Constructors of subclasses call `_use`.

    The images may have any shapes, because `Embedder.images` resizes and crops each of them.
    """

    any_shape: ClassVar[bool] = True

    def _use(self, model: str) -> None:
        self.model = model
        self._embedder: Embedder | None = None

    @property
    def embedder(self) -> Embedder:
        if self._embedder is None:
            self._embedder = Embedder(self.model)
        return self._embedder

    def bias_towards(self, encoder: Encoder) -> str:
        parts = (part for part in encoder.parts() if isinstance(part, Clip) and part.built)
        if all(_digest(part) != self.embedder.digest for part in parts):
            return ""
        return f"{self.model} is also the encoder of the generator, which it favors: judge by another model"

    def protocol(self) -> Mapping[str, str | int | float | bool]:
        resize = self.embedder.encoder.preparation
        return {"model": self.embedder.digest, "resize": resize, "source format": "uint8"}


class ClipScore(_ByModel):
    """The CLIP score (Hessel et al. 2021): 100 times the mean cosine of images and their prompts, at least 0.

    The definition is that of torchmetrics, whose factor is 100.

    Args:
        model: A run, or a saved pipeline, whose encoder is `clip/clip`; or the folder of a published model.
    """

    better: ClassVar[Literal["higher", "lower"] | None] = "higher"

    def __init__(self, *, model: Run) -> None:
        self._use(model)

    def update(self, batch: GeneratedImages) -> None:
        images, texts = self.embedder.images(list(batch.images)), self.embedder.texts(list(batch.prompts))
        self.add(cosines=np.sum(images * texts, axis=1, dtype=np.float64).sum(), count=len(images))

    def compute(self) -> Mapping[str, float]:
        return {"score": max(100.0 * float(self.sums["cosines"] / self.sums["count"]), 0.0)}


class ZeroShot(_ByModel):
    """Zero-shot classification: the share of images whose prompt is among the k captions that the model finds nearest.

    The classes are the different captions of the dataset, of all its splits (Radford et al. 2021, section 3.1.2, with
    the captions themselves as prompts).

    Args:
        model: A run, or a saved pipeline, whose encoder is `clip/clip`; or the folder of a published model.
        k: The numbers of captions that are looked at.
    """

    better: ClassVar[Literal["higher", "lower"] | None] = "higher"

    def __init__(self, *, model: Run, k: tuple[PositiveInt, ...] = (1, 5)) -> None:
        if not k:
            raise ValueError("k needs at least one number")
        self._use(model)
        self.k = k
        self._classes: list[str] = []

    def start(self, dataset: Dataset, split: Split) -> None:
        super().start(dataset, split)
        splits: tuple[Split, ...] = ("train", "validation", "holdout")
        self._classes = list(dict.fromkeys(caption for each in splits for caption in dataset.captions(each)))
        self._texts = self.embedder.texts(self._classes)  # (M, D)

    def update(self, batch: GeneratedImages) -> None:
        similarity = self.embedder.images(list(batch.images)) @ self._texts.T  # (B, M)
        relevant = np.array(batch.prompts, object)[:, None] == np.array(self._classes, object)[None, :]  # (B, M)
        found = {f"top {k}": recall(similarity, relevant, k) * len(batch.images) for k in self.k}
        self.add(count=len(batch.images), **found)

    def compute(self) -> Mapping[str, float]:
        return {f"top {k}": float(self.sums[f"top {k}"] / self.sums["count"]) for k in self.k}


class CMMD(_ByModel):
    """The squared maximum mean discrepancy of CLIP embeddings (Jayasumana et al. 2024), times 1000.

    The kernel is exp(-|x - y|^2 / (2 sigma^2)) with sigma = 10. The estimate is that of the published code, which
    includes the pairs of an image with itself.

    Args:
        model: A run, or a saved pipeline, whose encoder is `clip/clip`; or the folder of a published model.
        reference: The split of the dataset whose images are the reference.

    Raises:
        DataError: in `compute`, the split has no images.
    """

    better: ClassVar[Literal["higher", "lower"] | None] = "lower"
    reads_prompts: ClassVar[bool] = False

    def __init__(self, *, model: Run, reference: Literal["train", "validation", "holdout"] = "train") -> None:
        self._use(model)
        self.reference = reference
        self._rows: list[np.ndarray] = []

    def start(self, dataset: Dataset, split: Split) -> None:
        super().start(dataset, split)
        self._rows = []

    def update(self, batch: GeneratedImages) -> None:
        self._rows.append(self.embedder.images(list(batch.images)))

    def state(self) -> Mapping[str, np.ndarray]:
        return {"rows": np.concatenate(self._rows)} if self._rows else {}

    def merge(self, state: Mapping[str, np.ndarray]) -> None:
        self._rows += list(state.values())

    def compute(self) -> Mapping[str, float]:
        count = len(self.dataset.captions(self.reference))
        if not count:
            raise DataError(f"cmmd: the dataset has no images in the split '{self.reference}': choose another")
        chunks = (range(start, min(start + BATCH, count)) for start in range(0, count, BATCH))
        real = [self.embedder.images([self.dataset.image(self.reference, row) for row in rows]) for rows in chunks]
        return {"distance": discrepancy(np.concatenate(self._rows), np.concatenate(real))}

    def protocol(self) -> Mapping[str, str | int | float | bool]:
        return {**super().protocol(), "reference": self.reference}


def discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    """CMMD of embeddings (N, D) and (M, D) of unit length, in float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return SCALE * (_kernel_mean(x, x) + _kernel_mean(y, y) - 2.0 * _kernel_mean(x, y))


def _kernel_mean(x: np.ndarray, y: np.ndarray) -> float:
    """The mean of the kernel over all pairs, row block by row block."""
    total = 0.0
    for start in range(0, len(x), 1024):
        rows = x[start : start + 1024]
        squares = np.square(rows).sum(1)[:, None] + np.square(y).sum(1)[None, :] - 2.0 * rows @ y.T
        total += float(np.exp(-squares / (2.0 * SIGMA**2)).sum())
    return total / (len(x) * len(y))
