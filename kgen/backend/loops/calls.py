"""Turns recorded calls into one Python function without what is not needed."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

import torch

from kgen.backend.loops.recording import Call, Recording, Value, leaves, transform

Step = Callable[..., tuple[torch.Tensor, ...]]
LITERALS = (int, bool, str, type(None))
PLAIN = (*LITERALS, Value, float, torch.Size, torch.dtype, torch.device)

MAX_COMPARED = 64
"""Number of elements up to which constants are compared."""


def compiled_calls(recording: Recording, outputs: Sequence[Value | torch.Tensor], settled: bool) -> Step:
    """A function from the recording's inputs, to whose memory it may write, to its outputs.

    Args:
        settled: Whether the outputs, which are the next inputs, have the strides of the inputs.
    """
    calls, outputs = _merged(recording, outputs)
    calls = _needed(calls, recording.roots, outputs)
    calls, outputs = _without_copies(calls, recording, outputs, settled)
    return _function(calls, recording.inputs, outputs)


def _merged(recording: Recording, outputs: Sequence[Any]) -> tuple[list[Call], list[Any]]:
    """Computes each result once: calls with the same arguments share it, if nothing changes any of them."""
    written = {root for call in recording.calls for root in call.written}
    memory: dict[int, set[int | None]] = {number: {root} for number, root in enumerate(recording.roots)}
    for call in recording.calls:
        if call.function is operator.getitem:  # the memory of a tuple is that of its items
            memory[call.args[0].number] |= memory[call.result]
    same, first, kept = dict[Value, Value](), dict[Hashable, Value](), list[Call]()
    for call in recording.calls:
        args, kwargs = transform(lambda leaf: _known(same, leaf), (call.args, call.kwargs))
        call = replace(call, args=args, kwargs=kwargs)
        if not any(memory[value.number] & written for value in (Value(call.result), *call.values())):
            known = first.setdefault((call.function, *_key((args, kwargs))), Value(call.result))
            if known != Value(call.result):
                same[Value(call.result)] = known
                continue
        kept.append(call)
    return kept, [_known(same, output) for output in outputs]


def _known(same: dict[Value, Value], leaf: Any) -> Any:
    return same.get(leaf, leaf) if isinstance(leaf, Value) else leaf


def _key(nested: Any) -> tuple[Hashable, ...]:
    """Identifies arguments: small constants, literals and values by what they are, and all others as objects."""
    return repr(transform(lambda leaf: None, nested)), *map(_leaf_key, leaves(nested))


def _leaf_key(leaf: Any) -> Hashable:
    if isinstance(leaf, torch.Tensor) and leaf.numel() <= MAX_COMPARED:
        return leaf.dtype, leaf.device, tuple(leaf.shape), repr(leaf.tolist())
    return type(leaf), repr(leaf) if isinstance(leaf, PLAIN) else id(leaf)


def _needed(calls: Sequence[Call], roots: Sequence[int | None], outputs: Sequence[Any]) -> list[Call]:
    """The calls on which the outputs depend."""
    values = {output.number for output in outputs if isinstance(output, Value)}
    memory = {roots[number] for number in values}
    kept: list[Call] = []
    for call in reversed(calls):
        if call.result in values or call.written & memory:
            kept.append(call)
            values |= {value.number for value in call.values()}
            memory |= {roots[value.number] for value in call.values()}
    return kept[::-1]


def _without_copies(
    calls: Sequence[Call], recording: Recording, outputs: Sequence[Any], settled: bool
) -> tuple[list[Call], list[Any]]:
    """Removes copies of tensors that are not used afterwards: what changes the copy then changes the tensor.

    The memory of an input is changed only if the outputs, which are the next inputs, share no memory.
    """
    roots = list(recording.roots)
    last = {roots[value.number]: position for position, call in enumerate(calls) for value in call.values()}
    last |= {roots[output.number]: len(calls) for output in outputs if isinstance(output, Value)}
    owners = Counter(roots[output.number] if isinstance(output, Value) else None for output in outputs)
    private = settled and None not in owners and max(owners.values(), default=0) <= 1
    same, kept = dict[Value, Value](), list[Call]()
    for position, call in enumerate(calls):
        args, kwargs = transform(lambda leaf: _known(same, leaf), (call.args, call.kwargs))
        call = replace(call, args=args, kwargs=kwargs)
        root = roots[args[0].number] if call.copies else None
        usable = root is not None and (root >= recording.inputs or (private and root > 0))  # 0 is the loop's index
        if usable and last[root] == position:
            same[Value(call.result)] = args[0]
            last[root] = last.get(call.result, position)
            roots = [root if other == call.result else other for other in roots]
        else:
            kept.append(call)
    return kept, [_known(same, output) for output in outputs]


def _function(calls: Sequence[Call], inputs: int, outputs: Sequence[Any]) -> Step:
    """Compiles the calls as Python code, which forgets each value after its last use."""
    names: dict[str, Any] = {}

    def write(nested: Any) -> str:
        if isinstance(nested, Value):
            return f"v{nested.number}"
        if type(nested) in LITERALS:
            return repr(nested)
        if type(nested) is tuple:
            return f"({''.join(f'{write(item)}, ' for item in nested)})"
        if type(nested) is list:
            return f"[{', '.join(map(write, nested))}]"
        if type(nested) is dict:
            return f"{{{', '.join(f'{key!r}: {write(item)}' for key, item in nested.items())}}}"
        if type(nested) is slice:
            return f"slice({write(nested.start)}, {write(nested.stop)}, {write(nested.step)})"
        name = f"c{len(names)}"
        names[name] = nested
        return name

    last = {value.number: position for position, call in enumerate(calls) for value in call.values()}
    last |= {output.number: len(calls) for output in outputs if isinstance(output, Value)}
    lines = [f"def step({', '.join(f'v{i}' for i in range(inputs))}):"]
    for position, call in enumerate(calls):
        given = [*map(write, call.args), *(f"{name}={write(value)}" for name, value in call.kwargs.items())]
        lines.append(f"    v{call.result} = {write(call.function)}({', '.join(given)})")
        used = {call.result, *(value.number for value in call.values())}
        done = sorted(number for number in used if last.get(number, position) <= position)
        if done:
            lines.append(f"    del {', '.join(f'v{number}' for number in done)}")
    lines.append(f"    return {write(tuple(outputs))}")
    exec("\n".join(lines), names)
    return names["step"]  # type: ignore[no-any-return]
