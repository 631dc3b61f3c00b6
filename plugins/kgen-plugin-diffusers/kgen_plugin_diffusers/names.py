"""The names of weights in diffusers, which follow from the attributes of the layers: these have the modules' names."""

from __future__ import annotations

from typing import Any

import keras

from kgen import weight_paths
from kgen.pretrained import LoraNames, Source

MODULES = {
    "attention/qkv": ("to_q", "to_k", "to_v"),
    "attention/out": ("to_out.0",),
    "codebook/embedding": ("quantize.embedding",),
    "attn1/qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn1/out": ("attn1.to_out.0",),
    "attn2/q": ("attn2.to_q",),
    "attn2/kv": ("attn2.to_k", "attn2.to_v"),
    "attn2/out": ("attn2.to_out.0",),
    "class_embedder": ("class_embedder.embedding_table",),
    "ff/widen": ("ff.net.0.proj",),
    "ff/narrow": ("ff.net.2",),
}
"""The layers that have other names in kgen, and the modules of which each consists."""

KINDS = {"kernel": "weight", "gain": "weight", "gamma": "weight", "beta": "bias", "embeddings": "weight"}
"""The weights that have other names in kgen."""

EARLIER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""The modules of attention in the first versions of diffusers, and their present names."""


def source(path: str, variable: Any) -> Source:
    """Where diffusers has a weight.

    Args:
        path: The path of the weight in a layer, such as "encoder/conv_in/kernel"; see `kgen.weight_paths`.
        variable: The weight.
    """
    owner, _, kind = path.rpartition("/")
    modules = [owner]
    for ending, names in MODULES.items():
        if f"/{owner}".endswith(f"/{ending}"):
            modules = [f"{owner.removesuffix(ending)}{name}" for name in names]
    names = tuple(f"{module}/{KINDS.get(kind, kind)}".lstrip("/").replace("/", ".") for module in modules)
    if kind != "kernel":
        return Source(names)
    return Source(names, "convolution" if len(variable.shape) == 4 else "transposed")


def lora_names(network: keras.layers.Layer, component: str) -> LoraNames:
    """The names of a network's layers in LoRA files.

    Args:
        network: The network, whose attributes have the names of diffusers' modules.
        component: Its name in a pipeline: "unet" or "transformer".
    """
    kernels = {path: weight for path, weight in weight_paths(network).items() if path.endswith("/kernel")}
    return LoraNames({path: source(path, weight) for path, weight in kernels.items()}, component, f"lora_{component}")


def current_name(name: str) -> str:
    """The present name of a tensor that may have the name of an earlier version."""
    return ".".join(EARLIER.get(module, module) for module in name.split("."))
