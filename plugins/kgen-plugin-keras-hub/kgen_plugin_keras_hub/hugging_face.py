"""Reads Hugging Face's folders (config.json, safetensors) into KerasHub's models where KerasHub itself cannot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial, wraps
from pathlib import Path
from typing import Any

import keras
import ml_dtypes  # noqa: F401 (numpy then knows bfloat16, in which many published models are)
import numpy as np
from safetensors import SafetensorError, safe_open

from kgen import ConfigError

Config = dict[str, Any]


class Weights:
    """The tensors of a folder, in one or several files. A tensor is found by its name, or by the part after any dot.

    Args:
        folder: Folder of the safetensors files.
        without: Prefix of the names of tensors to ignore.

    Raises:
        ConfigError: There is no safetensors file, or it is damaged.
    """

    def __init__(self, folder: Path, without: str = "\n") -> None:
        self.folder = folder
        try:
            with ExitStack() as stack:
                opened = [stack.enter_context(safe_open(file, framework="numpy")) for file in _files(folder)]
                self._stack = stack.pop_all()
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
            raise ConfigError(
                f"preset '{folder}': its weights cannot be read as safetensors, the only supported format: {error}"
            ) from error
        self._where = {key: file for file in opened for key in file.keys() if not key.startswith(without)}  # noqa: SIM118

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _key(self, name: str) -> str | None:
        return next((key for key in self._where if key == name or key.endswith("." + name)), None)

    def has(self, name: str) -> bool:
        return self._key(name) is not None

    def read(self, name: str) -> np.ndarray:
        if (key := self._key(name)) is None:
            raise ConfigError(f"preset '{self.folder}': its weights lack '{name}'")
        try:
            return np.asarray(self._where[key].get_tensor(key)).astype(np.float32)
        except (TypeError, AttributeError, SafetensorError) as error:  # numpy lacks the type
            raise ConfigError(
                f"preset '{self.folder}': '{name}' cannot be read: {error}; save it in float32"
            ) from error

    def fill(self, variables: Iterable[Any], names: Iterable[str]) -> None:
        """Assigns tensors to variables. PyTorch's kernels are transposed (out, in), with all heads in one axis."""
        for variable, name in zip(variables, names, strict=True):
            array = self.read(name)
            array = array.T if variable.name == "kernel" else array
            if array.size != np.prod(variable.shape):
                shape = tuple(variable.shape)
                raise ConfigError(
                    f"preset '{self.folder}': '{name}' has shape {array.shape}, but the model needs {shape}"
                )
            variable.assign(array.reshape(variable.shape))


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    return [folder / name for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))]


def exact_gelu(backbone: Any) -> None:
    """Makes a BERT compute the exact GELU that it was trained with. KerasHub's uses the tanh approximation.

    For all-MiniLM-L6-v2, this reduces the error of a sentence's embedding from 2e-4 to 2e-7. KerasHub has no option for
    it.
    """
    for layer in backbone.transformer_layers:
        layer._feedforward_intermediate_dense.activation = partial(keras.activations.gelu, approximate=False)


def checks_config(read: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a function of (folder, ...): it raises ConfigError if config.json does not describe a model."""

    @wraps(read)
    def checked(folder: Path, *arguments: Any) -> Any:
        try:
            return read(folder, *arguments)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            message = f"{type(error).__name__}: {str(error)[:200]}"
            raise ConfigError(f"preset '{folder}': config.json does not describe a model: {message}") from error

    return checked


@checks_config
def clip_text(folder: Path, config: Config, dtype: str) -> tuple[Any, Any]:
    """Reads a CLIPModel, CLIPTextModel or CLIPTextModelWithProjection.

    Returns:
        `keras_hub.models.CLIPTextEncoder`, and the projection (a Dense layer) or None.
    """
    import keras_hub

    text = {**CLIP_DEFAULTS, **config, **config.get("text_config", {})}
    with Weights(folder, without="vision_model.") as weights:
        encoder = keras_hub.models.CLIPTextEncoder(
            vocabulary_size=text["vocab_size"],
            embedding_dim=text["hidden_size"],
            hidden_dim=text["hidden_size"],
            num_layers=text["num_hidden_layers"],
            num_heads=text["num_attention_heads"],
            intermediate_dim=text["intermediate_size"],
            intermediate_activation=_activation(text["hidden_act"], ("quick_gelu", "gelu")),
            max_sequence_length=text["max_position_embeddings"],
            dtype=dtype,
        )
        embeddings = ("token_embedding.weight", "position_embedding.weight")
        weights.fill(encoder.embedding.weights, [f"embeddings.{name}" for name in embeddings])
        for number, block in enumerate(encoder.encoder_layers):
            _fill_clip_block(weights, block, f"encoder.layers.{number}")
            block.layer_norm_1.epsilon = block.layer_norm_2.epsilon = text["layer_norm_eps"]
        weights.fill(encoder.layer_norm.weights, ["final_layer_norm.weight", "final_layer_norm.bias"])
        encoder.layer_norm.epsilon = text["layer_norm_eps"]
        return encoder, _clip_projection(weights, dtype)


def _clip_projection(weights: Weights, dtype: str) -> Any:
    name = "text_projection.weight"
    if not weights.has(name):
        return None
    units, width = weights.read(name).shape
    projection = keras.layers.Dense(units, use_bias=False, dtype=dtype, name="text_projection")
    projection.build((None, width))
    weights.fill(projection.weights, [name])
    return projection


CLIP_DEFAULTS = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
"""Values that Hugging Face omits from a configuration."""


def _fill_clip_block(weights: Weights, block: Any, prefix: str) -> None:
    parts = {"layer_norm1": block.layer_norm_1, "layer_norm2": block.layer_norm_2}
    parts |= {"mlp.fc1": block.dense_1, "mlp.fc2": block.dense_2}
    for name, layer in parts.items():
        weights.fill(layer.weights, [f"{prefix}.{name}.{kind}" for kind in ("weight", "bias")])
    names = [f"{part}_proj.{kind}" for part in ("q", "k", "v", "out") for kind in ("weight", "bias")]
    weights.fill(block.attention.weights, [f"{prefix}.self_attn.{name}" for name in names])


T5_SIZES = {"vocab_size", "num_layers", "num_heads", "d_model", "d_ff", "d_kv"}


@checks_config
def t5(folder: Path, config: Config, dtype: str) -> Any:
    """Reads a T5Model, T5EncoderModel or T5ForConditionalGeneration, version 1.0 or 1.1 (Flan).

    Returns:
        `keras_hub.models.T5Backbone`. Only its encoder has the weights of the folder.
    """
    import keras_hub

    if missing := T5_SIZES - config.keys():
        raise ConfigError(f"preset '{folder}': config.json lacks {', '.join(sorted(missing))}")
    gated, _, activation = config.get("feed_forward_proj", "relu").rpartition("-")
    buckets = (config.get("relative_attention_num_buckets", 32), config.get("relative_attention_max_distance", 128))
    if buckets != (32, 128):
        raise ConfigError(f"preset '{folder}': KerasHub's T5 has 32 buckets up to distance 128, not {buckets}")
    gelu = partial(keras.activations.gelu, approximate=True)  # a gated T5's "gelu" is "gelu_new"
    with Weights(folder) as weights:
        backbone = keras_hub.models.T5Backbone(
            vocabulary_size=config["vocab_size"],
            num_layers=config["num_layers"],
            num_heads=config["num_heads"],
            hidden_dim=config["d_model"],
            intermediate_dim=config["d_ff"],
            key_value_dim=config["d_kv"],
            activation=gelu if _activation(activation, ("relu", "gelu")) == "gelu" else "relu",
            use_gated_activation=bool(gated),
            layer_norm_epsilon=config.get("layer_norm_epsilon", 1e-6),
            dtype=dtype,
        )
        weights.fill([backbone.token_embedding.embeddings], ["shared.weight"])
        weights.fill([backbone.encoder_layer_norm.weight], ["encoder.final_layer_norm.weight"])
        for number, block in enumerate(backbone.encoder_transformer_layers):
            _fill_t5_block(weights, block, f"encoder.block.{number}.layer")
    return backbone


def _fill_t5_block(weights: Weights, block: Any, prefix: str) -> None:
    attention = block.self_attention
    parts = [attention.query_projector, attention.key_projector, attention.value_projector, attention.output_projector]
    weights.fill([part.kernel for part in parts], [f"{prefix}.0.SelfAttention.{name}.weight" for name in "qkvo"])
    if attention.use_relative_attention_bias:
        weights.fill([attention.relative_attention_bias], [f"{prefix}.0.SelfAttention.relative_attention_bias.weight"])
    weights.fill([block.self_attention_layer_norm.weight], [f"{prefix}.0.layer_norm.weight"])
    dense = {"wi": block.input_projector, "wo": block.output_projector}
    if block.use_gated_activation:
        dense = {"wi_0": block.input_projector, "wi_1": block.gate_projector, "wo": block.output_projector}
    weights.fill([d.kernel for d in dense.values()], [f"{prefix}.1.DenseReluDense.{name}.weight" for name in dense])
    weights.fill([block.layer_norm.weight], [f"{prefix}.1.layer_norm.weight"])


def _activation(name: str, known: tuple[str, ...]) -> str:
    if name not in known:
        raise ConfigError(f"activation '{name}' of this preset is not one of {', '.join(known)}")
    return name
