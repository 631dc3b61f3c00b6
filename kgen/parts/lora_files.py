"""LoRA in files: those that kgen writes, and those of PEFT, diffusers and kohya-ss.

kgen's own file has the factors under their paths, such as `generator/net/dense/lora_kernel_a`, with rank and alpha in
its metadata. Files of other libraries have the names of a published model, which a part that is such a model knows
(`kgen.pretrained.HasLoraNames`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from kgen.backend.variables import copied
from kgen.errors import ConfigError, RunError
from kgen.parts.lora import FACTORS, forget_programs, is_factor, lora_kernels, lora_layers, product
from kgen.plugins.hookspecs import API
from kgen.pretrained.lora import PEFT, Factors, Form, HasLoraNames, LoraNames, modules, read_lora, unknown, write_lora
from kgen.pretrained.tensors import Source
from kgen.storage.paths import weight_paths
from kgen.storage.weights import Arrays, file_digest, read_arrays, read_metadata, save_variables

AnyForm = Form | Literal["kgen"]


@dataclass(frozen=True)
class _Own:
    """The LoRA of a model in kgen's names.

    Args:
        arrays: The factors by path.
        rank, alpha: Of all of them.
    """

    arrays: Arrays
    rank: int
    alpha: float

    def kernels(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """The path of each kernel, and its two factors."""
        for path in sorted(self.arrays):
            owner, _, name = path.rpartition("/")
            if name == FACTORS[0]:
                yield f"{owner}/kernel", self.arrays[path], self.arrays[f"{owner}/{FACTORS[1]}"]


def save_lora(model: keras.Model, path: str | Path, *, form: AnyForm = "kgen") -> Path:
    """Writes the factors that `add_lora` has added to a model, without the model.

    Args:
        model: The model.
        path: The file; for "peft", a folder.
        form: "kgen", with which `load_lora` finds the layers of any model; or the form of another library, in which the
            layers must be those of a published model.

    Returns:
        The written file.

    Raises:
        ConfigError: the model has no LoRA; or a layer has no name in the other library.
    """
    layers = lora_layers(model)
    if not layers:
        raise ConfigError("the model has no LoRA to be saved: call kgen.add_lora, or merge it later")
    found = {path: weight for path, weight in weight_paths(model, model.weights).items() if is_factor(path)}
    own = _Own({name: copied(weight) for name, weight in found.items()}, layers[0].lora_rank, layers[0].lora_alpha)
    return _write(model, own, Path(path), form)


def convert_lora(model: keras.Model, source: str | Path, path: str | Path, *, form: Form) -> Path:
    """Writes a file of `save_lora`, such as the `lora.safetensors` of a run, in the form of another library.

    Args:
        model: The model of the file, which need not have LoRA.
        source: The file.
        path, form: See `save_lora`.

    Raises:
        RunError, ConfigError: the file cannot be read, or see `save_lora`.
    """
    return _write(model, _read_own(Path(source)), Path(path), form)


def load_lora(model: keras.Model, path: str | Path, *, scale: float = 1.0) -> list[str]:
    """Adds the LoRA of a file to the kernels of a model.

    Args:
        model: A `Pipeline`, or one part whose weights exist. For kgen's own files, it must be what was trained.
        path: A file of kgen, diffusers or kohya-ss, or a folder of PEFT.
        scale: The share of it that is added.

    Returns:
        The paths of the kernels that have changed.

    Raises:
        ConfigError: a tensor of the file is not used, or has another shape. No weight is changed then.
        RunError: the file cannot be read, or has numbers that are not finite. No weight is changed then.
    """
    if lora_layers(model):
        raise ConfigError("the model has LoRA that is being trained: put it into the kernels first, kgen.merge_lora")
    if not math.isfinite(scale):
        raise ConfigError(f"the scale of LoRA must be a finite number, not {scale}")
    file = _existing(path)
    changes = _own_changes(model, file) if _is_own(file) else _published_changes(model, file)
    for kernel, (_, change) in changes.items():
        if not np.isfinite(change).all():
            raise RunError(f"{file}: the change of '{kernel}' has NaN or infinite numbers: its training failed")
    for weight, change in changes.values():
        weight.assign((copied(weight) + scale * change).astype(copied(weight).dtype))
    forget_programs(model)
    return sorted(changes)


def init_lora(model: keras.Model, path: str | Path) -> list[str]:
    """Starts the training of the LoRA that `add_lora` has added from the LoRA of a file.

    If alpha differs, the second factor is scaled, so that the product of the factors is that of the file.

    Args:
        model: A `Pipeline`, or one part, with LoRA. For kgen's own files, it must be what was trained.
        path: A file of kgen, diffusers or kohya-ss, or a folder of PEFT.

    Returns:
        The paths of the kernels whose factors are those of the file. The product of all others stays zero.

    Raises:
        ConfigError: the model has no LoRA; a tensor of the file is not used; or it has another rank or shape. No weight
            is changed then.
        RunError: the file cannot be read.
    """
    layers = lora_kernels(model)
    if not layers:
        raise ConfigError("the model has no LoRA that could start from a file: call kgen.add_lora first")
    file = _existing(path)
    found = list(_own_pieces(file) if _is_own(file) else _published_pieces(model, file))
    wanted = {piece.kernel for piece in found}
    if odd := sorted(wanted - weight_paths(model, model.weights).keys()):
        raise unknown(file, odd)
    if odd := sorted(wanted - layers.keys()):
        raise ConfigError(f"{file}: '{odd[0]}' has no LoRA in the model: choose 'targets' that match it")
    for piece in found:
        _require_factors(file, piece, layers[piece.kernel])
    factors = {piece.kernel: tuple(map(copied, _factors(layers[piece.kernel]))) for piece in found}
    for piece in found:
        a, b = factors[piece.kernel]
        rank, units = piece.b.shape
        own = layers[piece.kernel].lora_alpha / rank
        a[..., piece.number * rank : (piece.number + 1) * rank] = piece.a
        b[:, piece.number * units : (piece.number + 1) * units] = piece.b * (piece.scale / own)
    for kernel, arrays in factors.items():
        for weight, array in zip(_factors(layers[kernel]), arrays, strict=True):
            weight.assign(array)
    return sorted(factors)


def require_lora(path: str | Path) -> None:
    """Raises ConfigError or RunError if there is no LoRA file, or if it cannot be read."""
    file = _existing(path)
    if _is_own(file):
        _read_own(file)
    else:
        read_lora(file)


def lora_digest(path: str | Path) -> str:
    """SHA-256 of a LoRA file, or of the weights in a folder of PEFT. Raises ConfigError if there is no such file."""
    file = _existing(path)
    return file_digest(file / PEFT if file.is_dir() else file)


def _existing(path: str | Path) -> Path:
    file = Path(path)
    if not file.exists():
        raise ConfigError(f"{file}: there is no such file or folder")
    if file.suffix in (".bin", ".ckpt", ".pt", ".pth"):
        raise ConfigError(f"{file}: kgen reads LoRA from .safetensors files, because a pickle can run any code")
    return file


Changes = dict[str, tuple[Any, np.ndarray]]
"""Kernels by path, and what is added to each."""


def _is_own(file: Path) -> bool:
    return file.is_file() and "rank" in read_metadata(file)


def _read_own(file: Path) -> _Own:
    arrays, metadata = read_arrays(file)
    paired = all(path.rpartition("/")[0] + f"/{factor}" in arrays for path in arrays for factor in FACTORS)
    if not arrays or not all(map(is_factor, arrays)) or not paired or not {"rank", "alpha"} <= set(metadata):
        raise RunError(f"{file} is not a LoRA file of kgen, such as the lora.safetensors of a run")
    try:
        return _Own(arrays, int(metadata["rank"]), float(metadata["alpha"]))
    except ValueError as error:
        raise RunError(f"{file} is damaged: {error}") from error


def _own_changes(model: keras.Model, file: Path) -> Changes:
    own, weights = _read_own(file), weight_paths(model, model.weights)
    found = {kernel: own.alpha / own.rank * product(a, b) for kernel, a, b in own.kernels()}
    if odd := [path for path in found if path not in weights]:
        raise unknown(file, odd)
    for path, change in found.items():
        _require_shape(file, path, change, weights[path])
    return {path: (weights[path], change) for path, change in found.items()}


def _published_changes(model: keras.Model, file: Path) -> Changes:
    weights, changes = weight_paths(model, model.weights), Changes()
    for module in _published_modules(model, file):
        source, kernel, number = module.source, module.kernel, module.number
        piece = type(source)((source.names[number],), source.form).convert(module.factors.product)
        weight, change = changes.setdefault(kernel, (weights[kernel], np.zeros(weights[kernel].shape, np.float32)))
        width = weight.shape[-1] // len(source.names)
        columns = change[..., number * width : (number + 1) * width]
        _require_shape(file, module.name, piece, columns)
        columns += piece
    return changes


@dataclass(frozen=True)
class _Module:
    """A module in a file of another library.

    Args:
        name: Its name in the file.
        kernel: The path of its kernel in the model.
        number: Which of the kernel's projections it is.
        source: The source of the kernel in the published model.
        factors: Its LoRA.
    """

    name: str
    kernel: str
    number: int
    source: Source
    factors: Factors


def _published_modules(model: keras.Model, file: Path) -> Iterator[_Module]:
    """The modules in a file of another library. Raises ConfigError if the model does not have all of them."""
    parts, found = dict(_named_parts(model)), read_lora(file)
    if not parts:
        raise ConfigError(f"{file}: no part of the model is a published one, whose layers have names in such files")
    places = {name: (prefix, *place) for prefix, names in parts.items() for name, place in names.places().items()}
    if odd := sorted(found.keys() - places.keys()):
        raise unknown(file, odd)
    for name, factors in found.items():
        prefix, path, number = places[name]
        yield _Module(name, f"{prefix}{path}", number, parts[prefix].sources[path], factors)


@dataclass(frozen=True)
class _Piece:
    """The LoRA of one projection of a kernel.

    Args:
        name: The name in the file.
        kernel: The path of the kernel.
        number, count: Which of the kernel's projections it is, and how many there are.
        a, b: The factors (..., r) and (r, units).
        scale: Their product is multiplied by it.
    """

    name: str
    kernel: str
    number: int
    count: int
    a: np.ndarray
    b: np.ndarray
    scale: float


def _own_pieces(file: Path) -> Iterator[_Piece]:
    own = _read_own(file)
    for kernel, a, b in own.kernels():
        count = a.shape[-1] // b.shape[0]
        pairs = zip(np.split(a, count, axis=-1), np.split(b, count, axis=-1), strict=True)
        for number, (one, other) in enumerate(pairs):
            yield _Piece(kernel, kernel, number, count, one, other, own.alpha / own.rank)


def _published_pieces(model: keras.Model, file: Path) -> Iterator[_Piece]:
    for module in _published_modules(model, file):
        factors, count = module.factors, len(module.source.names)
        rank = factors.down.shape[0]
        a, b = factors.down.reshape(rank, -1).T, factors.up.reshape(-1, rank).T
        yield _Piece(module.name, module.kernel, module.number, count, a, b, factors.alpha / rank)


def _require_factors(file: Path, piece: _Piece, layer: keras.layers.Layer) -> None:
    """Raises ConfigError if factors of a file do not have the rank or the shape of those of a layer."""
    if piece.b.shape[0] != layer.lora_rank:
        raise ConfigError(
            f"{file}: '{piece.name}' has the rank {piece.b.shape[0]}, but the LoRA of the model has the rank "
            f"{layer.lora_rank}: set the same rank"
        )
    here = [(*weight.shape[:-1], weight.shape[-1] // piece.count) for weight in _factors(layer)]
    if [piece.a.shape, piece.b.shape] != here:
        raise ConfigError(
            f"{file}: '{piece.name}' has factors of {piece.a.shape} and {piece.b.shape}, but those of the model are of "
            f"{here[0]} and {here[1]}"
        )


def _factors(layer: keras.layers.Layer) -> list[Any]:
    return [getattr(layer, factor) for factor in FACTORS]


def _require_shape(file: Path, name: str, change: np.ndarray, weight: Any) -> None:
    if change.shape != tuple(weight.shape):
        there, here = tuple(change.shape), tuple(weight.shape)
        raise ConfigError(f"{file}: '{name}' is for a kernel of {there}, but that of the model is {here}")


def _named_parts(model: Any) -> Iterator[tuple[str, LoraNames]]:
    """The names of each published layer of a model, by the first letters of the paths of its weights."""
    paths = {id(weight): path for path, weight in weight_paths(model, model.weights).items()}
    for layer in model._flatten_layers():
        names = layer.lora_names() if isinstance(layer, HasLoraNames) else None
        if names is not None:
            path, weight = next(iter(weight_paths(layer, layer.weights).items()))
            yield paths[id(weight)].removesuffix(path), names


def _write(model: keras.Model, own: _Own, path: Path, form: AnyForm) -> Path:
    if form == "kgen":
        save_variables(path, own.arrays, {"api": str(API), "rank": str(own.rank), "alpha": repr(float(own.alpha))})
        return path
    parts: list[tuple[LoraNames, Mapping[str, Factors]]] = []
    left = {kernel: (a, b) for kernel, a, b in own.kernels()}
    for prefix, names in _named_parts(model):
        factors: dict[str, Factors] = {}
        for kernel, source in names.sources.items():
            found, pair = modules(source), left.get(f"{prefix}{kernel}")
            if found and pair is not None:
                del left[f"{prefix}{kernel}"]
                factors |= dict(zip(found, _pieces(*pair, own.alpha, len(found)), strict=True))
        if factors:
            parts.append((names, factors))
    if left:
        raise ConfigError(f"'{sorted(left)[0]}' has no name in the form '{form}': the part is not a published model")
    return write_lora(path, form, parts)


def _pieces(a: np.ndarray, b: np.ndarray, alpha: float, count: int) -> list[Factors]:
    """The factors (C, P r) and (r, units) of a layer as those of its P projections in another library."""
    pairs = zip(np.split(a, count, axis=1), np.split(b, count, axis=1), strict=True)
    return [Factors(one.T, other.T, alpha) for one, other in pairs]
