"""Reads the public weights of the Inception network of 2015, in the layouts of three tools."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from kgen_plugin_vision.torch_file import read_torch_file
from kgen_plugin_vision.torchscript import is_torchscript, read_torchscript

from kgen import ConfigError
from kgen_plugin_metrics.features.inception_network import build

Weights = dict[str, np.ndarray]

EPSILON = 1e-3
"""The epsilon of the batch normalization."""


def load(file: Path) -> tuple[keras.Model, np.ndarray]:
    """Returns the network of `inception_network.build` with the weights of a file, and the bias of the logits (1008,).

    Raises:
        ConfigError: The file is missing or damaged, or holds another network.
    """
    weights, scripted = _read(file)
    network, convolutions, last = build()
    folded, name = (_folded_scripted, "output") if scripted else (_folded, "fc")
    try:
        for names, layer in convolutions.items():
            layer.set_weights(folded(weights, names[scripted], layer.kernel.shape))
        last.set_weights([_take(weights, f"{name}.weight", (1008, 2048)).T])
        return network, _take(weights, f"{name}.bias", (1008,)).astype(np.float32)
    except ValueError as error:
        raise ConfigError(
            f"inception: {file} does not hold the Inception network of 2015: {error}. It must be the file that "
            "torch-fidelity, pytorch-fid or clean-fid downloads; weights of torchvision or Keras are of another network"
        ) from error


def _read(file: Path) -> tuple[Weights, bool]:
    """Returns the tensors of a file, and whether it is the TorchScript file."""
    try:
        scripted = is_torchscript(file)
        return (read_torchscript if scripted else read_torch_file)(file), scripted
    except FileNotFoundError as error:
        raise ConfigError(f"inception: there is no file {file}, which should hold the network's weights") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"inception: the weights cannot be read: {error}. Is the download complete?") from error


def _take(weights: Weights, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a tensor in float64, in which batch normalization is folded. Raises ValueError if it is not there."""
    if name not in weights:
        raise ValueError(f"it has no tensor {name}")
    if weights[name].shape != shape:
        raise ValueError(f"its {name} has the shape {weights[name].shape}, not {shape}")
    return weights[name].astype(np.float64)


def _folded(weights: Weights, name: str, shape: tuple[int, int, int, int]) -> list[np.ndarray]:
    """Returns kernel (h, w, in, out) and bias (out,) of a convolution in a state dict."""
    height, width, inputs, outputs = shape
    kernel = _take(weights, f"{name}.conv.weight", (outputs, inputs, height, width))
    gain, bias, mean, variance = (
        _take(weights, f"{name}.bn.{part}", (outputs,)) for part in ("weight", "bias", "running_mean", "running_var")
    )
    return _normalized(kernel, gain, bias, mean, variance)


def _folded_scripted(weights: Weights, name: str, shape: tuple[int, int, int, int]) -> list[np.ndarray]:
    """Returns kernel (h, w, in, out) and bias (out,) of a convolution in the TorchScript file, which has no gain."""
    height, width, inputs, outputs = shape
    kernel = _take(weights, f"layers.{name}.weight", (outputs, inputs, height, width))
    bias, mean, variance = (_take(weights, f"layers.{name}.{part}", (outputs,)) for part in ("beta", "mean", "var"))
    return _normalized(kernel, np.ones(outputs), bias, mean, variance)


def _normalized(kernel: np.ndarray, gain: np.ndarray, bias: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> list:
    gain = gain / np.sqrt(variance + EPSILON)  # (out,)
    return [(kernel * gain[:, None, None, None]).transpose(2, 3, 1, 0), bias - mean * gain]
