"""The tensors of safetensors files, which hold the weights of a model under the names of another library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes  # noqa: F401 (numpy then knows bfloat16, in which many published models are)
import numpy as np
from safetensors import SafetensorError, safe_open

from kgen.errors import ConfigError
from kgen.pretrained.section import MAX_NAMED

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """Where a weight comes from.

    Args:
        names: The tensors, which are concatenated along their first axis.
        form: "plain"; "transposed", for kernels (out, in) of dense layers; "pointwise", for the same kernels where kgen
            has a 1x1 convolution (1, 1, in, out); "convolution", for kernels (out, in, height, width), which become
            (height, width, in, out); or "patches", for a convolution of square patches, which becomes a kernel (patch *
            patch * in, out).
    """

    names: tuple[str, ...]
    form: Literal["plain", "transposed", "pointwise", "convolution", "patches"] = "plain"

    def fits(self, shapes: Sequence[Shape], wanted: Shape) -> bool:
        """Whether a weight of the shape `wanted` comes from tensors of these shapes. A number may be () or (1,)."""
        if len(shapes) == 1 and shapes[0] in ((), (1,)):
            return wanted in ((), (1,))
        if () in shapes or len({shape[1:] for shape in shapes}) > 1:
            return False
        first, rest = sum(shape[0] for shape in shapes), shapes[0][1:]
        if self.form in ("convolution", "patches"):
            kernel = (*rest[1:], *rest[:1], first)
            return len(rest) == 3 and wanted == (kernel if self.form == "convolution" else (int(np.prod(rest)), first))
        if self.form == "pointwise":
            return len(rest) == 1 and wanted == (1, 1, *rest, first)
        return wanted == ((*rest[::-1], first) if self.form == "transposed" else (first, *rest))

    def convert(self, tensor: np.ndarray) -> np.ndarray:
        """The weight, from the concatenated tensors."""
        if self.form == "convolution":
            return tensor.transpose(2, 3, 1, 0)
        if self.form == "patches":
            return tensor.transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0])
        if self.form == "pointwise":
            return tensor.T[None, None]
        return tensor.T if self.form == "transposed" else tensor

    def restore(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """The tensors by name of which a weight was made: the inverse of `convert`. They have equal shapes.

        Raises:
            ValueError: the form is "patches", of which the weight does not tell the size.
        """
        if self.form == "patches":
            raise ValueError("the size of the patches is not known")
        tensor = weight
        if self.form == "convolution":
            tensor = weight.transpose(3, 2, 0, 1)
        elif self.form == "transposed":
            tensor = weight.T
        parts = np.split(tensor, len(self.names))
        return {name: np.ascontiguousarray(part) for name, part in zip(self.names, parts, strict=True)}


class Tensors:
    """The tensors of safetensors files, which a `with` block opens.

    Args:
        files: The files.
        rename: Maps the name of a tensor in the files to its name in a `Source`, for names of earlier versions.

    Raises:
        ConfigError: a file is missing or damaged.
    """

    def __init__(self, files: Sequence[Path], rename: Callable[[str], str] = lambda name: name) -> None:
        self.files = files
        self.rename = rename
        self._stack = ExitStack()
        self._where: dict[str, tuple[Path, Any, str]] = {}

    def __enter__(self) -> Tensors:
        with ExitStack() as stack:
            for file in self.files:
                try:
                    opened = stack.enter_context(safe_open(file, framework="numpy"))
                except (OSError, SafetensorError) as error:
                    raise ConfigError(f"{file} cannot be read: {error}") from error
                for name in opened.keys():  # noqa: SIM118 (it is no mapping)
                    self._add(name, file, opened)
            self._stack = stack.pop_all()
        return self

    def _add(self, name: str, file: Path, opened: Any) -> None:
        other, _, stored = self._where.setdefault(self.rename(name), (file, opened, name))
        if (other, stored) != (file, name):
            raise ConfigError(f"{file}: '{name}' is the same tensor as '{stored}' of {other.name}: remove one of them")

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def fill(self, weights: Mapping[str, Any], sources: Mapping[str, Source], ignored: tuple[str, ...] = ()) -> None:
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

    def _check(self, source: Source, shape: Shape) -> None:
        shapes = [tuple(self._where[name][1].get_slice(self._where[name][2]).get_shape()) for name in source.names]
        if not source.fits(shapes, shape):
            raise ConfigError(
                f"{self._where[source.names[0]][0]}: '{source.names[0]}' has the shape {shapes[0]}, which does not fit "
                "the configuration beside it"
            )

    def _read(self, name: str) -> np.ndarray:
        file, opened, stored = self._where[name]
        try:
            return np.asarray(opened.get_tensor(stored)).astype(np.float32)
        except (TypeError, AttributeError, SafetensorError) as error:  # numpy lacks the type
            raise ConfigError(f"{file}: '{stored}' cannot be read: {error}; save the model in float32") from error


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:MAX_NAMED]) + more
