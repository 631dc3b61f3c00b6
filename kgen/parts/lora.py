"""Low-rank adaptation (LoRA): two small factors beside each frozen kernel are trained (Hu et al. 2022).

Keras's `enable_lora` adds the factors A and B to dense layers, and computes with `kernel + alpha / rank * A B`. What
Keras lacks is here: it selects layers by path, freezes all other weights (Keras leaves biases trainable), and merges.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from kgen.backend.variables import copied
from kgen.errors import ConfigError
from kgen.parts.freezing import freeze
from kgen.parts.patterns import ALL, check_patterns, matches, select
from kgen.storage.paths import weight_paths
from kgen.storage.weights import Variables

LAYERS = (keras.layers.Dense, keras.layers.EinsumDense)
"""The layers that can have LoRA; attention consists of them."""

FACTORS = ("lora_kernel_a", "lora_kernel_b")
"""Keras's names of the factors."""


def add_lora(
    model: keras.Model, rank: int, *, alpha: float | None = None, targets: Sequence[str] = ALL
) -> dict[str, keras.layers.Layer]:
    """Adds LoRA to dense layers, and freezes all other weights, biases too. The model computes the same as before.

    Call it before `compile`. Projections that are fused in one layer, such as queries, keys and values, have separate
    factors (`kgen.nn.FusedDense`). `merge_lora` puts what was trained into the kernels, as `kgen.save` does in the
    files.

    Args:
        model: A `Pipeline`, or another model that has parts as attributes.
        rank: The rank of the factors, at least 1.
        alpha: The product of the factors is multiplied by `alpha / rank`; None: by 1.
        targets: Patterns of the paths of kernels, or of layers that contain them: see `kgen.weight_paths`. They select
            kernels of `Dense` and `EinsumDense` layers that are not frozen.

    Returns:
        The layers with LoRA, by the paths of their kernels.

    Raises:
        ConfigError: a pattern matches no such kernel; or the model is already compiled, or already has LoRA.
    """
    if rank < 1 or (alpha is not None and alpha <= 0):
        raise ConfigError(f"LoRA needs a rank of at least 1 and a positive alpha, not {rank} and {alpha}")
    if getattr(model, "compiled", False):
        raise ConfigError("add LoRA before compile: the optimizer of a compiled model already has its weights")
    layers = lora_targets(model, targets)
    for layer in layers.values():
        layer.enable_lora(rank, rank if alpha is None else alpha, a_initializer=_first())
    freeze(model, trainable=[f"*/{factor}" for factor in FACTORS])
    forget_programs(model)
    return layers


def lora_targets(model: keras.Model, targets: Sequence[str] = ALL) -> dict[str, keras.layers.Layer]:
    """The layers that `add_lora` would change, by the paths of their kernels. Raises ConfigError as it does."""
    if lora_layers(model):
        raise ConfigError("the model already has LoRA: put it into the kernels first, with kgen.merge_lora")
    paths = weight_paths(model, model.weights)
    layers = {id(layer._kernel): layer for layer in _flat(model) if isinstance(layer, LAYERS) and layer.built}
    found = {path: layers[id(weight)] for path, weight in paths.items() if id(weight) in layers and weight.trainable}
    if not found:
        raise ConfigError("LoRA needs a dense layer that is not frozen, and the model has none")
    check_patterns("LoRA targets", targets, paths)
    for pattern in targets:
        if not any(matches(path, [pattern]) for path in found):
            raise ConfigError(f"LoRA targets: '{pattern}' matches no kernel of a dense layer that is not frozen")
    return {path: found[path] for path in select(found, targets, ())}


def lora_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers of a model that have LoRA."""
    return [layer for layer in _flat(model) if isinstance(layer, LAYERS) and layer.lora_enabled]


def lora_kernels(model: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
    """The layers of a model that have LoRA, by the paths of their kernels."""
    paths = {id(weight): path for path, weight in weight_paths(model, model.weights).items()}
    return {paths[id(layer._kernel)]: layer for layer in lora_layers(model)}


def merge_lora(model: keras.layers.Layer) -> int:
    """Adds the product of the factors to each kernel, and removes the factors.

    Which weights are frozen does not change. Compile a model again before its training goes on.

    Returns:
        Number of layers that had LoRA.
    """
    layers = lora_layers(model)
    for layer in layers:
        layer._kernel.assign(merged_kernel(layer))
        layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
        for factor in FACTORS:
            layer._untrack_variable(getattr(layer, factor))
            setattr(layer, factor, None)
    forget_programs(model)
    return len(layers)


def merged_kernel(layer: keras.layers.Layer) -> np.ndarray:
    """The kernel of a layer with LoRA, with the product of its factors, in the kernel's type."""
    kernel, a, b = (copied(weight) for weight in (layer._kernel, layer.lora_kernel_a, layer.lora_kernel_b))
    merged: np.ndarray = kernel.astype(np.float32) + layer.lora_alpha / layer.lora_rank * product(a, b)
    return merged.astype(kernel.dtype)


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product of the factors (..., P r) and (r, units) of P fused projections, or of one: (..., units)."""
    parts = a.shape[-1] // b.shape[0]
    pairs = zip(np.split(a, parts, axis=-1), np.split(b, parts, axis=-1), strict=True)
    return np.concatenate([one @ other for one, other in pairs], axis=-1)


def merged_weights(weights: Variables, layers: Iterable[keras.layers.Layer]) -> dict[str, Any]:
    """Weights by path as they are saved: without factors, whose products are added to arrays of the kernels.

    Args:
        weights: The weights.
        layers: The parts that have them.
    """
    kernels = {id(layer._kernel): layer for part in layers for layer in lora_layers(part)}
    return {
        path: merged_kernel(kernels[id(weight)]) if id(weight) in kernels else weight
        for path, weight in without_factors(weights).items()
    }


def without_factors(weights: Variables) -> dict[str, Any]:
    """The weights by path that are not factors of LoRA."""
    return {path: weight for path, weight in weights.items() if not is_factor(path)}


def is_factor(path: str) -> bool:
    """Whether the path of a weight is that of a factor of LoRA."""
    return path.rpartition("/")[2] in FACTORS


def _first() -> keras.initializers.Initializer:
    """The initializer of A: uniform within 1 / sqrt(inputs), as in loralib and PEFT. B is zero at first."""
    return keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")


def _flat(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    return list(model._flatten_layers())


def forget_programs(model: Any) -> None:
    """Drops the compiled programs of a model, which compute without the factors, or with those that are removed."""
    if (programs := getattr(model, "programs", None)) is not None:
        programs.clear()
    if isinstance(model, keras.Model):
        model.train_function = model.test_function = model.predict_function = None
