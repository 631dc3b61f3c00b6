"""LoRA files of other libraries: PEFT, diffusers and kohya-ss (Hu et al. 2022).

The three differ in the names of the tensors, and in where they keep alpha:

- "peft" names the module `a.b` `base_model.model.a.b`. Its factors are `lora_A.weight` and `lora_B.weight`. Alpha is in
  adapter_config.json, beside the file.
- "diffusers" names it `unet.a.b`. Its factors have PEFT's names, or `lora.down.weight` and `lora.up.weight`. Alpha is
  in the metadata of the file ("lora_adapter_metadata"), or lost.
- "kohya" names it `lora_unet_a_b`. Its factors are `lora_down.weight` and `lora_up.weight`, beside the tensor `alpha`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import ml_dtypes  # noqa: F401 (numpy then knows bfloat16, in which many files are)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kgen.errors import ConfigError
from kgen.pretrained.section import MAX_NAMED, Section
from kgen.pretrained.tensors import Source

Form = Literal["peft", "diffusers", "kohya"]

PEFT, CONFIG, PREFIX = "adapter_model.safetensors", "adapter_config.json", "base_model.model."
"""The files in a folder of PEFT, and the beginning of all names."""

METADATA = "lora_adapter_metadata"
"""The key of PEFT's configuration, as JSON, in the metadata of diffusers' files."""

ENDINGS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".alpha": "alpha",
}
"""What a tensor is, by the end of its name."""

OTHER_METHODS = """
alora_invocation_tokens arrow_config fan_in_fan_out kasa_config layer_replication lora_bias megatron_config
modules_to_save monteclora_config target_parameters trainable_token_indices use_bdlora use_dora use_qalora
velora_config""".split()  # noqa: SIM905 (a list of literals is hard to read)
"""Options of PEFT that change what a model with LoRA computes. kgen needs their defaults, which are empty."""

ONLY_IN_TRAINING = """
auto_mapping base_model_name_or_path corda_config ensure_weight_tying eva_config exclude_modules inference_mode
layers_pattern layers_to_transform loftq_config lora_dropout lora_ga_config megatron_core peft_version qalora_group_size
revision runtime_config target_modules task_type""".split()  # noqa: SIM905 (a list of literals is hard to read)
"""Options of PEFT that do not change what a trained model computes."""


@dataclass(frozen=True)
class Factors:
    """The LoRA of a module, whose weight (out, in) or (out, in, height, width) grows by `product`.

    Args:
        down: (rank, in), or (rank, in, height, width) for a convolution.
        up: (out, rank), or (out, rank, 1, 1).
        alpha: The product is multiplied by `alpha / rank`.
    """

    down: np.ndarray
    up: np.ndarray
    alpha: float

    @property
    def product(self) -> np.ndarray:
        """What is added to the weight, in its shape."""
        rank = self.down.shape[0]
        flat = self.up.reshape(self.up.shape[0], rank) @ self.down.reshape(rank, -1)
        scaled: np.ndarray = self.alpha / rank * flat.reshape(-1, *self.down.shape[1:])
        return scaled


@dataclass(frozen=True)
class LoraNames:
    """How LoRA files name the modules of a part.

    Args:
        sources: The source of each kernel in the published model, by the kernel's path in the part or layer. Its
            modules are those of the source.
        component: The name of the model in diffusers' pipelines, such as "unet" or "text_encoder".
        kohya: The first letters of kohya's names, such as "lora_unet" or "lora_te".
        optional: The first letters of names of modules that some versions of the library leave out.
    """

    sources: Mapping[str, Source]
    component: str
    kohya: str
    optional: str = ""

    def places(self) -> dict[str, tuple[str, int]]:
        """The kernel of each module, and which of the kernel's projections it is, by every name that a file may use."""
        found: dict[str, tuple[str, int]] = {}
        for path, source in self.sources.items():
            for number, module in enumerate(modules(source)):
                for name in {module, module.removeprefix(self.optional)}:
                    flat = name.replace(".", "_")
                    for known in (name, f"{PREFIX}{name}", f"{self.component}.{name}", f"{self.kohya}_{flat}"):
                        found[known] = (path, number)
        return found

    def written(self, form: Form, module: str) -> str:
        """The name of a module in a file."""
        if form == "kohya":
            return f"{self.kohya}_{module.replace('.', '_')}"
        return f"{PREFIX}{module}" if form == "peft" else f"{self.component}.{module}"


@runtime_checkable
class HasLoraNames(Protocol):
    """A part, or a layer of a part, whose kernels have names in published LoRA files."""

    def lora_names(self) -> LoraNames | None:
        """The names; None if it is not a published model. Its weights exist."""


def modules(source: Source) -> list[str]:
    """The modules that a kernel consists of; empty if it does not consist of the weights of whole modules."""
    if source.form not in ("transposed", "convolution") or not all(name.endswith(".weight") for name in source.names):
        return []
    return [name.removesuffix(".weight") for name in source.names]


def read_lora(path: Path) -> dict[str, Factors]:
    """Reads a file, or a folder of PEFT.

    Returns:
        The factors by the names of the modules in the file.

    Raises:
        ConfigError: it cannot be read, a tensor has an unknown name or no counterpart, or an option of PEFT is not
            supported.
    """
    file = path / PEFT if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise ConfigError(f"{path} is a folder without {PEFT}: give a LoRA file, such as the lora.safetensors of a run")
    tensors, metadata = _read(file)
    if not tensors:
        raise ConfigError(f"{file} contains no factors of LoRA")
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        ending = next((ending for ending in ENDINGS if name.endswith(ending)), None)
        if ending is None:
            raise ConfigError(f"{file}: '{name}' is not the name of a factor or an alpha of LoRA")
        found.setdefault(name.removesuffix(ending), {})[ENDINGS[ending]] = tensor
    alphas = _alphas(file, metadata)
    return {module: _factors(file, module, tensors, alphas) for module, tensors in found.items()}


class _Alphas:
    """Alpha of each module, as the configuration of PEFT says.

    Args:
        section: The configuration.
        prefix: The first letters of the names of the modules that it describes.
    """

    def __init__(self, section: Section, prefix: str) -> None:
        self.prefix = prefix
        self.alpha = section.number("lora_alpha", 8.0)
        self.patterns = section.value("alpha_pattern", None) or {}
        self.stabilized = section.one_of("use_rslora", {False: False, True: True}, False)
        section.one_of("bias", {"none": None}, "none")
        section.one_of("peft_type", {"LORA": None}, "LORA")
        section.one_of("init_lora_weights", {True: None, False: None, "gaussian": None}, True)
        for key in OTHER_METHODS:
            if section.value(key, None):
                section.refuse(key, "is an option of PEFT that kgen does not have")
        section.ignore("r", "rank_pattern", *ONLY_IN_TRAINING)
        section.finish()

    def of(self, module: str, rank: int) -> float:
        """Alpha of a module. With "rslora", the product is multiplied by alpha / sqrt(rank) (Kalajdzievski 2023)."""
        name = module.removeprefix(self.prefix)
        alpha = next((a for key, a in self.patterns.items() if re.match(rf"(.*\.)?({key})$", name)), self.alpha)
        return float(alpha) * (rank**0.5 if self.stabilized else 1.0)


def _alphas(file: Path, metadata: Mapping[str, str]) -> list[_Alphas]:
    """The configurations of PEFT, each for the modules with a prefix; without one, alpha is the rank."""
    if METADATA in metadata:
        try:
            entries = json.loads(metadata[METADATA])
            components = sorted({key.partition(".")[0] for key in entries})
        except (ValueError, TypeError, RecursionError) as error:
            raise ConfigError(f"{file}: the metadata '{METADATA}' cannot be read: {error}") from error
        own = {c: {key.removeprefix(f"{c}."): v for key, v in entries.items() if key.startswith(c)} for c in components}
        return [_Alphas(Section(file, own[name], f"{METADATA}.{name}."), f"{name}.") for name in components]
    config = file.parent / CONFIG
    return [_Alphas(Section.of_file(config), PREFIX)] if file.name == PEFT and config.is_file() else []


def _factors(file: Path, module: str, tensors: Mapping[str, np.ndarray], alphas: Sequence[_Alphas]) -> Factors:
    if lacking := [role for role in ("down", "up") if role not in tensors]:
        raise ConfigError(f"{file}: '{module}' lacks its factor '{lacking[0]}'")
    down, up = tensors["down"], tensors["up"]
    rank = down.shape[0] if down.ndim else 0
    if down.ndim not in (2, 4) or up.shape[1:] != (rank, *(1,) * (down.ndim - 2)):
        raise ConfigError(f"{file}: the factors of '{module}' have the shapes {down.shape} and {up.shape}")
    if "alpha" in tensors:
        return Factors(down, up, float(tensors["alpha"].reshape(-1)[0]))
    given = (config.of(module, rank) for config in alphas if module.startswith(config.prefix))
    return Factors(down, up, next(given, float(rank)))


def _read(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        with safe_open(file, framework="numpy") as opened:
            names = list(opened.keys())
            return {name: opened.get_tensor(name).astype(np.float32) for name in names}, dict(opened.metadata() or {})
    except (OSError, SafetensorError, TypeError, AttributeError) as error:  # the last two: numpy lacks the type
        raise ConfigError(f"{file} cannot be read as a LoRA file: {error}") from error


def write_lora(path: Path, form: Form, parts: Sequence[tuple[LoraNames, Mapping[str, Factors]]]) -> Path:
    """Writes the LoRA of one or several models.

    Args:
        path: The file; for "peft", the folder.
        form: The form.
        parts: The names of each model, and its factors by module.

    Returns:
        The file with the tensors.

    Raises:
        ConfigError: PEFT's form can hold only one model.
    """
    if form == "peft" and len(parts) != 1:
        raise ConfigError("PEFT's form holds the LoRA of one model: choose the form 'diffusers' or 'kohya'")
    down, up = (".lora_down.weight", ".lora_up.weight") if form == "kohya" else (".lora_A.weight", ".lora_B.weight")
    tensors: dict[str, np.ndarray] = {}
    configs: dict[str, dict[str, Any]] = {}
    for names, factors in parts:
        configs[names.component] = _config(factors)
        for module, found in factors.items():
            name = names.written(form, module)
            tensors |= {f"{name}{down}": found.down, f"{name}{up}": found.up}
            if form == "kohya":
                tensors[f"{name}.alpha"] = np.array(found.alpha, np.float32)
    tensors = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}
    file, metadata = path, {"format": "pt"}
    if form == "peft":
        path.mkdir(parents=True, exist_ok=True)
        file = path / PEFT
        config = {"peft_type": "LORA", **next(iter(configs.values()))}
        (path / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    elif form == "diffusers":
        entries = {f"{name}.{key}": value for name, config in configs.items() for key, value in config.items()}
        metadata[METADATA] = json.dumps(entries)
    save_file(tensors, file, metadata=metadata)
    return file


def _config(factors: Mapping[str, Factors]) -> dict[str, Any]:
    """The configuration of PEFT for factors that all have one rank and alpha."""
    first = next(iter(factors.values()))
    return {
        "r": first.down.shape[0],
        "lora_alpha": first.alpha,
        "target_modules": sorted(factors),
        "bias": "none",
        "inference_mode": True,
    }


def unknown(file: Path, names: Sequence[str]) -> ConfigError:
    """The error for modules that a model does not have."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    shown = ", ".join(f"'{name}'" for name in names[:MAX_NAMED])
    return ConfigError(f"{file}: {shown}{more}: the model has no such layer, so that this LoRA is for another model")
