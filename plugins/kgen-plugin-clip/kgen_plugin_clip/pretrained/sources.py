"""The weights of a model by kgen's names, and the tensors of a file that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes  # noqa: F401 (numpy then knows bfloat16, in which many published models are)
import numpy as np
from safetensors import SafetensorError, safe_open

from kgen import ConfigError
from kgen_plugin_clip.pretrained.section import MAX_NAMED


@dataclass(frozen=True)
class Source:
    """Where a weight comes from.

    Args:
        names: The tensors, which are concatenated along their first axis.
        form: "plain"; "transposed", for kernels (out, in); or "patches", for a convolution (out, 3, patch, patch),
            which becomes a kernel (patch * patch * 3, out).
    """

    names: tuple[str, ...]
    form: Literal["plain", "transposed", "patches"] = "plain"

    def shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
        """The shape of the weight if the tensors have these shapes; None if they cannot. (1,) stands for a number."""
        if shapes[0] in ((), (1,)):
            return ()
        first, rest = sum(shape[0] for shape in shapes if shape), shapes[0][1:]
        if self.form == "patches":
            return (int(np.prod(rest)), first) if len(rest) == 3 else None
        return (*rest[::-1], first) if self.form == "transposed" else (first, *rest)

    def convert(self, tensor: np.ndarray) -> np.ndarray:
        if self.form == "patches":
            return tensor.transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0])
        return tensor.T if self.form == "transposed" else tensor


class Tensors:
    """The tensors of safetensors files, which a `with` block opens.

    Args:
        files: The files.

    Raises:
        ConfigError: a file is missing or damaged.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self._stack = ExitStack()
        self._where: dict[str, tuple[Path, Any]] = {}

    def __enter__(self) -> Tensors:
        with ExitStack() as stack:
            for file in self.files:
                try:
                    opened = stack.enter_context(safe_open(file, framework="numpy"))
                except (OSError, SafetensorError) as error:
                    raise ConfigError(f"{file} cannot be read: {error}") from error
                self._where |= dict.fromkeys(opened.keys(), (file, opened))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def fill(self, weights: Mapping[str, Any], sources: Mapping[str, Source], ignored: tuple[str, ...]) -> None:
        """Assigns tensors to all weights.

        Args:
            weights: Keras variables by kgen's names.
            sources: The source of each of them.
            ignored: Ends of the names of tensors that are not weights.

        Raises:
            ConfigError: a tensor is missing, is not used, or has another shape. No weight is changed then.
        """
        where = " and ".join(file.name for file in self.files[:2])
        used = {name for source in sources.values() for name in source.names}
        if lacking := sorted(used - set(self._where)):
            raise ConfigError(f"{self.files[0].parent}: {where} lacks {_shown(lacking)}")
        unused = sorted(name for name in set(self._where) - used if not name.endswith(ignored))
        if unused:
            file = self._where[unused[0]][0]
            raise ConfigError(f"{file}: {_shown(unused)}: unknown; kgen's model may compute something else")
        for name, source in sources.items():
            self._check(source, tuple(weights[name].shape))
        for name, source in sources.items():
            tensor = np.concatenate([np.atleast_1d(self._read(part)) for part in source.names])
            weights[name].assign(source.convert(tensor).reshape(weights[name].shape))

    def _check(self, source: Source, shape: tuple[int, ...]) -> None:
        shapes = [tuple(self._where[name][1].get_slice(name).get_shape()) for name in source.names]
        if source.shape(shapes) != shape:
            file = self._where[source.names[0]][0]
            raise ConfigError(
                f"{file}: '{source.names[0]}' has the shape {shapes[0]}, which does not fit the configuration beside it"
            )

    def _read(self, name: str) -> np.ndarray:
        file, opened = self._where[name]
        try:
            return np.asarray(opened.get_tensor(name)).astype(np.float32)
        except (TypeError, AttributeError, SafetensorError) as error:  # numpy lacks the type
            raise ConfigError(f"{file}: '{name}' cannot be read: {error}; save the model in float32") from error


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:MAX_NAMED]) + more
