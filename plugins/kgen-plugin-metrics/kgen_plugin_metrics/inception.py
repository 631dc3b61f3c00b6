"""The Inception network of FID: the graph of December 2015, which is not `keras.applications.InceptionV3`.

It is Inception-v3 (Szegedy et al. 2016, table 1) with the weights of TensorFlow's `inception-2015-12-05.tgz`, from
which Heusel et al. 2017 compute FID. It differs from later releases: its average pools count no padding, the last
block (Mixed_7c) has a max pool, and there are 1008 logits. Three public tools contain it. Their distances differ
because they resize and scale the images differently; this module computes the features of each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers
from kgen_plugin_vision.torch_file import read_torch_file

from kgen import ConfigError, DataError
from kgen_plugin_metrics.resize import SIZE, pil_bicubic, tf1_bilinear, torch_bilinear
from kgen_plugin_metrics.torchscript import is_torchscript, read_torchscript

Tensor = Any
Weights = dict[str, np.ndarray]
Convolutions = dict[tuple[str, str], layers.Conv2D]
"""The convolutions by their names: that in state dicts, and that in the TorchScript file."""

PUBLISHED_HASH = "6726825d"
"""First digits of the SHA-256 of the file that torch-fidelity and pytorch-fid publish, each under its own name."""

EPSILON = 1e-3  # of the batch normalization


@dataclass(frozen=True)
class Protocol:
    """How a tool prepares images for the network.

    Args:
        resize: Maps images (B, H, W, 3), 0..255, to (B, 299, 299, 3).
        resizing: Name of `resize`, for the record of a measurement.
        scale: Maps 0..255 to the network's input.
        scaling: Formula of `scale`, for the same record.
    """

    resize: Callable[[Tensor], Tensor]
    resizing: str
    scale: Callable[[Tensor], Tensor]
    scaling: str


def _centered(x: Tensor) -> Tensor:
    return (x - 128.0) / 128.0


PROTOCOLS: Mapping[str, Protocol] = {
    "torch-fidelity": Protocol(tf1_bilinear, "TF1 bilinear", _centered, "(x - 128) / 128"),
    "pytorch-fid": Protocol(torch_bilinear, "PyTorch bilinear", lambda x: 2.0 * (x / 255.0) - 1.0, "2 x / 255 - 1"),
    "clean": Protocol(pil_bicubic, "PIL bicubic", _centered, "(x - 128) / 128"),
}


class Inception:
    """Computes the features from which FID and its relatives are computed, as one of the public tools does.

    Attributes:
        name: Name of the features, for tables of measurements.
        dim: Number of features.
        weights_hash: SHA-256 of the file. That of torch-fidelity and pytorch-fid starts with `PUBLISHED_HASH`.
        protocol: What a value depends on besides the images: protocol, network, weights_hash, resize, scaling.

    Args:
        path: File of weights, in any of the public layouts, which hold the same network: torch-fidelity's
            `weights-inception-2015-12-05-6726825d.pth`, pytorch-fid's `pt_inception-2015-12-05-6726825d.pth`, or the
            TorchScript file `inception-2015-12-05.pt` that clean-fid and StyleGAN's metrics use.
        protocol: The tool whose features are computed: "torch-fidelity", "pytorch-fid" or "clean" (clean-fid).

    Raises:
        ConfigError: The file is missing or damaged, or holds another network; or the protocol is unknown.
    """

    name = "inception-2015"
    dim = 2048

    def __init__(self, path: str | Path, protocol: str = "torch-fidelity") -> None:
        if protocol not in PROTOCOLS:
            raise ConfigError(f"inception: the protocol is {protocol!r}, but must be one of {', '.join(PROTOCOLS)}")
        file = Path(path)
        self._prepare = PROTOCOLS[protocol]
        self._network, self._output_bias = _load(file)
        self.weights_hash = _sha256(file)
        self.protocol: Mapping[str, str] = {
            "protocol": protocol,
            "network": self.name,
            "weights_hash": self.weights_hash,
            "resize": f"{self._prepare.resizing} to {SIZE}",
            "scaling": self._prepare.scaling,
        }

    def __call__(self, images: Any) -> dict[str, np.ndarray]:
        """Computes the features and logits of images.

        Args:
            images: uint8 (B, H, W, 3), of any size. The network is compiled anew for another B.

        Returns:
            "features": float32 (B, 2048), the input of the last layer. FID and KID are computed from it.
            "logits": float32 (B, 1008), the output of the last layer.
            "logits_unbiased": float32 (B, 1008), the same without the layer's bias. The inception score is computed
                from it, because its first implementation (Salimans et al. 2016) left the bias out.

        Raises:
            DataError: The images have another type or shape.
        """
        shape, dtype = tuple(images.shape), keras.backend.standardize_dtype(images.dtype)
        if len(shape) != 4 or shape[-1] != 3 or dtype != "uint8":
            raise DataError(f"inception: expected images of uint8 (B, H, W, 3), but got {dtype} {shape}")
        x = self._prepare.scale(self._prepare.resize(images))  # (B, 299, 299, 3)
        features, logits = self._network.predict_on_batch(x)
        return {"features": features, "logits": logits + self._output_bias, "logits_unbiased": logits}


@dataclass(frozen=True)
class Conv:
    """A convolution with its batch normalization folded in, and a ReLU.

    Args:
        name: Its name in a state dict, inside of its block.
        scripted: Its name in the TorchScript file, inside of its block.
        filters: Number of output channels.
        size: Height and width of the kernel, or both.
        strides: Strides.
        padding: "same" for an output of the input's size, with zeros around the input; "valid" for no padding.
    """

    name: str
    scripted: str
    filters: int
    size: int | tuple[int, int] = 1
    strides: int = 1
    padding: str = "same"

    def build(self, x: Tensor, found: Convolutions, scope: str = "", scripted_scope: str = "") -> Tensor:
        """Maps (B, h, w, C) to (B, h', w', filters), and adds the layer to `found`."""
        path = f"{scope}{self.name}"
        found[path, f"{scripted_scope}{self.scripted}"] = layer = layers.Conv2D(
            self.filters,
            self.size,
            strides=self.strides,
            padding=self.padding,
            activation="relu",
            kernel_initializer="zeros",  # the file's weights replace them
            data_format="channels_last",
            dtype="float32",
            name=path.replace(".", "_"),
        )
        return layer(x)


@dataclass(frozen=True)
class Pool:
    """The maximum or the average of 3 x 3 windows; padding never counts.

    With strides of 1, the output has the input's size. With strides of 2, only whole windows count.
    """

    layer: type[layers.Layer]
    strides: int = 1

    def build(self, x: Tensor, found: Convolutions, scope: str = "", scripted_scope: str = "") -> Tensor:
        """Maps (B, h, w, C) to (B, h', w', C)."""
        padding = "same" if self.strides == 1 else "valid"
        return self.layer(3, self.strides, padding=padding, data_format="channels_last", dtype="float32")(x)


@dataclass(frozen=True)
class Fork:
    """Several branches, whose outputs are concatenated.

    Args:
        branches: The steps of each branch.
        name, scripted: Names of the block in a state dict and in the TorchScript file; "" for branches of a branch.
    """

    branches: tuple[tuple[Conv | Pool | Fork, ...], ...]
    name: str = ""
    scripted: str = ""

    def build(self, x: Tensor, found: Convolutions, scope: str = "", scripted_scope: str = "") -> Tensor:
        """Maps (B, h, w, C) to (B, h', w', channels of all branches)."""
        scope = f"{scope}{self.name}." if self.name else scope
        scripted_scope = f"{scripted_scope}{self.scripted}." if self.scripted else scripted_scope
        outputs = []
        for branch in self.branches:
            y = x
            for step in branch:
                y = step.build(y, found, scope, scripted_scope)
            outputs.append(y)
        return layers.Concatenate(axis=-1, dtype="float32")(outputs)


MAX, AVERAGE = Pool(layers.MaxPooling2D), Pool(layers.AveragePooling2D)
SHRINK = Pool(layers.MaxPooling2D, strides=2)


def _block_5(name: str, scripted: str, pooled: int) -> Fork:
    """35 x 35 (Szegedy et al. 2016, figure 5, with a 5 x 5 convolution), `pooled` channels after the pool."""
    one = (Conv("branch1x1", "conv", 64),)
    five = (Conv("branch5x5_1", "tower.conv", 48), Conv("branch5x5_2", "tower.conv_1", 64, 5))
    three = (
        Conv("branch3x3dbl_1", "tower_1.conv", 64),
        Conv("branch3x3dbl_2", "tower_1.conv_1", 96, 3),
        Conv("branch3x3dbl_3", "tower_1.conv_2", 96, 3),
    )
    return Fork((one, five, three, (AVERAGE, Conv("branch_pool", "tower_2.conv", pooled))), name, scripted)


def _block_6a() -> Fork:
    """35 x 35 to 17 x 17 (figure 10)."""
    three = (Conv("branch3x3", "conv", 384, 3, 2, "valid"),)
    double = (
        Conv("branch3x3dbl_1", "tower.conv", 64),
        Conv("branch3x3dbl_2", "tower.conv_1", 96, 3),
        Conv("branch3x3dbl_3", "tower.conv_2", 96, 3, 2, "valid"),
    )
    return Fork((three, double, (SHRINK,)), "Mixed_6a", "mixed_3")


def _block_6(name: str, scripted: str, inner: int) -> Fork:
    """17 x 17 (figure 6, n = 7), with `inner` channels inside of the branches."""
    one = (Conv("branch1x1", "conv", 192),)
    seven = (
        Conv("branch7x7_1", "tower.conv", inner),
        Conv("branch7x7_2", "tower.conv_1", inner, (1, 7)),
        Conv("branch7x7_3", "tower.conv_2", 192, (7, 1)),
    )
    double = (
        Conv("branch7x7dbl_1", "tower_1.conv", inner),
        Conv("branch7x7dbl_2", "tower_1.conv_1", inner, (7, 1)),
        Conv("branch7x7dbl_3", "tower_1.conv_2", inner, (1, 7)),
        Conv("branch7x7dbl_4", "tower_1.conv_3", inner, (7, 1)),
        Conv("branch7x7dbl_5", "tower_1.conv_4", 192, (1, 7)),
    )
    return Fork((one, seven, double, (AVERAGE, Conv("branch_pool", "tower_2.conv", 192))), name, scripted)


def _block_7a() -> Fork:
    """17 x 17 to 8 x 8 (figure 10, with 7 x 7 convolutions)."""
    three = (Conv("branch3x3_1", "tower.conv", 192), Conv("branch3x3_2", "tower.conv_1", 320, 3, 2, "valid"))
    seven = (
        Conv("branch7x7x3_1", "tower_1.conv", 192),
        Conv("branch7x7x3_2", "tower_1.conv_1", 192, (1, 7)),
        Conv("branch7x7x3_3", "tower_1.conv_2", 192, (7, 1)),
        Conv("branch7x7x3_4", "tower_1.conv_3", 192, 3, 2, "valid"),
    )
    return Fork((three, seven, (SHRINK,)), "Mixed_7a", "mixed_8")


def _block_7(name: str, scripted: str, pool: Pool) -> Fork:
    """8 x 8 (figure 7)."""

    def both(name: str, scripted: str) -> Fork:
        wide, high = (f"{name}a", f"{scripted}", 384, (1, 3)), (f"{name}b", f"{scripted}_1", 384, (3, 1))
        return Fork(((Conv(*wide),), (Conv(*high),)))

    one = (Conv("branch1x1", "conv", 320),)
    three = (Conv("branch3x3_1", "tower_conv", 384), both("branch3x3_2", "tower_mixed_conv"))
    double = (
        Conv("branch3x3dbl_1", "tower_1_conv", 448),
        Conv("branch3x3dbl_2", "tower_1_conv_1", 384, 3),
        both("branch3x3dbl_3", "tower_1_mixed_conv"),
    )
    return Fork((one, three, double, (pool, Conv("branch_pool", "tower_2_conv", 192))), name, scripted)


STEPS = (
    Conv("Conv2d_1a_3x3", "conv", 32, 3, 2, "valid"),  # (B, 149, 149, 32)
    Conv("Conv2d_2a_3x3", "conv_1", 32, 3, 1, "valid"),  # (B, 147, 147, 32)
    Conv("Conv2d_2b_3x3", "conv_2", 64, 3),
    SHRINK,  # (B, 73, 73, 64)
    Conv("Conv2d_3b_1x1", "conv_3", 80),
    Conv("Conv2d_4a_3x3", "conv_4", 192, 3, 1, "valid"),  # (B, 71, 71, 192)
    SHRINK,  # (B, 35, 35, 192)
    _block_5("Mixed_5b", "mixed", 32),  # (B, 35, 35, 256)
    _block_5("Mixed_5c", "mixed_1", 64),  # (B, 35, 35, 288)
    _block_5("Mixed_5d", "mixed_2", 64),
    _block_6a(),  # (B, 17, 17, 768)
    _block_6("Mixed_6b", "mixed_4", 128),
    _block_6("Mixed_6c", "mixed_5", 160),
    _block_6("Mixed_6d", "mixed_6", 160),
    _block_6("Mixed_6e", "mixed_7", 192),
    _block_7a(),  # (B, 8, 8, 1280)
    _block_7("Mixed_7b", "mixed_9", AVERAGE),  # (B, 8, 8, 2048)
    _block_7("Mixed_7c", "mixed_10", MAX),
)
"""The network up to the mean over positions. Names of layers are those of torchvision and of the TorchScript file."""


def _load(file: Path) -> tuple[keras.Model, np.ndarray]:
    """Returns the network, which maps (B, 299, 299, 3) to features and unbiased logits, and the bias of the logits."""
    weights, scripted = _read(file)
    found: Convolutions = {}
    x = image = keras.Input((SIZE, SIZE, 3), dtype="float32")
    for step in STEPS:
        x = step.build(x, found)
    features = layers.GlobalAveragePooling2D(data_format="channels_last", dtype="float32")(x)  # (B, 2048)
    output = layers.Dense(1008, use_bias=False, kernel_initializer="zeros", dtype="float32", name="fc")
    network = keras.Model(image, [features, output(features)])
    try:
        for (name, scripted_name), layer in found.items():
            folded = _folded_scripted if scripted else _folded
            layer.set_weights(folded(weights, scripted_name if scripted else name, layer.kernel.shape))
        last = "output" if scripted else "fc"
        output.set_weights([_take(weights, f"{last}.weight", (1008, 2048)).T])
        return network, _take(weights, f"{last}.bias", (1008,)).astype(np.float32)
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


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
