"""Features of the Inception network of 2015, which define FID, KID and the inception score.

Three public tools contain the network. Their distances differ because they resize and scale the images differently;
this module computes the features of each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kgen import ConfigError, DataError
from kgen.backend.compiled import Compiled
from kgen_plugin_metrics.features.contract import BATCH, file_hash
from kgen_plugin_metrics.features.inception_weights import load
from kgen_plugin_metrics.features.resize import SIZE, pil_bicubic, tf1_bilinear, torch_bilinear

Tensor = Any

Implementation = Literal["torch-fidelity", "pytorch-fid", "clean"]
"""The public tool whose resizing and scaling of images are followed exactly."""

PUBLISHED_HASH = "6726825d"
"""First digits of the SHA-256 of the file that torch-fidelity and pytorch-fid publish, each under its own name."""


@dataclass(frozen=True)
class Protocol:
    """How a tool prepares images for the network.

    Args:
        resize: Maps images (B, H, W, 3), 0..255, to (B, 299, 299, 3).
        resizing: Name of `resize` in protocols of numbers.
        scale: Maps values 0..255 to the network's input.
        scaling: Formula of `scale` in protocols of numbers.
        compiles: Whether `resize` can be part of the compiled program. Pillow's filters cannot.
    """

    resize: Callable[[Tensor], Tensor]
    resizing: str
    scale: Callable[[Tensor], Tensor]
    scaling: str
    compiles: bool = True


def _centered(x: Tensor) -> Tensor:
    return (x - 128.0) / 128.0


PROTOCOLS: Mapping[str, Protocol] = {
    "torch-fidelity": Protocol(tf1_bilinear, "TF1 bilinear", _centered, "(x - 128) / 128"),
    "pytorch-fid": Protocol(torch_bilinear, "PyTorch bilinear", lambda x: 2.0 * (x / 255.0) - 1.0, "2 x / 255 - 1"),
    "clean": Protocol(pil_bicubic, "PIL bicubic", _centered, "(x - 128) / 128", compiles=False),
}


class Inception:
    """Computes the features for FID, KID and the inception score, as one of the public tools does.

    Attributes:
        name: Name of the features in tables of numbers.
        dim: Number of features.
        weights_hash: SHA-256 of the file. That of torch-fidelity and pytorch-fid starts with `PUBLISHED_HASH`.
        protocol: Everything but the images that determines the features: protocol, network, weights_hash, resize,
            scaling.

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
        self._network, self._output_bias = load(file)
        self._programs: dict[tuple[int, ...], Compiled] = {}
        self.weights_hash = file_hash(file)
        self.protocol: Mapping[str, str] = {
            "protocol": protocol,
            "network": self.name,
            "weights_hash": self.weights_hash,
            "resize": f"{self._prepare.resizing} to {SIZE}",
            "scaling": self._prepare.scaling,
        }

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Computes the features and logits of images.

        Args:
            images: uint8 (B, H, W, 3), of any size. The network is compiled for each size.

        Returns:
            "features": float32 (B, 2048), the input of the last layer. FID and KID are computed from it.
            "logits": float32 (B, 1008), the output of the last layer.
            "logits_unbiased": float32 (B, 1008), the same without the layer's bias. The inception score is computed
                from it, because its first implementation (Salimans et al. 2016) left the bias out.

        Raises:
            DataError: The images have another type or shape.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise DataError(f"inception: expected images of uint8 (B, H, W, 3), but got {images.dtype} {images.shape}")
        x = images if self._prepare.compiles else np.asarray(self._prepare.resize(images))
        size = x.shape[1:3]
        program = self._programs[size] = self._programs.get(size) or self._program()
        features, logits = program.run(x, len(x), BATCH)
        return {"features": features, "logits": logits + self._output_bias, "logits_unbiased": logits}

    def _program(self) -> Compiled:
        """A program for images of one size. Otherwise, TensorFlow would compile it for images of unknown size."""
        network, prepare = self._network, self._prepare

        def features_and_logits(x: Tensor) -> Any:
            resized = prepare.resize(x) if prepare.compiles else x  # (B, 299, 299, 3)
            return network(prepare.scale(resized), training=False)

        return Compiled(features_and_logits, [network])


class InceptionFeatures:
    """The 2048 features of the last pooling layer, and the 1008 logits with and without a bias. See `Features`.

    Args:
        weights: The file with the public weights, in the layout of any of the three tools.
        implementation: The tool whose resizing and scaling are followed: see the README.
    """

    dim = 2048

    def __init__(self, *, weights: str, implementation: Implementation = "torch-fidelity") -> None:
        self.weights, self.implementation = weights, implementation

    @property
    def name(self) -> str:
        return self._network.name

    @property
    def weights_hash(self) -> str:
        return self._network.weights_hash

    @property
    def protocol(self) -> Mapping[str, str]:
        return self._network.protocol

    def __call__(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        return self._network(images)

    @functools.cached_property
    def _network(self) -> Inception:
        return _inception(self.weights, self.implementation)


@functools.lru_cache(maxsize=2)
def _inception(weights: str, implementation: str) -> Inception:
    """The network, which all metrics share."""
    return Inception(weights, implementation)
