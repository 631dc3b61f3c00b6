"""Records the calls of PyTorch that a function makes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

MARK = "_kgen_value"
"""Attribute of a tensor with its recording's key and the number of its value."""

METADATA = {
    getattr(torch.Tensor, name)
    for name in (
        *("dim", "ndimension", "size", "stride", "numel", "nelement", "element_size", "storage_offset", "get_device"),
        *("is_floating_point", "is_complex", "is_signed", "is_contiguous", "is_inference", "__len__", "__hash__"),
    )
} | {torch.is_floating_point, torch.is_complex, torch.numel, torch.result_type}
"""Functions whose results, which are no tensors, do not depend on values."""


COPIES = {torch.clone, torch.Tensor.clone}

MAX_CONSTANT_BYTES = 2**28
"""Memory for results that are constants in replays, such as weights in another precision. Beyond it, replays compute
them again."""


class RecordingError(Exception):
    """The calls depend on values, on random numbers, or on tensors that they change: they cannot be replayed."""


@dataclass(frozen=True)
class Value:
    """An input, or the result of a call, in place of a tensor."""

    number: int


@dataclass
class Call:
    """A call of PyTorch, whose arguments contain values in place of those tensors that may differ in a replay."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: int
    """Number of the value."""

    written: frozenset[int] = frozenset()
    """Numbers of the values that own memory that the call changes."""

    several: bool = False
    """Whether the result is a tuple of tensors."""

    copies: bool = False
    """Whether the result is a copy of the first argument, with the same strides."""

    def values(self) -> Iterator[Value]:
        return (leaf for leaf in leaves((self.args, self.kwargs)) if isinstance(leaf, Value))


class Recording(TorchFunctionMode):  # type: ignore[misc]
    """Records all calls of PyTorch in a block that depend on inputs. Results of other calls become constants.

    Attributes:
        calls: The calls.
        roots: For each value, the number of the value that owns its memory; None for memory of unknown origin.
        inputs: Number of inputs, which are the first values.
        complete: Whether no call was refused. The function may have caught the RecordingError.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.roots: list[int | None] = []
        self.inputs = 0
        self.complete = True
        self._key = object()
        self._guard = _Guard(self._check)
        self._memory: dict[int, int | None] | None = None  # of the current call's arguments, with its owner
        self._varies = False  # whether the current call depends on inputs
        self._written: set[int] = set()
        self._constant_bytes = 0

    def __enter__(self) -> Recording:
        self._guard.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._guard.__exit__(*error)

    def input(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor that may differ in a replay: the same memory in a new object. Call it before the block."""
        self.inputs += 1
        tensor = tensor.detach()
        self._mark(tensor, len(self.roots))
        return tensor

    def value(self, tensor: torch.Tensor) -> Value | torch.Tensor:
        """The value of a tensor, or the tensor itself if it does not depend on inputs."""
        key, number = getattr(tensor, MARK, (None, 0))
        return Value(number) if key is self._key else tensor

    def _refusal(self, message: str) -> RecordingError:
        self.complete = False
        return RecordingError(message)

    def _mark(self, tensor: torch.Tensor, root: int | None) -> int:
        number = len(self.roots)
        self.roots.append(root)
        setattr(tensor, MARK, (self._key, number))
        return number

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = transform(_tensor_of, (args, kwargs or {}))
        names = transform(self._value_or_same, given)
        if _picks_row(function, given[0]) and isinstance(names[0][1], Value):
            function = _row
        tensors = [leaf for leaf in leaves(given) if isinstance(leaf, torch.Tensor)]
        self._memory = {_memory(tensor): self._owner(tensor) for tensor in tensors}
        self._varies = any(isinstance(leaf, Value) for leaf in leaves(names))
        self._written = set()
        try:
            result = function(*given[0], **given[1])
            same = function is torch.Tensor.to and result is given[0][0]
            if not same and (self._varies or self._exceeds(result)):
                self._record(function, given, names, result)
        finally:
            self._memory = None
        return result

    def _value_or_same(self, leaf: Any) -> Any:
        return self.value(leaf) if isinstance(leaf, torch.Tensor) else leaf

    def _owner(self, tensor: torch.Tensor) -> int | None:
        value = self.value(tensor)
        return self.roots[value.number] if isinstance(value, Value) else None

    def _exceeds(self, result: Any) -> bool:
        """Whether there are too many constants with the result of a call."""
        if isinstance(result, torch.Tensor) and _memory(result) not in self._memory:  # type: ignore[operator]
            self._constant_bytes += result.nbytes
            return self._constant_bytes > MAX_CONSTANT_BYTES
        return False

    def _record(self, function: Callable[..., Any], given: Any, names: Any, result: Any) -> None:
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            raise self._refusal("a replay has no gradients and no automatic types")
        several = isinstance(result, tuple | list)
        tensors = list(result) if several else [result]
        if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
            if _is_metadata(function):
                return
            if result is not None:
                raise self._refusal(f"{function} returns what may depend on values")
            tensors = []
        number = len(self.roots)
        copies = function in COPIES and len(given[0]) == 1 and not given[1] and result.stride() == given[0][0].stride()
        self.calls.append(Call(function, names[0], names[1], number, frozenset(self._written), several, copies))
        if several or not tensors:
            self.roots.append(None)
        for i, tensor in enumerate(tensors):
            owner = self._memory.get(_memory(tensor), len(self.roots))  # type: ignore[union-attr]
            new = self._mark(tensor, owner)
            if several:
                self.calls.append(Call(operator.getitem, (Value(number), i), {}, new))

    def _check(self, operation: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Raises RecordingError if an operation of the current call cannot be replayed."""
        if self._memory is None:
            raise self._refusal(f"{operation} is not part of a call")
        arguments = operation._schema.arguments
        given = {argument.name: value for argument, value in zip(arguments, args, strict=False)} | kwargs
        if _is_random(operation, given):
            raise self._refusal(f"{operation} generates random numbers")
        if self._varies and _depends_on_values(operation, given):
            raise self._refusal(f"the result of {operation} depends on values")
        changed = [given.get(a.name) for a in arguments if a.alias_info is not None and a.alias_info.is_write]
        for memory in {_memory(tensor) for tensor in leaves(changed) if isinstance(tensor, torch.Tensor)}:
            owner = self._memory.get(memory, self.inputs)  # what the call creates itself can change
            if owner is None or owner < self.inputs:
                raise self._refusal(f"{operation} changes a tensor from outside")
            if memory in self._memory:
                self._written.add(owner)


class _Guard(TorchDispatchMode):  # type: ignore[misc]
    """Calls a function before each operation that PyTorch dispatches, also inside of other calls."""

    def __init__(self, check: Callable[[Any, Sequence[Any], dict[str, Any]], None]) -> None:
        super().__init__()
        self.check = check

    def __torch_dispatch__(self, operation: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        self.check(operation, args, kwargs or {})
        return operation(*args, **(kwargs or {}))


def transform(function: Callable[[Any], Any], nested: Any) -> Any:
    """Applies a function to all leaves of nested tuples, lists, dicts and slices."""
    kind = type(nested)
    if kind in (tuple, list):
        return kind(transform(function, item) for item in nested)
    if kind is dict:
        return {key: transform(function, item) for key, item in nested.items()}
    if kind is slice:
        return slice(*(transform(function, item) for item in (nested.start, nested.stop, nested.step)))
    return function(nested)


def leaves(nested: Any) -> list[Any]:
    """The leaves of nested tuples, lists, dicts and slices."""
    found: list[Any] = []
    transform(found.append, nested)
    return found


def _tensor_of(leaf: Any) -> Any:
    return leaf.value if isinstance(leaf, keras.Variable) else leaf


def _memory(tensor: torch.Tensor) -> int:
    """Identifies the memory of a tensor; all tensors without elements have the same."""
    return tensor.untyped_storage().data_ptr()  # type: ignore[no-any-return]


def _is_random(operation: Any, given: dict[str, Any]) -> bool:
    """Whether the result depends on PyTorch's random numbers; that of attention does not, without dropout."""
    rates = [given.get(a.name, a.default_value) for a in operation._schema.arguments if a.name == "dropout_p"]
    return torch.Tag.nondeterministic_seeded in operation.tags and rates != [0.0]


def _depends_on_values(operation: Any, given: dict[str, Any]) -> bool:
    """Whether the result is not a tensor, or its shape depends on values."""
    if operation is torch.ops.aten.index.Tensor:  # only a mask makes the shape depend on values
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in given["indices"])
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(operation.tags))


def _is_metadata(function: Callable[..., Any]) -> bool:
    return function in METADATA or getattr(function, "__name__", "") == "__get__"


def _picks_row(function: Callable[..., Any], args: Sequence[Any]) -> bool:
    """Whether a call is ``x[i]`` with a scalar tensor i, whose value PyTorch would read."""
    if function is not torch.Tensor.__getitem__ or not isinstance(args[1], torch.Tensor):
        return False
    return args[1].dim() == 0 and not args[1].is_floating_point() and args[1].dtype != torch.bool


def _row(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``x[index]`` without reading the value of the index."""
    return x[index.reshape(1).long()].squeeze(0)
