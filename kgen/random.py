"""Random numbers: different on each replica in training, and a function of each image's key in sampling.

`SeedGenerator` is for training. For sampling, a component declares the noise of an image as `NoiseSpec`s, and `sample`
generates it on the host, one image at a time. A sampler that needs new noise in many steps declares a "key" and calls
`normal` or `uniform` in the graph. These are counter-based (Threefry-2x32, Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"), so that the noise of an image depends only on its key, and is the same on every backend.
"""

from __future__ import annotations

import hashlib
import math
import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from kgen.backend.replicas import replica_count, replica_id
from kgen.backend.steps.micro_batch import current, drawing_for_all

Tensor = Any

MAX_SEED = 2**31 - 1
"""The largest seed that run files, the command line and Python accept."""


def seed_everything(seed: int) -> None:
    """Seeds the random numbers that Keras generates without an explicit seed (initial weights, dropout).

    It replaces `keras.utils.set_random_seed`, which imports TensorFlow if it is installed.
    """
    random.seed(seed)  # Keras seeds its generators from here
    np.random.seed(seed)


@contextmanager
def kept_randomness() -> Iterator[None]:
    """Restores the global random state after the block, so that later layers get the same seeds as without it."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


class SeedGenerator(keras.random.SeedGenerator):  # type: ignore[misc]
    """A `keras.random.SeedGenerator` whose seeds differ on every replica of a tf.distribute strategy.

    It always has a seed: on PyTorch, Keras's dropout ignores a generator that was made without one, and uses PyTorch's
    global random numbers, which no checkpoint contains.
    """

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(random.randint(1, 10**9) if seed is None else seed, **kwargs)

    def next(self, ordered: bool = True) -> Tensor:
        seed = super().next(ordered)
        if (micro_batch := current()) is not None and micro_batch.draws_all:
            seed = ops.subtract(seed, micro_batch.seed_offset(seed.dtype))
        if replica_count() == 1:
            return seed
        offset = ops.cast(ops.multiply(replica_id(), 1_000_003), seed.dtype)
        return ops.stack([seed[0] + offset, seed[1]])


def per_example(draw: Callable[..., Tensor], shape: Sequence[Any], seed: Any) -> Tensor:
    """Random numbers for each example of a batch, in training.

    With gradient accumulation, a network computes a part of the batch at a time. An example then gets the numbers that
    it would get if the whole batch was computed at once. Without this function, its numbers would be as random, but
    others; use it for everything that a loss draws, but not for dropout.

    Args:
        draw: Function of a shape and `seed`, such as `keras.random.normal`. The first axis is that of the examples.
        shape: (B, ...), the shape of the result.
        seed: A `SeedGenerator`.

    Returns:
        (B, ...).
    """
    with drawing_for_all() as micro_batch:
        if micro_batch is None or not isinstance(seed, SeedGenerator):
            return draw(tuple(shape), seed=seed)
        return micro_batch.rows(draw((shape[0] * micro_batch.count, *shape[1:]), seed=seed))


@dataclass(frozen=True)
class NoiseSpec:
    """Random numbers that one image needs.

    Args:
        kind: "normal" (mean 0, variance 1), "uniform" (in [0, 1)), or "key" (two int32 numbers, whatever the shape,
            from which `normal` and `uniform` of this module generate any amount of noise).
        shape: Shape for one image, without the batch axis.
    """

    kind: Literal["normal", "uniform", "key"]
    shape: tuple[int, ...] = (2,)


NoiseKey = tuple[int, ...]
"""Key of one image: (seed, copy), or (seed, copy, *numbers of the prompt). No number is negative."""


def noise_keys(
    prompts: Sequence[str], seeds: Sequence[int], n: int, shared: bool = False, first: int | Sequence[int] = 0
) -> list[NoiseKey]:
    """The keys of `n` images per prompt; those of the same prompt are neighbors.

    A key holds the seed, the number of the copy and a hash of the prompt. The noise of different prompts is therefore
    independent, and the noise of an image does not depend on the other images. If a prompt occurs several times with
    the same seed, the number of the copy continues: `n` copies of a prompt that is given twice are the same images as
    `2 * n` copies of a prompt that is given once.

    Args:
        prompts: Any texts.
        seeds: One per prompt, from 0 to `MAX_SEED`.
        n: Images per prompt.
        shared: Whether keys are (seed, copy), without the prompt, with copies counted from 0 for each prompt in the
            list. Images of different prompts, or of a repeated prompt, then start from the same noise.
        first: The number of the first copy; or one number per prompt, which does not continue with repeated prompts.
    """
    firsts = [first] * len(prompts) if isinstance(first, int) else first
    if shared:
        return [(seed, start + copy) for seed, start in zip(seeds, firsts, strict=True) for copy in range(n)]
    given: Counter[tuple[int, str]] = Counter()
    keys: list[NoiseKey] = []
    for prompt, seed, start in zip(prompts, seeds, firsts, strict=True):
        before = start + n * given[seed, prompt]
        given[seed, prompt] += isinstance(first, int)
        digest = hashlib.blake2b(prompt.encode(), digest_size=16).digest()
        words = np.frombuffer(digest, "<u4").tolist()
        keys += [(seed, before + copy, *words) for copy in range(n)]
    return keys


def sample(specs: Mapping[str, NoiseSpec], keys: Sequence[NoiseKey]) -> dict[str, np.ndarray]:
    """Generates the noise of a batch, each image from its own key.

    Args:
        specs: The random numbers that one image needs, by name.
        keys: The key of every image, from `noise_keys`.

    Returns:
        Arrays (B, *shape) by name: float32, or int32 for keys.
    """
    return {
        name: np.stack([_sample_one(spec, zlib.crc32(name.encode()), key) for key in keys])
        for name, spec in specs.items()
    }


def _sample_one(spec: NoiseSpec, stream: int, key: NoiseKey) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([*key, stream])))
    if spec.kind == "key":
        return rng.integers(-(2**31), 2**31, size=2, dtype=np.int64).astype(np.int32)
    numbers = rng.standard_normal(spec.shape) if spec.kind == "normal" else rng.random(spec.shape)
    # float32 rounds numbers just below 1 up to 1: this keeps the half-open interval
    return numbers.astype(np.float32) if spec.kind == "normal" else np.minimum(numbers, 1 - 2**-24).astype(np.float32)


def interpolate(
    specs: Mapping[str, NoiseSpec], first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], at: np.ndarray
) -> dict[str, np.ndarray]:
    """Interpolates between the noise of two images.

    Normal noise is interpolated spherically, which keeps its norm. Other kinds stay those of `first`.

    Args:
        specs: The random numbers that one image needs, by name.
        first, second: Arrays (1, *shape) by name, from `sample`.
        at: (N,) positions from 0, the first, to 1, the second.

    Returns:
        Arrays (N, *shape) by name.
    """
    return {
        name: spherical(first[name], second[name], at)
        if spec.kind == "normal"
        else np.repeat(first[name], len(at), axis=0)
        for name, spec in specs.items()
    }


def spherical(first: np.ndarray, second: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Interpolates spherically between two vectors (Shoemake 1985). The norm changes only if those of the two differ.

    Args:
        first, second: Arrays (1, *shape).
        at: (N,) positions from 0, the first, to 1, the second.

    Returns:
        (N, *shape) float32; the linear interpolation if the two have the same or opposite directions.
    """
    at = at.reshape(-1, *(1 for _ in first.shape[1:]))
    cosine = np.sum(first * second) / (np.linalg.norm(first) * np.linalg.norm(second))
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if np.sin(angle) < 1e-6:
        return np.asarray((1.0 - at) * first + at * second, np.float32)
    return np.asarray((np.sin((1.0 - at) * angle) * first + np.sin(at * angle) * second) / np.sin(angle), np.float32)


def normal(keys: Tensor, counter: Tensor, shape: Sequence[int]) -> Tensor:
    """Normal noise in the graph (Box and Muller 1958).

    Args:
        keys: (B, 2) int32, one key per image.
        counter: int32 scalar that numbers the calls for an image, such as the sampling step.
        shape: Shape for one image.

    Returns:
        (B, *shape) float32.
    """
    first, second = _bits(keys, counter, math.prod(shape))
    radius = ops.sqrt(-2.0 * ops.log(_unit(first) + 2.0**-25))
    return ops.reshape(radius * ops.cos(2.0 * math.pi * _unit(second)), (-1, *shape))


def uniform(keys: Tensor, counter: Tensor, shape: Sequence[int]) -> Tensor:
    """Uniform noise in [0, 1), with the arguments of `normal`."""
    return ops.reshape(_unit(_bits(keys, counter, math.prod(shape))[0]), (-1, *shape))


def _unit(bits: Tensor) -> Tensor:
    return ops.cast(_shift_right(bits, 8), "float32") * 2.0**-24  # 24 bits fill a float32's mantissa


def _bits(keys: Tensor, counter: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Two (B, count) int32 arrays of random bits."""
    index = ops.arange(count, dtype="int32")[None, :]  # (1, N)
    counter = ops.broadcast_to(ops.cast(counter, "int32"), ops.shape(index))
    return threefry(keys[:, :1], keys[:, 1:], index, counter)


_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry(key0: Tensor, key1: Tensor, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    """Threefry-2x32 with 20 rounds, on int32, whose sums wrap around as the algorithm requires."""
    keys = (key0, key1, key0 ^ key1 ^ np.int32(0x1BD11BDA))
    x0, x1 = x0 + key0, x1 + key1
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = _rotate_left(x1, rotation) ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + np.int32(group + 1)
    return x0, x1


def _rotate_left(x: Tensor, bits: int) -> Tensor:
    return ops.bitwise_or(ops.left_shift(x, np.int32(bits)), _shift_right(x, 32 - bits))


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift (the shift of int32 would copy the sign bit)."""
    return ops.bitwise_and(ops.right_shift(x, np.int32(bits)), np.int32((1 << (32 - bits)) - 1))
